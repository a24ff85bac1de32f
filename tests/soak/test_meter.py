"""Whether a soak's figures grow is said rightly: of a leak, of noise, and of engines that come and go."""

from __future__ import annotations

import random
from pathlib import Path

from tests.soak.meter import Growth, Reading, growths, read_csv, write_csv

ROUNDS = 40


def reading(round_: int, at_rest: bool = True, **figures: int) -> Reading:
    """Everything that isn't named stays as it is."""
    usual = {
        "window_rss": 200_000_000,
        "window_own": 150_000_000,
        "window_threads": 18,
        "window_handles": 23,
        "widgets": 1_800,
        "objects": 5_000,
        "children": 3,
        "engine_pid": 7,
        "engine_rss": 1_300_000_000,
        "engine_own": 1_200_000_000,
        "engine_threads": 7,
        "engine_handles": 5,
    }
    return Reading(seconds=round_ * 60.0, round=round_, at_rest=int(at_rest), **{**usual, **figures})


def found(readings: list[Reading], name: str) -> Growth:
    return next(growth for growth in growths(readings) if growth.name == name)


def test_noise_is_flat_and_a_leak_beneath_it_is_not() -> None:
    chance = random.Random(3)
    noise = [chance.randrange(-1_000_000, 1_000_000) for _ in range(ROUNDS)]
    steady = [reading(at, window_own=150_000_000 + noise[at]) for at in range(ROUNDS)]
    leaking = [reading(at, window_own=150_000_000 + noise[at] + at * 200_000) for at in range(ROUNDS)]

    assert found(steady, "window_own").flat
    growth = found(leaking, "window_own")
    assert not growth.flat
    assert abs(growth.grown - 29 * 200_000) < 1_500_000  # from the end of the warm-up on


def test_what_comes_to_its_size_at_the_start_is_no_leak() -> None:
    assert found([reading(at, window_threads=8 + min(at, 10)) for at in range(ROUNDS)], "window_threads").flat


def test_one_handle_kept_every_ten_rounds_is_found() -> None:
    assert not found(
        [reading(at, window_handles=23 + at // 10) for at in range(ROUNDS)], "window_handles"
    ).flat


def test_a_new_engine_has_a_level_of_its_own_and_growth_within_each_is_found() -> None:
    def engine(at: int, leak: int) -> Reading:
        level = 1_200_000_000 + (300_000_000 if at >= 25 else 0)
        return reading(at, engine_pid=7 + (at >= 25), engine_own=level + leak * (at % 25))

    assert found([engine(at, 0) for at in range(ROUNDS)], "engine_own").flat
    assert not found([engine(at, 2_000_000) for at in range(ROUNDS)], "engine_own").flat


def test_readings_amid_the_work_do_not_count() -> None:
    amid = [reading(at, at_rest=False, window_own=150_000_000 + at * 9_000_000) for at in range(ROUNDS)]
    assert found([*amid, *(reading(at) for at in range(ROUNDS))], "window_own").flat


def test_two_readings_say_nothing() -> None:
    assert not any(growth.flat for growth in growths([reading(0), reading(1)]))


def test_a_file_of_readings_is_read_as_it_was_written(tmp_path: Path) -> None:
    readings = [reading(1), reading(2, at_rest=False)]
    write_csv(readings, tmp_path / "soak.csv")
    assert read_csv(tmp_path / "soak.csv") == readings
