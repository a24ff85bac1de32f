"""What a run was at when memory ran out: which phase, what was held, and the rows that were computed."""

from __future__ import annotations

from types import CodeType

from qlora_studio.engine import training
from qlora_studio.engine.pinned_memory import PinnedMemoryError
from qlora_studio.engine.prepared_run import PreparedRun
from qlora_studio.memory.correction import EXACT, computes_padding, estimated_bytes
from qlora_studio.runs.less_memory import HELD, Way, ways_for

_MOST_ROWS = 4  # that are named, the longest first
_PHASES: dict[CodeType, str] = {
    training._step.__code__: "at step {next}",
    training._evaluate.__code__: "in the evaluation after step {step}",
    training._save.__code__: "while saving step {step}",
    training._sample.__code__: "while replying to the prompts after step {step}",
    training._write_adapter.__code__: "while writing the adapter",
    training._write_model.__code__: "while writing the model",
}


def phase_of(error: BaseException, step: int) -> str | None:
    """In words, by where in the loop it was raised; None before and after it. step: the last one made."""
    code = _code_of_phase(error)
    return _PHASES[code].format(step=f"{step:,}", next=f"{step + 1:,}") if code else None


def autopsy_words(error: BaseException, run: PreparedRun) -> str:
    """Sentences on what was held and, in a step, on its rows. Looked at before anything is freed."""
    said = [] if isinstance(error, PinnedMemoryError) else [_held(run)]  # that is the card's
    if _code_of_phase(error) is training._step.__code__:
        said.append(_rows(run))
    return " ".join(filter(None, said))


def ways_out(error: BaseException, run: PreparedRun) -> tuple[tuple[Way, ...], tuple[int, ...]]:
    """What would take less memory, and the rows that the run could go on without."""
    in_a_step = _code_of_phase(error) is training._step.__code__
    rows = _too_long(run) if in_a_step else ()
    recomputed = run.setup.recomputed >= run.layers and not run.setup.keeps_dequantized
    ways = ways_for(run.record, run.less, recomputed=recomputed, rows=rows)
    if isinstance(error, PinnedMemoryError):  # neither the optimizer nor what a layer keeps lies there
        ways = tuple(way for way in ways if way not in ("eight_bit", "recompute"))
    return ways, rows


def _too_long(run: PreparedRun) -> tuple[int, ...]:
    """The longest rows of the batch, until what is left of it is no more than what was computed before. At
    least one. None where no row of the run would be left without them and all of their number (pieces of one
    text have the same), or where padding makes all batches alike.
    """
    if computes_padding(run.config, run.device.kind):
        return ()
    batch = _largest_batch(run)
    tokens = sum(length for _, length in batch)
    most = run.largest_batch or tokens - 1
    rows = set[int]()
    for row, length in batch:
        if tokens <= most:
            break
        rows.add(row)
        tokens -= length
    left_out = {*run.less.left_out, *rows}
    return tuple(sorted(rows)) if len(run.rows.train.places_of(left_out)) < len(run.rows.train) else ()


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
    return f"{HELD} {parts}, and for the computation {_gib(estimated_bytes(held))} GiB{of_it}."


def _rows(run: PreparedRun) -> str:
    batch = _largest_batch(run)
    if not batch:
        return ""
    named = ", ".join(f"{row + 1:,} ({tokens:,} tokens)" for row, tokens in batch[:_MOST_ROWS])
    if len(batch) == 1:
        return f"Its largest batch was training row {named}."
    return f"Its largest batch had {len(batch):,} rows, the longest of them training rows {named}."


def _largest_batch(run: PreparedRun) -> list[tuple[int, int]]:
    """Of the update in hand: rows of the micro-batch with the most tokens, as the data set numbers them, and
    their tokens. The longest first.
    """
    position, rows = run.position, run.rows.train
    plan = run.plan(position.epoch)
    if position.update >= len(plan):
        return []
    batches = [[row for pack in batch for row in pack] for batch in plan[position.update].micro_batches]
    largest = max(batches, key=lambda batch: sum(int(rows.lengths[row]) for row in batch), default=[])
    longest_first = sorted(largest, key=lambda row: int(rows.lengths[row]), reverse=True)
    return [(rows[row].row, int(rows.lengths[row])) for row in longest_first]


def _gib(count: int) -> str:
    return f"{count / 2**30:,.2f}"
