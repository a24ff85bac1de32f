"""Which adapter a run is known by."""

from __future__ import annotations

from pathlib import Path

from qlora_studio.engine.trained_model import newest_result
from qlora_studio.engine.wish import Wish
from qlora_studio.runs.folder import open_run
from tests.engine.tiny import events_of, make_model, make_rows, make_run


def test_of_a_run_that_went_on_after_a_stop_it_is_the_newest_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_model(tmp_path / "model"), make_rows(6), training__steps=6)

    events_of(run, Wish.STOP, after_step=2)
    assert newest_result(open_run(run)) == (run / "adapter", 2)
    events_of(run, Wish.PAUSE, after_step=2)
    assert newest_result(open_run(run)) == (run / "checkpoints" / "step-000004", 4)
    events_of(run)
    assert newest_result(open_run(run)) == (run / "adapter", 6)
