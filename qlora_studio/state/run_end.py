"""Why a run stands still, in words, and what a person can do about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from qlora_studio.memory.compiling import keeps_dequantized
from qlora_studio.runs.folder import Run
from qlora_studio.runs.less_memory import HELD, WAYS


class Action(Enum):
    """What the banner offers."""

    CHAT = "chat"
    EXPORT = "export"
    RESUME = "resume"
    HALF_RATE = "half_rate"  # a new run with half the learning rate
    RECOMPUTE = "recompute"  # resumed, with all layers recomputed and no weights kept dequantized
    HALF_ROWS = "half_rows"  # resumed, with half the rows at once, twice as many times
    EIGHT_BIT = "eight_bit"  # resumed, with the 8-bit paged optimizer
    WITHOUT_ROWS = "without_rows"  # resumed, without the rows that took most
    LOG = "log"


RESUMING = frozenset({Action.RESUME, *map(Action, WAYS)})  # the run itself goes on


@dataclass(frozen=True)
class Ending:
    """One banner. tone: ok | warn | bad | accent.

    at_pause: where Pause was, Resume stands; the banner needs no button for it
    rows:     how many a run that goes on without them leaves out
    dequantized: whether it kept weights so, which it doesn't where it is resumed with all layers recomputed
    """

    tone: str
    words: str
    actions: tuple[Action, ...] = ()
    at_pause: bool = False
    rows: int = 0
    dequantized: bool = False


def ending(run: Run, resume_step: int | None, died: str = "", is_first: bool = False) -> Ending | None:
    """None while it trains.

    resume_step: of the newest sound checkpoint, 0 for the start; None where it isn't verified, or isn't sound
    died:        how the engine ended, where it ended by itself just now
    is_first:    no adapter was made before it
    """
    state = run.state
    match state.state:
        case "running":
            return None
        case "finished" if is_first:
            return _with_result(run, f"Your first {'adapter' if run.model is None else 'model'} is ready")
        case "finished":
            return _with_result(run, f"Finished at step {state.step:,}")
        case "stopped":
            stopped = _with_result(run, f"Stopped at step {state.step:,}, saved")
            return (
                replace(stopped, actions=(*stopped.actions, Action.RESUME), at_pause=True)
                if left(run)
                else stopped
            )
        case "paused" if not state.cause:
            return Ending("warn", _paused(run), (Action.RESUME,), at_pause=True)
        case "interrupted":
            return Ending("warn", _interrupted(run, resume_step, died), (Action.RESUME, Action.LOG))
        case _:
            return _failed(run, resume_step)


def left(run: Run) -> int:
    """Updates that it was to make and has not made."""
    return max((run.state.total_steps or run.record.prepared.steps) - run.state.step, 0)


def changes_for(action: Action, run: Run) -> dict[str, Any]:
    """Settings of a new run: dotted key -> value; empty where the action changes nothing of this run's."""
    training = run.record.config.training
    if action is Action.HALF_RATE:
        return {"training.learning_rate": training.learning_rate / 2}
    return {}


def _paused(run: Run) -> str:
    device = "the GPU" if run.record.device == "cuda" else "the machine"
    step = run.state.step
    if not step:
        return f"Paused before the first step, {device} is free. Nothing is learned yet."
    return f"Paused at step {step:,}, {device} is free. Resumed, it is as if it never stopped."


def _failed(run: Run, resume_step: int | None) -> Ending:
    state = run.state
    hint = "" if state.ways else state.hint  # the buttons say it
    words = f"{_parted(state.message)[0]} {hint}".strip() or f"The run failed at step {state.step:,}."
    if resume_step:
        words += f" Step {resume_step:,} is sound."
    if state.cause == "out_of_memory":
        ways = tuple(Action(way) for way in WAYS if way in state.ways)
        plain = () if Action.RECOMPUTE in ways else (Action.RESUME,)  # as the engine resumes it by itself
        log = () if ways else (Action.LOG,)  # which tells no more of it
        kept = run.record.device == "cuda" and keeps_dequantized("", run.record.config)  # of most families
        return Ending("bad", words, (*ways, *plain, *log), rows=len(state.rows), dequantized=kept)
    if state.cause == "non_finite":
        return Ending("bad", words, (Action.HALF_RATE, Action.RESUME, Action.LOG))
    return Ending("bad", words, (Action.RESUME, Action.LOG))


def autopsy(run: Run) -> str:
    """Of a run that ran out of memory: what was held, and by which rows; empty where that isn't known."""
    return _parted(run.state.message)[1] if run.state.cause == "out_of_memory" else ""


def _parted(message: str) -> tuple[str, str]:
    """What happened, and the sentences on what was held."""
    said, held, more = message.partition(f" {HELD}")
    return said, f"{held}{more}".strip()


def _interrupted(run: Run, resume_step: int | None, died: str) -> str:
    step = run.state.step
    what = f"The engine ended at step {step:,} ({died})." if died else f"Interrupted at step {step:,}."
    if resume_step == 0:
        return f"{what} No checkpoint was saved before: resumed, it begins at its start."
    return f"{what} Nothing before step {resume_step:,} is lost." if resume_step else what


def _with_result(run: Run, words: str) -> Ending:
    """How far the evaluation loss came down; a run that made it worse is no success."""
    first, last = run.state.first_evaluation_loss, run.state.evaluation_loss
    has_result = run.adapter is not None or run.model is not None
    actions = (Action.CHAT, Action.EXPORT) if has_result else (Action.LOG,)
    if last is None:
        return Ending("ok", f"{words}.", actions)
    if first is None:
        return Ending("ok", f"{words}: evaluation loss {last:.3f}.", actions)
    words = f"{words}: evaluation loss {first:.3f} before, {last:.3f} now"
    if last <= first:
        return Ending("ok", f"{words}.", actions)
    return Ending("warn", f"{words}. It rose: {_best(run, first)}.", actions)


def _best(run: Run, first: float) -> str:
    best, step = run.state.best_evaluation_loss, run.state.best_step
    if not step or best is None or best >= first:
        return "the best was before training"
    return f"the best was {best:.3f} at step {step:,}"
