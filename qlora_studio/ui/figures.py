"""Figures as a person reads them: thousands commas, GiB and GB, hours, ages."""

from __future__ import annotations

import math
import time

THIN = "\u202f"  # a narrow space that breaks no line, before a unit

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def count(number: float) -> str:
    """2,251."""
    return f"{number:,.0f}"


def in_gib(size: float) -> str:
    """Memory, as the driver counts it: 31.2 GiB."""
    return f"{size / 2**30:,.1f}{THIN}GiB"


def in_gb(size: float) -> str:
    """Files and disks: 412 GB, 4.2 GB, 671 MB, 12 kB."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6)):
        if size >= scale:
            amount = size / scale
            places = 1 if unit == "GB" and amount < 100 else 0
            return f"{amount:,.{places}f}{THIN}{unit}"
    return f"{math.ceil(size / 1000):,}{THIN}kB"


def duration(seconds: float) -> str:
    """1 h 33 min; 31 min; 45 s."""
    if seconds < _MINUTE:
        return f"{max(0, round(seconds))}{THIN}s"
    minutes = round(seconds / _MINUTE)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}{THIN}d {hours % 24}{THIN}h"
    if hours:
        return f"{hours}{THIN}h {minutes}{THIN}min" if minutes else f"{hours}{THIN}h"
    return f"{minutes}{THIN}min"


def ago(when: float, now: float | None = None) -> str:
    """when: unix seconds."""
    seconds = (time.time() if now is None else now) - when
    if seconds < _MINUTE:
        return "just now"
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)}{THIN}min ago"
    if seconds < _DAY:
        return f"{int(seconds // _HOUR)}{THIN}h ago"
    days = int(seconds // _DAY)
    return "yesterday" if days == 1 else f"{days} days ago"


def loss(value: float | None) -> str:
    """Three decimals; a loss that isn't a number is said, never drawn as 0 (R12)."""
    if value is None:
        return "–"
    return f"{value:.3f}" if math.isfinite(value) else "not a number"


def share(part: float) -> str:
    """66 %."""
    return f"{part * 100:.0f}{THIN}%"
