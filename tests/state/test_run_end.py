"""Why a run stands still, in the words a person reads."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from qlora_studio.config.toml_file import with_changes
from qlora_studio.runs.folder import open_run
from qlora_studio.state.run_end import Action, ending
from tests.ui.example_runs import Example, make_run


@pytest.fixture
def run(home):
    def make(**fields):
        return open_run(make_run(home / "runs", Example(**{"steps": 300, "evaluate_every": 100, **fields})))

    return make


def test_a_finished_run_says_how_far_the_loss_came_down(run):
    told = ending(run(end="finished"), None)
    assert told.words == "Finished at step 300: evaluation loss 1.420 before, 1.243 now."
    assert told.actions == (Action.CHAT, Action.EXPORT)


@pytest.mark.parametrize(
    ("best", "best_step", "told"),
    [
        (4.036, 0, "It rose: the best was before training."),
        (3.512, 1_200, "It rose: the best was 3.512 at step 1,200."),
    ],
)
@pytest.mark.parametrize("end", ["finished", "stopped"])
def test_a_run_that_made_the_loss_worse_is_a_warning_that_names_the_best(run, end, best, best_step, told):
    made = run(end=end)
    losses = {"first_evaluation_loss": 4.036, "evaluation_loss": 10.813}
    state = msgspec.structs.replace(made.state, **losses, best_evaluation_loss=best, best_step=best_step)
    shown = ending(replace(made, state=state), 300)
    assert shown.tone == "warn"
    assert shown.words.endswith(f"evaluation loss 4.036 before, 10.813 now. {told}")


def test_a_stopped_run_was_saved(run):  # R4
    assert ending(run(end="stopped"), 300).words.startswith("Stopped at step 300, saved")


def test_a_stopped_run_goes_on_where_it_has_updates_left(run):
    assert ending(run(end="stopped", total_steps=400), 300).actions == (
        Action.CHAT,
        Action.EXPORT,
        Action.RESUME,
    )
    assert Action.RESUME not in ending(run(end="stopped", total_steps=300), 300).actions


@pytest.mark.parametrize(("device", "free"), [("cuda", "the GPU is free"), ("cpu", "the machine is free")])
def test_a_paused_run_leaves_its_device_free(run, device, free):
    assert free in ending(run(end="paused", device=device), 300).words


def test_an_interrupted_run_names_what_is_safe(run):  # R6
    assert (
        ending(run(end="running"), 300).words == "Interrupted at step 300. Nothing before step 300 is lost."
    )
    assert "is lost" not in ending(run(end="running"), None).words


def test_an_engine_that_died_says_how(run):  # R7
    told = ending(run(end="running"), 300, died="SIGSEGV")
    assert told.words == "The engine ended at step 300 (SIGSEGV). Nothing before step 300 is lost."
    assert told.actions == (Action.RESUME, Action.LOG)


def test_a_full_disk_pauses_and_can_go_on(run):  # R9
    message = "Could not save step 300: 1.2 GB is missing on the disk of /runs."
    told = ending(run(end="paused", cause="disk", message=message, hint="Free some space."), 200)
    assert told.words == f"{message} Free some space. Step 200 is sound."
    assert Action.RESUME in told.actions


def test_out_of_memory_offers_only_what_changes_something(run):  # R14
    failed = {"end": "failed", "cause": "out_of_memory"}
    told = ending(run(**failed, ways=("half_rows", "recompute", "without_rows"), rows=(3, 9)), 200)
    assert told.actions == (Action.RECOMPUTE, Action.HALF_ROWS, Action.WITHOUT_ROWS)
    assert told.rows == 2
    already = ending(run(**failed, ways=("half_rows", "eight_bit")), 200).actions
    assert already == (Action.HALF_ROWS, Action.EIGHT_BIT, Action.RESUME)
    assert ending(run(**failed), 200).actions == (Action.RESUME, Action.LOG)


def test_it_says_whether_weights_are_kept_dequantized_no_more(run):
    made = run(end="failed", cause="out_of_memory", ways=("recompute",))
    config = with_changes(made.record.config, {"training.keep_dequantized": True})
    on_card = msgspec.structs.replace(made.record, config=config, device="cuda")
    on_processor = msgspec.structs.replace(on_card, device="cpu")
    assert ending(replace(made, record=on_card), 200).dequantized
    in_fp8 = msgspec.structs.replace(on_card, config=with_changes(config, {"training.fp8": True}))
    assert not ending(replace(made, record=on_processor), 200).dequantized
    assert not ending(replace(made, record=in_fp8), 200).dequantized
    assert not ending(made, 200).dequantized


def test_losses_that_are_no_number_offer_a_lower_rate_first(run):  # R12
    told = ending(run(end="failed", cause="non_finite", message="Not a number 3 times."), 200)
    assert told.actions[0] is Action.HALF_RATE
