"""The training loop, told as events: whoever listens may stop at any of them; the run folder is whole."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from torch import Tensor

from qlora_studio.data.packing import Update
from qlora_studio.engine.adapters import NonFiniteError
from qlora_studio.engine.batches_ahead import BatchesAhead
from qlora_studio.engine.checkpointing import checkpoint_bytes, write_checkpoint, write_finished_adapter
from qlora_studio.engine.evaluation import EvaluationResult, RowsDone, evaluate
from qlora_studio.engine.finished_model import write_finished_model
from qlora_studio.engine.learning_rate import learning_rate
from qlora_studio.engine.objective import Rewards
from qlora_studio.engine.prepared_run import PreparedRun
from qlora_studio.engine.right_answers import Counted
from qlora_studio.engine.samples import sample_replies
from qlora_studio.engine.update import Updater, UpdateResult
from qlora_studio.engine.wish import Wish
from qlora_studio.protocol.events import (
    CheckpointSaved,
    EngineEvent,
    EvaluationFinished,
    EvaluationProgress,
    RewardsMeasured,
    RunFinished,
    RunStarted,
    Saving,
    StepFinished,
)

MOST_NON_FINITE = 3  # updates in a row (R12)
_PROGRESS_S = 0.5

R = TypeVar("R")


def train(run: PreparedRun, wish: Callable[[], Wish]) -> Iterator[EngineEvent]:
    """From where the run stands to its end, or to where it is asked to stop.

    Each event is in the run folder before it is told.
    Raises: StudioError; what was saved before stays as it is.
    """
    for event in _train(run, _Asked(wish)):
        run.log.record(event)
        yield event


def _train(run: PreparedRun, asked: _Asked) -> Iterator[EngineEvent]:
    run.memory.start_watching()
    yield _started(run)
    yield from _catch_up(run, asked)
    updater, batches = run.updater(), run.batches()
    for planned in _updates(run):
        if asked.to_end or _is_early_enough(run):
            break
        yield from _step(run, updater, batches, planned)
        _require_numbers(run)
        if _is_last(run):
            break
        yield from _measure_and_save(run, asked)
    yield from _end(run, asked)


class _Asked:
    """What the person wants of the run; a wish to save is kept until it is done."""

    def __init__(self, wish: Callable[[], Wish]) -> None:
        self._wish = wish
        self._save = False

    def look(self) -> Wish:
        """The newest wish."""
        wish = self._wish()
        self._save |= wish is Wish.SAVE
        return Wish.SAVE if wish is Wish.NOTHING and self._save else wish

    @property
    def to_end(self) -> bool:
        """To stop or to pause."""
        return self.look() in (Wish.STOP, Wish.PAUSE)

    def saved(self) -> None:
        """The wish to save is fulfilled."""
        self._save = False


def _started(run: PreparedRun) -> RunStarted:
    return RunStarted(
        run=str(run.folder),
        step=run.position.step,
        total_steps=run.total_steps,
        resumed=run.resumed,
        time=time.time(),
        device_bytes=run.device.memory_bytes,
    )


def _catch_up(run: PreparedRun, asked: _Asked) -> Iterator[EngineEvent]:
    """What is due before the next update and isn't there yet, as the last sitting was ended before it."""
    if _is_last(run):
        return  # the end does it all
    if run.position.step == 0 or _evaluation_is_due(run):
        yield from _evaluate(run, asked)
    if run.resumed:
        yield from _sample(run, asked)


@dataclass(frozen=True)
class _Planned:
    """Update number `index` of the `count` of a pass, both from 0. following: that is made after it, in this
    pass
    """

    update: Update
    epoch: int
    index: int
    count: int
    following: Update | None


def _updates(run: PreparedRun) -> Iterator[_Planned]:
    """From the position on; the same seed gives the same updates. One without rows is passed over."""
    position = run.position
    while position.step < run.total_steps:
        epoch = position.epoch
        plan = run.plan(epoch)
        for index in range(position.update, len(plan)):
            if position.step >= run.total_steps:
                return
            if plan[index].micro_batches:
                position.update = index  # those passed over lie behind: a failure asks what was in hand
                is_last = position.step + 1 >= run.total_steps
                following = None if is_last else _following(plan, index)
                yield _Planned(plan[index], epoch, index, len(plan), following)
        if not plan:
            return
        position.epoch, position.update = epoch + 1, 0


def _following(plan: Sequence[Update], index: int) -> Update | None:
    later = (plan[place] for place in range(index + 1, len(plan)))
    return next((update for update in later if update.micro_batches), None)


def _step(
    run: PreparedRun, updater: Updater, ahead: BatchesAhead, planned: _Planned
) -> Iterator[EngineEvent]:
    position, training = run.position, run.config.training
    start = time.monotonic()
    run.memory.start_step()
    update = ahead.of(planned.update)
    rate = learning_rate(position.step + 1, run.total_steps, training)
    result = updater.update(update, rate, position, partial(ahead.prepare, planned.following))
    batches = update.every
    seconds = max(time.monotonic() - start, 1e-9)
    run.largest_batch = max(run.largest_batch, *(batch.tokens for batch in batches))
    _advance(run, planned, result)
    tokens = sum(batch.tokens for batch in batches)
    learned = sum(batch.learned_tokens for batch in batches)
    others, in_ram = run.memory.beside()
    yield StepFinished(
        step=position.step,
        loss=_finite(result.loss),
        learning_rate=rate,
        grad_norm=_finite(result.grad_norm),
        tokens=tokens,
        learned_tokens=learned,
        tokens_per_second=tokens / seconds,
        learned_tokens_per_second=learned / seconds,
        rows=tuple(row for batch in batches for row in batch.rows),
        memory=run.memory.peak_by_part(),
        epoch=planned.epoch + (planned.index + 1) / planned.count,
        elapsed_s=position.elapsed_s,
        time=time.time(),
        non_finite=_kind(result.loss, result.grad_norm),
        others_bytes=others,
        in_ram_bytes=in_ram,
    )
    if result.rewards is not None:
        yield _measured(result.rewards, position.step, held_out=False)


def _measured(rewards: Rewards, step: int, *, held_out: bool) -> RewardsMeasured:
    """Means of what was summed; None where there was nothing."""
    better = _mean(rewards.better, rewards.better_count)
    worse = _mean(rewards.worse, rewards.worse_count)
    return RewardsMeasured(
        step=step,
        held_out=held_out,
        better=better,
        worse=worse,
        margin=better - worse if better is not None and worse is not None else None,
        accuracy=float(rewards.right) / rewards.pairs if rewards.pairs else None,
    )


def _advance(run: PreparedRun, planned: _Planned, result: UpdateResult) -> None:
    position = run.position
    position.step += 1
    position.elapsed_s = run.elapsed_s()
    position.epoch, position.update = planned.epoch, planned.index + 1
    if position.update == planned.count:
        position.epoch, position.update = planned.epoch + 1, 0
    position.loss = _finite(result.loss)
    position.non_finite_in_row = 0 if result.made else position.non_finite_in_row + 1


def _require_numbers(run: PreparedRun) -> None:
    position = run.position
    if position.non_finite_in_row >= MOST_NON_FINITE:
        raise NonFiniteError(
            f"Loss or gradient was no finite number {MOST_NON_FINITE} times in a row, last at step "
            f"{position.step:,}; these updates were not made.",
            hint="Start a new run with a lower learning rate, or look for broken rows in the data.",
        )


def _is_last(run: PreparedRun) -> bool:
    return run.position.step >= run.total_steps


def _is_early_enough(run: PreparedRun) -> bool:
    patience = run.config.early_stopping.patience
    return 0 < patience <= run.position.without_better


def _measure_and_save(run: PreparedRun, asked: _Asked) -> Iterator[EngineEvent]:
    """What is due after an update in the middle of a run. Whoever ends it is saved at once (R4)."""
    step = run.position.step
    if _evaluation_is_due(run):
        yield from _evaluate(run, asked)
    is_best = run.position.best_step == step
    if step % run.config.checkpoints.every_steps == 0 or is_best or asked.look() is not Wish.NOTHING:
        yield from _save(run)
        asked.saved()
        yield from _sample(run, asked)


def _evaluation_is_due(run: PreparedRun) -> bool:
    every = run.config.checkpoints.evaluate_every_steps
    return every > 0 and run.position.step % every == 0


def _end(run: PreparedRun, asked: _Asked) -> Iterator[EngineEvent]:
    """Everything of the last update that isn't done yet; a paused run only needs to be saved."""
    position = run.position
    wish = Wish.NOTHING if _is_last(run) else asked.look()
    if run.saved_step != position.step and position.step > 0:
        yield from _evaluate(run, asked)
        yield from _save(run)
    paused = wish is Wish.PAUSE or position.step == 0
    adapter = model = None
    if not paused:
        yield from _evaluate(run, asked)
        yield from _sample(run, asked)
        if run.config.trains_all:
            model = _write_model(run)
        else:
            adapter = _write_adapter(run)
    yield RunFinished(
        run=str(run.folder),
        step=position.step,
        adapter=adapter,
        model=model,
        state="paused" if paused else "stopped" if wish is Wish.STOP else "finished",
        loss=position.loss,
        evaluation_loss=position.evaluation_loss,
        first_evaluation_loss=position.first_evaluation_loss,
    )


def _evaluate(run: PreparedRun, asked: _Asked) -> Iterator[EngineEvent]:
    """Once at each step, where rows are held out. Given up where the run is to end and isn't saved yet."""
    step = run.position.step
    if not run.validation or run.position.evaluated_step == step:
        return
    run.make_room()
    result = yield from _unless_given_up(
        run,
        asked,
        evaluate(run.model, run.validation, run.collate_validation, run.put, run.objective),
    )
    if result is None:
        return
    counted = None
    if run.answers is not None and _finite(result.loss) is not None:
        counted = yield from _unless_given_up(run, asked, run.answers.count())
        if counted is None:
            return
    yield _evaluated(run, result, counted)
    if result.rewards is not None:
        yield _measured(result.rewards, step, held_out=True)


def _unless_given_up(
    run: PreparedRun, asked: _Asked, working: Generator[RowsDone, None, R]
) -> Generator[EngineEvent, None, R | None]:
    """What comes of the work; None where the run is to end first."""
    told = time.monotonic()
    while not _is_given_up(run, asked):
        try:
            rows = next(working)
        except StopIteration as finished:
            result: R = finished.value
            return result
        if time.monotonic() - told >= _PROGRESS_S:
            told = time.monotonic()
            yield EvaluationProgress(
                step=run.position.step, done=rows.done, total=rows.total, words=rows.words
            )
    return None


def _is_given_up(run: PreparedRun, asked: _Asked) -> bool:
    wish = asked.look()
    return wish is Wish.PAUSE or (wish is Wish.STOP and run.saved_step != run.position.step)


def _evaluated(run: PreparedRun, result: EvaluationResult, counted: Counted | None) -> EvaluationFinished:
    loss = _finite(result.loss)
    right = counted.right if counted else None
    return EvaluationFinished(
        step=run.position.step,
        loss=loss,
        perplexity=result.perplexity,
        rows=result.rows,
        learned_tokens=result.learned_tokens,
        best=_take_in(run, loss),
        seconds=result.seconds,
        time=time.time(),
        non_finite=_kind(result.loss),
        right=right,
        questions=counted.asked if counted and right is not None else 0,
        kind=counted.kind if counted else "",
    )


def _take_in(run: PreparedRun, loss: float | None) -> bool:
    """Notes an evaluation; whether it is the best so far."""
    position = run.position
    position.evaluated_step = position.step
    if position.step == 0:
        position.first_evaluation_loss = loss
    position.evaluation_loss = loss
    best = position.best_evaluation_loss
    is_best = loss is not None and (best is None or loss < best)
    if is_best:
        position.best_evaluation_loss, position.best_step = loss, position.step
    position.without_better = 0 if is_best else position.without_better + 1
    return is_best


def _save(run: PreparedRun) -> Iterator[EngineEvent]:
    step, best = run.position.step, run.position.best_step
    yield Saving(step=step)
    path = run.writer.save_checkpoint(
        step,
        lambda folder: write_checkpoint(folder, run.trained, run.optimizer, run.trainer_state()),
        protect=() if best is None else (best,),
        expected_bytes=checkpoint_bytes(run.optimizer),
    )
    run.saved_step = step
    yield CheckpointSaved(step=step, path=str(path), time=time.time())


def _sample(run: PreparedRun, asked: _Asked) -> Iterator[EngineEvent]:
    """Once at each step, where there are prompts; given up where the person waits for the end."""
    if run.sampled_step == run.position.step:
        return
    run.make_room()
    yield from sample_replies(run, given_up=lambda: asked.to_end)
    run.sampled_step = run.position.step


def _write_adapter(run: PreparedRun) -> str:
    folder = run.writer.write_adapter(
        lambda staging: write_finished_adapter(staging, run.adapted, run.model_folder),
        expected_bytes=checkpoint_bytes(run.optimizer),
    )
    return str(folder)


def _write_model(run: PreparedRun) -> str | None:
    """None where the weights were random ones: there is no folder that says what they are."""
    source = run.model_folder
    if source is None:
        return None
    folder = run.writer.write_model(
        lambda staging: write_finished_model(staging, run.adapted, run.trained),
        expected_bytes=2 * sum(weight.numel() for weight in run.trained.parameters.values()),
    )
    return str(folder)


def _mean(total: Tensor, count: Tensor) -> float | None:
    return _finite(float(total / count)) if count else None


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _kind(*numbers: float | None) -> str | None:
    """ "nan" or "inf" where one of them is that."""
    for number in numbers:
        if number is not None and not math.isfinite(number):
            return "nan" if math.isnan(number) else "inf"
    return None
