"""Runs that differ in one thing, made one after another: the list, how far it is, and what came out.

One file, whole or as it was before, so that a sweep goes on where it was left.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from qlora_studio.config.run_config import RunConfig
from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import read_file, write_file_durably
from qlora_studio.runs.folder import open_run
from qlora_studio.runs.metrics import read_metrics
from qlora_studio.runs.space import saving
from qlora_studio.svg_chart import Series, line_chart

SCHEMA_VERSION = 1
SWEEP_FILE = "sweep.json"
_LARGEST = 10_000_000  # bytes
# Student's t at 97.5 % for 1, 2, ... degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_T_MORE = 2.2  # for more of them: 2.201 at eleven, and smaller


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One run. changes: dotted key -> value; run: its folder, empty before it was made.

    parameters: that it trains
    """

    label: str
    seed: int
    changes: dict[str, Any]
    parameters: int = 0
    run: str = ""


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """axis: the key whose values are numbers at even ratios, such as lora.r; empty where there is none."""

    schema_version: int = SCHEMA_VERSION
    title: str
    config: RunConfig
    points: tuple[Point, ...]
    axis: str = ""
    runs_dir: str = ""
    accept_skipped: bool = False

    @property
    def labels(self) -> list[str]:
        """Each once, in order."""
        return list(dict.fromkeys(point.label for point in self.points))

    def name_of(self, point: Point) -> str:
        """What its run is called."""
        return f"{self.title} {point.label} seed {point.seed}"


@dataclass(frozen=True)
class Found:
    """What a point's run has measured so far. losses: step -> evaluation loss, nats a token.

    state:  as in RunState, or "waiting"
    tokens: that its last loss is the mean of
    """

    point: Point
    state: str
    losses: dict[int, float]
    peak_bytes: int = 0
    seconds: float = 0.0
    tokens: int = 0

    @property
    def loss(self) -> float | None:
        """Of the last evaluation of a finished run."""
        return self.losses[max(self.losses)] if self.state == "finished" and self.losses else None


@dataclass(frozen=True)
class Row:
    """All seeds of a label that are finished.

    loss:       mean evaluation loss; None where none is finished
    error:      half of its 95 % interval over the seeds (Student's t); None with fewer than two
    less:       loss less that of the first label, at the same seeds; None for the first
    less_error: half of the 95 % interval of that
    comparable: False where a loss is over other tokens than that of the first label at its seed
    """

    label: str
    finished: int
    runs: int
    loss: float | None
    error: float | None
    less: float | None
    less_error: float | None
    parameters: int
    peak_bytes: int
    seconds: float
    comparable: bool = True


def read_sweep(folder: Path) -> Sweep:
    """Raises: StudioError where there is none, or it can't be read."""
    path = folder / SWEEP_FILE
    try:
        sweep = msgspec.json.decode(read_file(path, _LARGEST), type=Sweep)
    except (OSError, msgspec.DecodeError) as error:
        raise StudioError(f"{path} can't be read as a sweep: {error}") from error
    if sweep.schema_version > SCHEMA_VERSION:
        raise StudioError(f"{path} was written by a newer version.", hint="Update QLoRA Studio.")
    return sweep


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Raises: StudioError where the disk refuses."""
    with saving("the sweep", folder / SWEEP_FILE):
        folder.mkdir(parents=True, exist_ok=True)
        write_file_durably(folder / SWEEP_FILE, msgspec.json.encode(sweep))


def with_run(sweep: Sweep, place: int, run: str) -> Sweep:
    """The point at `place` has its run folder."""
    points = list(sweep.points)
    points[place] = msgspec.structs.replace(points[place], run=run)
    return msgspec.structs.replace(sweep, points=tuple(points))


def found(sweep: Sweep) -> list[Found]:
    """Of every point, as its run folder has it. Raises: StudioError where one can't be read."""
    return [_found(point) for point in sweep.points]


def unfinished(results: Sequence[Found]) -> list[int]:
    """Places of the runs to be made, in this order: those that failed come last, and block no other."""
    places = [place for place, item in enumerate(results) if item.state != "finished"]
    return sorted(places, key=lambda place: results[place].state == "failed")


def table(sweep: Sweep, results: Sequence[Found]) -> list[Row]:
    """A row for each label, in the order of the sweep."""
    first = {item.point.seed: item for item in results if item.point.label == sweep.labels[0]}
    rows = []
    for label in sweep.labels:
        own = [item for item in results if item.point.label == label]
        losses = {item.point.seed: item.loss for item in own if item.loss is not None}
        both = [
            (item, item.loss - before.loss)
            for item in own
            if (before := first.get(item.point.seed)) and item.loss is not None and before.loss is not None
        ]
        pairs = [less for item, less in both if item.tokens == first[item.point.seed].tokens]
        is_first = label == sweep.labels[0]
        rows.append(
            Row(
                label=label,
                finished=len(losses),
                runs=len(own),
                loss=statistics.fmean(losses.values()) if losses else None,
                error=half_interval(list(losses.values())),
                less=None if is_first or not pairs else statistics.fmean(pairs),
                less_error=None if is_first else half_interval(pairs),
                parameters=own[0].point.parameters,
                peak_bytes=max(item.peak_bytes for item in own),
                seconds=sum(item.seconds for item in own),
                comparable=len(pairs) == len(both),
            )
        )
    return rows


def half_interval(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of their mean, by Student's t; None with fewer than two."""
    if len(values) < 2:
        return None
    freedom = len(values) - 1
    t = _T[freedom - 1] if freedom <= len(_T) else _T_MORE
    return t * statistics.stdev(values) / math.sqrt(len(values))


def save_results(folder: Path, sweep: Sweep, results: Sequence[Found]) -> list[Path]:
    """The table as CSV, the losses as a picture; another over the axis, if any. Raises: StudioError."""
    texts = {"sweep.csv": _csv(table(sweep, results)), "losses.svg": _loss_chart(sweep, results)}
    if sweep.axis:
        texts["by_value.svg"] = _axis_chart(sweep, results)
    with saving("the results", folder):
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="")
    return [folder / name for name in texts]


def _found(point: Point) -> Found:
    if not point.run or not Path(point.run).is_dir():  # moved to the bin, it is made again
        return Found(msgspec.structs.replace(point, run=""), "waiting", {})
    run = open_run(Path(point.run))
    metrics = read_metrics(run.metrics_file)
    losses = {line.step: line.loss for line in metrics.evaluations if line.loss is not None}
    tokens = metrics.evaluations[-1].learned_tokens if metrics.evaluations else 0
    return Found(point, run.state.state, losses, run.state.peak_bytes, run.state.elapsed_s, tokens)


def _csv(rows: Iterable[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["label", "finished", "runs", "evaluation_loss", "interval", "less_first", "less_first_interval",
         "trained_parameters", "peak_bytes", "seconds"]
    )  # fmt: skip
    for row in rows:
        numbers = (row.loss, row.error, row.less, row.less_error)
        writer.writerow(
            [
                row.label,
                row.finished,
                row.runs,
                *("" if number is None else f"{number:.5f}" for number in numbers),
                row.parameters,
                row.peak_bytes,
                f"{row.seconds:.1f}",
            ]
        )
    return out.getvalue()


def _loss_chart(sweep: Sweep, results: Sequence[Found]) -> str:
    """Mean over the seeds at each step that all of a label's runs have evaluated."""
    series = []
    for label in sweep.labels:
        curves = [item.losses for item in results if item.point.label == label and item.losses]
        steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
        points = [(float(step), statistics.fmean(curve[step] for curve in curves)) for step in steps]
        series.append(Series(label, points))
    return line_chart(sweep.title, "update", "evaluation loss, nats a token", series)


def _axis_chart(sweep: Sweep, results: Sequence[Found]) -> str:
    """A line for each seed, over the values."""
    seeds = dict.fromkeys(item.point.seed for item in results)
    series = [
        Series(
            f"seed {seed}",
            [
                (float(item.point.changes[sweep.axis]), item.loss)
                for item in results
                if item.point.seed == seed and item.loss is not None
            ],
        )
        for seed in seeds
    ]
    return line_chart(sweep.title, sweep.axis, "evaluation loss, nats a token", series, log2_x=True)
