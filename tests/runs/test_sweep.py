"""A sweep: its list on the disk, what its runs have measured, one table and one picture."""

from __future__ import annotations

import csv
import dataclasses

import msgspec
import pytest

from qlora_studio.config.run_config import RunConfig
from qlora_studio.errors import StudioError
from qlora_studio.runs.sweep import (
    Found,
    Point,
    Sweep,
    found,
    half_interval,
    read_sweep,
    save_results,
    table,
    with_run,
    write_sweep,
)
from tests.ui.example_runs import Example, make_run


def points(seeds=(0, 1, 2)) -> tuple[Point, ...]:
    return tuple(
        Point(
            label=f"r = {rank}", seed=seed, changes={"lora.r": rank, "training.seed": seed}, parameters=rank
        )
        for seed in seeds
        for rank in (8, 16)
    )


@pytest.fixture
def sweep() -> Sweep:
    return Sweep(title="Rank: tiny", config=RunConfig(), points=points(), axis="lora.r")


def results(sweep: Sweep, losses: dict[tuple[str, int], float]) -> list[Found]:
    return [
        Found(point, "finished", {10: 3.0, 20: losses[point.label, point.seed]}, peak_bytes=5, seconds=2.0)
        if (point.label, point.seed) in losses
        else Found(point, "waiting", {})
        for point in sweep.points
    ]


LOSSES = {
    ("r = 8", 0): 2.0, ("r = 8", 1): 2.2, ("r = 8", 2): 2.4,
    ("r = 16", 0): 1.9, ("r = 16", 1): 2.1, ("r = 16", 2): 2.3,
}  # fmt: skip


def test_a_label_has_its_mean_and_how_sure_it_is(sweep):
    first, second = table(sweep, results(sweep, LOSSES))
    assert (first.label, first.finished, first.parameters) == ("r = 8", 3, 8)
    assert first.loss == pytest.approx(2.2)
    assert first.error == pytest.approx(4.303 * 0.2 / 3**0.5)
    assert (first.less, first.less_error) == (None, None)
    assert second.loss == pytest.approx(2.1)


def test_labels_are_compared_at_the_same_seeds(sweep):
    _, second = table(sweep, results(sweep, LOSSES))
    assert second.less == pytest.approx(-0.1)
    assert second.less_error == pytest.approx(0, abs=1e-9)  # by as much at each seed, though these differ


def test_losses_over_other_tokens_are_not_compared(sweep):
    measured = results(sweep, LOSSES)
    other = [
        dataclasses.replace(item, tokens=86 if item.point.label == "r = 16" and item.point.seed == 1 else 5)
        for item in measured
    ]
    first, second = table(sweep, other)
    assert (first.comparable, second.comparable) == (True, False)
    assert second.less == pytest.approx(-0.1)  # of the two other seeds
    assert second.loss == pytest.approx(2.1)


def test_what_is_not_finished_counts_for_nothing(sweep):
    first, second = table(sweep, results(sweep, {("r = 8", 0): 2.0}))
    assert (first.finished, first.runs, first.loss, first.error) == (1, 3, 2.0, None)
    assert (second.finished, second.loss, second.less) == (0, None, None)


def test_one_value_has_no_interval_and_many_a_narrow_one():
    assert half_interval([1.0]) is None
    assert half_interval([1.0, 2.0]) == pytest.approx(12.706 * 0.5**0.5 / 2**0.5)
    assert half_interval([1.0, 2.0] * 50) < 0.2


def test_the_list_is_read_again_as_it_was_written(tmp_path, sweep):
    write_sweep(tmp_path / "mine", with_run(sweep, 2, "/runs/a"))
    again = read_sweep(tmp_path / "mine")
    assert [point.run for point in again.points] == ["", "", "/runs/a", "", "", ""]
    assert msgspec.structs.replace(again, points=sweep.points) == sweep


def test_what_is_no_sweep_is_refused(tmp_path):
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(StudioError, match="can't be read as a sweep"):
        read_sweep(tmp_path)


def test_a_points_run_says_what_it_measured(tmp_path, sweep):
    run = make_run(tmp_path / "runs", Example(steps=20, evaluate_every=10, end="finished"))
    measured, waiting, *_ = found(with_run(sweep, 0, str(run)))
    assert measured.state == "finished"
    assert set(measured.losses) >= {10, 20}
    assert measured.loss == measured.losses[20]
    assert (waiting.state, waiting.loss) == ("waiting", None)


def test_table_and_pictures_are_saved(tmp_path, sweep):
    files = save_results(tmp_path, sweep, results(sweep, LOSSES))
    assert [path.name for path in files] == ["sweep.csv", "losses.svg", "by_value.svg"]
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["evaluation_loss"]) for row in rows] == [
        ("r = 8", "2.20000"), ("r = 16", "2.10000"),
    ]  # fmt: skip
    assert (tmp_path / "losses.svg").read_text().count("<circle") == 4  # two labels, two evaluations
    assert (tmp_path / "by_value.svg").read_text().count("<circle") == 6
