"""Pictures of figures as SVG, for commands that have no window: lines over an axis, histograms, bars."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from xml.sax.saxutils import escape

from qlora_studio.config.places import resources_folder
from qlora_studio.plain_text import visible_line

WIDTH, HEIGHT = 830, 440  # px
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 240, 44, 52  # px around what is drawn; the names stand at the right
_LONGEST_NAME = 26  # characters
_LEVEL_NAMES = 6  # bars, at most, whose names stand level below them
# Dash and marker tell series apart where colours don't.
_DASHES = ("", "8 4", "2 3", "8 3 2 3", "14 5", "1 5")


@cache
def _colors() -> dict[str, Any]:
    """The window's on a light ground."""
    with (resources_folder() / "theme.toml").open("rb") as file:
        light: dict[str, Any] = tomllib.load(file)["light"]
    return light


@dataclass(frozen=True)
class Series:
    """A line and its name. A point that isn't finite is a gap; where `markers` is, each point is marked."""

    name: str
    points: Sequence[tuple[float, float]]
    markers: bool = True


def line_chart(
    title: str, x_label: str, y_label: str, series: Sequence[Series], *, log2_x: bool = False
) -> str:
    """The SVG. log2_x: the axis doubles at even steps, as block sizes and ranks do; x must be positive."""
    scale: Callable[[float], float] = math.log2 if log2_x else float
    found = [
        (scale(x), y)
        for line in series
        for x, y in line.points
        if math.isfinite(x) and math.isfinite(y) and not (log2_x and x <= 0)
    ]
    frame = _Frame.around(found)
    parts = [*_axes(frame, title, x_label, y_label), *_y_ticks(frame)]
    for at in _doublings(frame) if log2_x else _ticks(frame.x_low, frame.x_high):
        parts += _x_tick(frame, at, f"{2**at:,.0f}" if log2_x else _number(at))
    for place, line in enumerate(series):
        parts += _line(frame, place, line, scale)
    return _svg(parts)


def histogram(
    title: str, x_label: str, counts: Sequence[int], low: float, high: float, marks: Sequence[float]
) -> str:
    """The SVG. counts: of equal bins from `low` to `high`; marks: places to be seen among them."""
    total = sum(counts) or 1
    shares = [100 * count / total for count in counts]
    frame = _Frame(low, high, 0.0, (max(shares, default=0.0) or 1.0) * 1.08)
    parts = [*_axes(frame, title, x_label, "% of the weights"), *_y_ticks(frame)]
    for at in _ticks(low, high):
        parts += _x_tick(frame, at, _number(at))
    width = (high - low) / max(len(counts), 1)
    for place, share in enumerate(shares):
        left, right = frame.x(low + place * width), frame.x(low + (place + 1) * width)
        top = frame.y(share)
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.2f}" '
            f'height="{frame.bottom - top:.1f}" fill="{_colors()["raw_line"]}"/>'
        )
    for mark in marks:
        x = frame.x(mark)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{frame.bottom}" '
            f'stroke="{_colors()["series"][1]}" stroke-dasharray="3 3"/>'
        )
    return _svg(parts)


@dataclass(frozen=True)
class Layer:
    """A part of each bar: its name, and the color of the theme that it has in the window."""

    name: str
    color: str
    amounts: Sequence[float]


def stacked_bars(
    title: str, y_label: str, bars: Sequence[str], layers: Sequence[Layer], limit: tuple[str, float] | None
) -> str:
    """The SVG. bars: their names; layers: from below, each with an amount a bar; limit: a line across."""
    totals = [sum(layer.amounts[at] for layer in layers) for at in range(len(bars))]
    top = max([*totals, limit[1] if limit else 0.0, 1e-9])
    frame = _Frame(-0.5, max(len(bars), 1) - 0.5, 0.0, top * 1.12)
    parts = [*_axes(frame, title, "", y_label), *_y_ticks(frame)]
    for at, name in enumerate(bars):
        low = 0.0
        left, right = frame.x(at - 0.32), frame.x(at + 0.32)
        for layer in layers:
            high = low + layer.amounts[at]
            parts.append(
                f'<rect x="{left:.1f}" y="{frame.y(high):.1f}" width="{right - left:.1f}" '
                f'height="{frame.y(low) - frame.y(high):.2f}" fill="{_colors()[layer.color]}"/>'
            )
            low = high
        parts.append(_text(frame.x(at), frame.y(low) - 6, f"{low:,.1f}", 'text-anchor="middle"'))
        parts += _x_tick(frame, at, name if len(bars) <= _LEVEL_NAMES else "")
        if len(bars) > _LEVEL_NAMES:
            x, y = frame.x(at) + 4, frame.bottom + 12
            turned = f'text-anchor="end" font-size="10" transform="rotate(-32 {x:.1f} {y})"'
            parts.append(_text(x, y, name, turned))
    for place, layer in enumerate(reversed(layers)):
        y = _TOP + 12 + 20 * place
        ink = _colors()[layer.color]
        parts.append(f'<rect x="{frame.right + 12}" y="{y - 8}" width="16" height="16" fill="{ink}"/>')
        parts.append(_text(frame.right + 36, y + 4, layer.name))
    if limit:
        high, y = frame.y(limit[1]), _TOP + 12 + 20 * len(layers)
        stroke = f'stroke="{_colors()["limit"]}" stroke-width="1.5" stroke-dasharray="5 4"'
        parts.append(f'<path d="M{_LEFT} {high:.1f} H{frame.right}" {stroke}/>')
        parts.append(f'<path d="M{frame.right + 8} {y} h24" {stroke}/>')
        parts.append(_text(frame.right + 36, y + 4, limit[0]))
    return _svg(parts)


@dataclass(frozen=True)
class _Frame:
    """What the axes span, and where that lies in the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    bottom = HEIGHT - _BOTTOM
    right = WIDTH - _RIGHT

    @classmethod
    def around(cls, points: Sequence[tuple[float, float]]) -> _Frame:
        """All points with some room above and below."""
        if not points:
            return cls(0.0, 1.0, 0.0, 1.0)
        xs, ys = [x for x, _ in points], [y for _, y in points]
        room = (max(ys) - min(ys)) * 0.06 or abs(ys[0]) * 0.1 or 1.0
        wide = max(xs) - min(xs)
        side = wide * 0.03 or 0.5
        return cls(min(xs) - side, max(xs) + side, min(ys) - room, max(ys) + room)

    def x(self, value: float) -> float:
        """In px from the left."""
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (self.right - _LEFT)

    def y(self, value: float) -> float:
        """In px from the top."""
        return self.bottom - (value - self.y_low) / (self.y_high - self.y_low) * (self.bottom - _TOP)


def _svg(parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
    )
    ground = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{_colors()["surface"]}"/>'
    return "\n".join((head, ground, *parts, "</svg>", ""))


def _text(x: float, y: float, words: str, more: str = "") -> str:
    fill = _colors()["text"]
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" {more}>{escape(visible_line(words, 200))}</text>'


def _axes(frame: _Frame, title: str, x_label: str, y_label: str) -> list[str]:
    middle_x, middle_y = (_LEFT + frame.right) / 2, (_TOP + frame.bottom) / 2
    ink = _colors()["border_strong"]
    turned = f'text-anchor="middle" transform="rotate(-90 16 {middle_y:.0f})"'
    return [
        _text(_LEFT, 24, title, 'font-weight="bold" font-size="14"'),
        _text(middle_x, HEIGHT - 12, x_label, 'text-anchor="middle"'),
        _text(16, middle_y, y_label, turned),
        f'<path d="M{_LEFT} {_TOP} V{frame.bottom} H{frame.right}" fill="none" stroke="{ink}"/>',
    ]


def _y_ticks(frame: _Frame) -> list[str]:
    parts, ink = [], _colors()["grid"]
    for at in _ticks(frame.y_low, frame.y_high):
        y = frame.y(at)
        parts.append(f'<line x1="{_LEFT}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{ink}"/>')
        parts.append(_text(_LEFT - 6, y + 4, _number(at), 'text-anchor="end"'))
    return parts


def _x_tick(frame: _Frame, at: float, words: str) -> list[str]:
    x, ink = frame.x(at), _colors()["border_strong"]
    return [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{frame.bottom}" y2="{frame.bottom + 4}" stroke="{ink}"/>',
        _text(x, frame.bottom + 18, words, 'text-anchor="middle"'),
    ]


def _line(frame: _Frame, place: int, line: Series, scale: Callable[[float], float]) -> list[str]:
    series = _colors()["series"]
    color, dash = series[place % len(series)], _DASHES[(place + place // len(series)) % len(_DASHES)]
    parts, pieces, begun = [], list[str](), False
    last: tuple[float, float] | None = None
    for x, y in line.points:
        if not (math.isfinite(x) and math.isfinite(y)):
            begun = False
            continue
        last = frame.x(scale(x)), frame.y(y)
        pieces.append(f"{'L' if begun else 'M'}{last[0]:.1f} {last[1]:.1f}")
        begun = True
        if line.markers:
            parts.append(f'<circle cx="{last[0]:.1f}" cy="{last[1]:.1f}" r="3" fill="{color}"/>')
    stroke = f'stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"'
    parts.insert(0, f'<path d="{" ".join(pieces)}" fill="none" {stroke}/>')
    y = _TOP + 12 + 20 * place
    parts.append(f'<path d="M{frame.right + 12} {y} h26" fill="none" {stroke}/>')
    name = line.name if len(line.name) <= _LONGEST_NAME else f"{line.name[: _LONGEST_NAME - 1]}…"
    parts.append(_text(frame.right + 44, y + 4, name))
    return parts


def _doublings(frame: _Frame) -> list[float]:
    return [float(at) for at in range(math.ceil(frame.x_low), math.floor(frame.x_high) + 1)]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about five."""
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first = math.ceil(low / step)
    return [step * place for place in range(first, math.floor(high / step) + 1)]


def _number(value: float) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:,.4g}"
