"""The kill loop of a real window and its engine, shortened."""

from pathlib import Path

import pytest

from tests.faults.kill_loop import kill_loop
from tests.journey.conftest import sample_home, smollm2

__all__ = ["sample_home", "smollm2"]


@pytest.mark.fault(1)
@pytest.mark.fault(3)
@pytest.mark.slow_fault
@pytest.mark.timeout(1800)
def test_kills_of_window_and_engine_lose_no_more_than_an_interval(  # R1, R3, R4, R7
    sample_home: Path, tmp_path: Path
) -> None:
    found = kill_loop(tmp_path, kills=10, steps=40, seed=3)

    assert found.counts["engine"] and found.counts["window"]
    assert found.looked_at
