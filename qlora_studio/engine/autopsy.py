"""What a run was at when memory ran out: which phase, what was held, and the rows that were computed."""

from __future__ import annotations

from types import CodeType

from qlora_studio.data.packing import plan_epoch
from qlora_studio.engine import training
from qlora_studio.engine.prepared_run import PreparedRun
from qlora_studio.memory.correction import EXACT, estimated_bytes

_MOST_ROWS = 4  # that are named, the longest first
_PHASES: dict[CodeType, str] = {
    training._step.__code__: "at step {next}",
    training._evaluate.__code__: "in the evaluation after step {step}",
    training._save.__code__: "while saving step {step}",
    training._sample.__code__: "while replying to the prompts after step {step}",
    training._write_adapter.__code__: "while writing the adapter",
}


def phase_of(error: BaseException, step: int) -> str | None:
    """In words, by where in the loop it was raised; None before and after it. step: the last one made."""
    code = _code_of_phase(error)
    return _PHASES[code].format(step=f"{step:,}", next=f"{step + 1:,}") if code else None


def autopsy_words(error: BaseException, run: PreparedRun) -> str:
    """Sentences on what was held and, in a step, on its rows. Looked at before anything is freed."""
    said = [_held(run)]
    if _code_of_phase(error) is training._step.__code__:
        said.append(_rows(run))
    return " ".join(filter(None, said))


def _code_of_phase(error: BaseException) -> CodeType | None:
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code in _PHASES:
            return frame.tb_frame.f_code
        frame = frame.tb_next
    return None


def _held(run: PreparedRun) -> str:
    """By part, with what was promised of the part that grew: all that isn't counted from tensors."""
    held = run.memory.peak_by_part()
    parts = ", ".join(f"{name} {_gib(held[name])}" for name in EXACT)
    promised = run.record.promise_bytes
    of_it = f", promised were {_gib(estimated_bytes(promised))}" if promised else ""
    return f"Held were {parts}, and for the computation {_gib(estimated_bytes(held))} GiB{of_it}."


def _rows(run: PreparedRun) -> str:
    """Of the update in hand: the micro-batch with the most tokens."""
    config, position = run.config, run.position
    lengths = run.rows.train.lengths
    plan = plan_epoch(
        lengths,
        seq_len=config.data.seq_len,
        packing=config.data.packing,
        seed=config.training.seed,
        epoch=position.epoch,
        batch_size=config.training.batch_size,
        accumulation=config.training.gradient_accumulation,
    )
    if position.update >= len(plan):
        return ""
    batches = [[row for pack in batch for row in pack] for batch in plan[position.update].micro_batches]
    rows = max(batches, key=lambda batch: sum(int(lengths[row]) for row in batch))
    longest = sorted(rows, key=lambda row: int(lengths[row]), reverse=True)[:_MOST_ROWS]
    named = ", ".join(f"{row + 1:,} ({int(lengths[row]):,} tokens)" for row in longest)
    if len(rows) == 1:
        return f"Its largest batch was training row {named}."
    return f"Its largest batch had {len(rows):,} rows, the longest of them training rows {named}."


def _gib(count: int) -> str:
    return f"{count / 2**30:,.2f}"
