"""What a window and its engine take, reading after reading, and whether that grows."""

from __future__ import annotations

import csv
import dataclasses
import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PySide6.QtWidgets import QApplication

# A reading at rest comes after whole rounds of the same work, so what is still taken then was kept.
WARM_UP = 0.25  # of the readings at rest: pages, pools of threads and caches come to their size
SURE = 1.96  # standard errors on each side of a growth: 95 %
LEAST_SHARE = 0.01  # of memory or widgets; a growth below it during a whole soak is no leak worth the name
LEAST_COUNT = 1.0  # threads, handles, processes
LEAST_OBJECTS = 0.05  # of Python's objects: names of runs that were, notices that can be undone


@dataclass(frozen=True)
class Reading:
    """Bytes and counts at one moment; of the engine 0 where there is none.

    at_rest: after a round, its garbage collected, nothing under way
    rss:     what lies in memory
    own:     of it, without pages of files. (USS also takes those that no other program has open just now,
             and so moves with what others do.)
    """

    seconds: float
    round: int
    at_rest: int
    window_rss: int
    window_own: int
    window_threads: int
    window_handles: int
    widgets: int
    objects: int  # that Python's garbage collector knows, but for those loaded at the start and readings
    children: int  # processes, the engine and the readers among them
    engine_pid: int
    engine_rss: int
    engine_own: int
    engine_threads: int
    engine_handles: int


@dataclass(frozen=True)
class Growth:
    """Of one figure, from the end of the warm-up to the last reading at rest: a line through these readings.

    noise: SURE standard errors of the growth
    flat:  the growth is within the noise, or too small to matter
    """

    name: str
    level: float
    grown: float
    noise: float
    flat: bool


def read(seconds: float, round_: int, at_rest: bool, kept: int) -> Reading:
    """The window is this process, the engine a child of it. kept: readings that are there already"""
    if at_rest:
        gc.collect()
    window = psutil.Process()
    rss, own, threads, handles = _of(window)
    children = window.children(recursive=True)
    engine, of_engine = 0, (0, 0, 0, 0)
    for child in children:
        try:
            if "qlora_studio.engine" in child.cmdline():
                engine, of_engine = child.pid, _of(child)
        except psutil.Error:  # it ended just now
            continue
    return Reading(
        seconds=round(seconds, 1),
        round=round_,
        at_rest=int(at_rest),
        window_rss=rss,
        window_own=own,
        window_threads=threads,
        window_handles=handles,
        widgets=len(QApplication.allWidgets()),
        objects=len(gc.get_objects()) - kept,
        children=len(children),
        engine_pid=engine,
        engine_rss=of_engine[0],
        engine_own=of_engine[1],
        engine_threads=of_engine[2],
        engine_handles=of_engine[3],
    )


def _of(process: psutil.Process) -> tuple[int, int, int, int]:
    memory = process.memory_info()
    shared = getattr(memory, "shared", None)  # Linux tells it
    own = memory.rss - shared if shared is not None else process.memory_full_info().uss
    handles = process.num_handles() if psutil.WINDOWS else process.num_fds()
    return memory.rss, own, process.num_threads(), handles


def growths(readings: Sequence[Reading]) -> list[Growth]:
    """Of each figure. Engines came and went: each has a level of its own, and all have one slope."""
    rest = [reading for reading in readings if reading.at_rest]
    rest = rest[math.ceil(len(rest) * WARM_UP) :]
    names = [field.name for field in dataclasses.fields(Reading)][3:]
    return [
        _growth(name, [reading for reading in rest if reading.engine_pid or not name.startswith("engine_")])
        for name in names
        if name != "engine_pid"
    ]


def _growth(name: str, rest: Sequence[Reading]) -> Growth:
    values = np.array([getattr(reading, name) for reading in rest], float)
    seconds = np.array([reading.seconds for reading in rest])
    level = float(values.mean()) if values.size else 0.0
    groups = np.array([reading.engine_pid if name.startswith("engine_") else 0 for reading in rest])
    for group in set(groups.tolist()):
        ours = groups == group
        values[ours] -= values[ours].mean()
        seconds[ours] -= seconds[ours].mean()
    spread = float(seconds @ seconds)
    freedom = len(rest) - len(set(groups.tolist())) - 1
    if freedom < 1 or spread == 0:
        return Growth(name, level, 0.0, math.inf, flat=False)  # too few readings to say
    slope = float(seconds @ values) / spread
    left_over = values - slope * seconds
    error = math.sqrt(float(left_over @ left_over) / freedom / spread)
    duration = rest[-1].seconds - rest[0].seconds
    grown, noise = slope * duration, SURE * error * duration
    return Growth(name, level, grown, noise, flat=grown <= max(noise, _least(name, level)))


def _least(name: str, level: float) -> float:
    if name.endswith(("rss", "own")) or name == "widgets":
        return LEAST_SHARE * level
    return LEAST_OBJECTS * level if name == "objects" else LEAST_COUNT


def words(growth: Growth) -> str:
    """One line of the report."""
    if growth.name.endswith(("rss", "own")):
        figures = f"{growth.level / 1e6:8.1f} MB {growth.grown / 1e6:+7.2f} ± {growth.noise / 1e6:.2f} MB"
    else:
        figures = f"{growth.level:8,.1f}    {growth.grown:+7.2f} ± {growth.noise:.2f}"
    return f"{growth.name:<16} {figures:<40} {'flat' if growth.flat else 'GROWS'}"


def write_csv(readings: Sequence[Reading], file: Path) -> None:
    """One line a reading, under the names of its figures."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in dataclasses.fields(Reading)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(reading) for reading in readings)


def read_csv(file: Path) -> list[Reading]:
    """What `write_csv` wrote."""
    with file.open(encoding="utf-8", newline="") as stream:
        return [
            Reading(seconds=float(row.pop("seconds")), **{name: int(text) for name, text in row.items()})
            for row in csv.DictReader(stream)
        ]
