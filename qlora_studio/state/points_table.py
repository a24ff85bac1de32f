"""The points of a run as a table: for a file, and for who reads numbers rather than curves."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qlora_studio.errors import StudioError
from qlora_studio.state.curves import Points

_AT_ONCE = 10_000  # rows


def write_csv(points: Points, first: int, last: int, path: Path) -> Path:
    """Places first .. last - 1, one line a step; a loss that isn't a number is written as nan (R12).

    Raises: StudioError; a file that was there is then as it was.
    """
    staging = path.with_name(f".{path.name}.new")
    try:
        with staging.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(_header(points))
            for start in range(first, last, _AT_ONCE):
                writer.writerows(_rows(points, start, min(start + _AT_ONCE, last)))
        staging.replace(path)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise StudioError(f"{path} could not be saved: {error.strerror}.") from error
    return path


def _header(points: Points) -> list[str]:
    return [
        *("step", "elapsed_s", "loss", "smoothed_loss", "evaluation_loss", "learning_rate", "grad_norm"),
        *("tokens_per_second", *(f"memory_{part}_bytes" for part in points.memory)),
        *("other_programs_bytes", "optimizer_in_ram_bytes", "right_answers", "answers_asked"),
    ]


def _rows(points: Points, first: int, last: int) -> Iterator[tuple[Any, ...]]:
    steps = points.steps[first:last].tolist()
    evaluations = {line.step: line.loss for line in points.evaluations}
    answers = {line.step: (line.right, line.questions) for line in points.counted}
    return zip(
        steps,
        points.elapsed_s[first:last].tolist(),
        points.loss[first:last].tolist(),
        points.smoothed[first:last].tolist(),
        (_written(evaluations[step]) if step in evaluations else "" for step in steps),
        points.learning_rate[first:last].tolist(),
        points.grad_norm[first:last].tolist(),
        points.tokens_per_second[first:last].tolist(),
        *(part[first:last].tolist() for part in points.memory.values()),
        points.others[first:last].astype("int64").tolist(),
        points.in_ram[first:last].astype("int64").tolist(),
        (answers.get(step, ("", ""))[0] for step in steps),
        (answers.get(step, ("", ""))[1] for step in steps),
        strict=True,
    )


def _written(loss: float | None) -> float:
    return math.nan if loss is None else loss
