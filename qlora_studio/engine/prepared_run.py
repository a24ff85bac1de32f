"""A run with everything at hand: rows, model, what is trained, optimizer, and where it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from transformers import PreTrainedModel

from qlora_studio.config.finetuning_check import check_finetuning
from qlora_studio.config.run_config import HOST, PREFERENCES, SHAPE_PREFIX, RunConfig
from qlora_studio.data.choice_questions import choice_questions
from qlora_studio.data.packing import (
    Batch,
    MicroBatch,
    Update,
    collate,
    evaluation_batches,
    lessened,
    plan_epoch,
    steps_in,
)
from qlora_studio.data.prepared import PreparedRows, check_content, open_prepared
from qlora_studio.data.tokenized_row import TokenizedRows
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.engine.adapters import AdaptedModel, decoder_layers
from qlora_studio.engine.batches_ahead import BatchesAhead
from qlora_studio.engine.checkpointing import put_checkpoint
from qlora_studio.engine.compute_dtype import dtype_of, name_of, resolve_compute_dtype
from qlora_studio.engine.cuda_graphs import CudaGraphs
from qlora_studio.engine.device import Device
from qlora_studio.engine.embedding_noise import EmbeddingNoise
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.layer_setup import set_layers_up
from qlora_studio.engine.memory_meter import MemoryMeter
from qlora_studio.engine.multiple_choice import likeliest_letters
from qlora_studio.engine.number_answers import answered_numbers, number_questions
from qlora_studio.engine.objective import LearnedTokens, Objective
from qlora_studio.engine.optimizer import AdapterOptimizer
from qlora_studio.engine.packed_batch import PackedBatch, on_device
from qlora_studio.engine.preference_loss import PreferredAnswers
from qlora_studio.engine.random_state import put_random_state, seed_everything, take_random_state
from qlora_studio.engine.ranks import Ranks
from qlora_studio.engine.right_answers import RightLetters, RightNumbers
from qlora_studio.engine.run_log import RunLog
from qlora_studio.engine.trained_weights import ADAPTER, weights_to_train
from qlora_studio.engine.trainer_state import (
    Fixed,
    Position,
    TrainerState,
    fixed_of,
    read_trainer_state,
    require_same,
)
from qlora_studio.engine.update import Updater, first_loss_scale
from qlora_studio.errors import StudioError
from qlora_studio.memory.compiling import not_graphed_reason
from qlora_studio.memory.correction import correction
from qlora_studio.memory.devices import ram_reading
from qlora_studio.memory.logits import logits_at_once
from qlora_studio.memory.promise import Promise, as_promised, promise
from qlora_studio.models.shapes import model_shape
from qlora_studio.runs.checkpoints import resume_point
from qlora_studio.runs.less_memory import (
    LessMemory,
    Way,
    less_after,
    read_less_memory,
    write_less_memory,
)
from qlora_studio.runs.run_record import RECORD_FILE, RunRecord
from qlora_studio.runs.run_state import read_state
from qlora_studio.runs.run_writer import RunWriter
from qlora_studio.runs.samples import SAMPLES_FILE, read_samples
from qlora_studio.runs.start import require_start

_NO_NOISE = "NEFTune adds no noise where answers are preferred: it would count as the adapter's doing."
NO_LETTERS = "The chats held out are no multiple choice: no right letters are counted."
NO_NUMBERS = "The chats held out don't all end in #### and a number: no right numbers are counted."


@dataclass(frozen=True, eq=False)
class Start:
    """What a run folder says before its model is loaded.

    saved:    of the newest sound checkpoint, and its folder; None: the run has none yet
    less:     what the run does otherwise than its settings say, to take less memory
    """

    rows: PreparedRows
    fixed: Fixed
    saved: TrainerState | None
    checkpoint: Path | None
    storage: Storage
    less: LessMemory


def read_start(writer: RunWriter, device: Device, ways: Sequence[Way] = ()) -> Start:
    """ways: to take less memory, kept in the folder from now on.

    Raises: StudioError naming the file that is damaged, or the setting that differs (R2, R3).
    """
    record = writer.record
    check_finetuning(record.config, str(writer.folder / RECORD_FILE))
    if record.config.trains_all and record.hashes.start:
        raise StudioError(f"{writer.folder / RECORD_FILE}: all weights are trained, and it names an adapter.")
    rows = open_prepared(Path(record.prepared.folder))
    check_content(rows)
    point = resume_point(writer.folder)
    saved = read_trainer_state(point.path) if point.path else None
    model = record.config.model
    dtype = (
        dtype_of(saved.fixed.compute_dtype) if saved else resolve_compute_dtype(model.compute_dtype, device)
    )
    fixed = fixed_of(record, rows.info.content_sha256, total_steps(record, rows), name_of(dtype))
    if saved and point.path:
        require_same(saved.fixed, fixed, point.path)
    storage = Storage(model.quantization, model.double_quant, dtype)
    return Start(rows, fixed, saved, point.path, storage, _less_from_now_on(writer, ways, saved, rows))


def _less_from_now_on(
    writer: RunWriter, ways: Sequence[Way], saved: TrainerState | None, rows: PreparedRows
) -> LessMemory:
    less = less_after(writer.folder, writer.record, ways)
    if saved is not None:
        less = less.joined(saved.less)
    if len(rows.train.places_of(less.left_out)) == len(rows.train):
        # Before it is written: the run itself can still go on in another way.
        raise StudioError("Every row is left out of this run.", hint="Start a new run with other rows.")
    if less != (read_less_memory(writer.folder) or LessMemory()):
        write_less_memory(writer.folder, less)
        _forget_ways(writer)
    return less


def _forget_ways(writer: RunWriter) -> None:
    """One was taken: if this sitting is killed before it starts, the next one doesn't take it again."""
    state = read_state(writer.folder).state
    if state is not None and state.ways:
        writer.save_state(msgspec.structs.replace(state, ways=(), rows=(), hint=""))


def total_steps(record: RunRecord, rows: PreparedRows) -> int:
    """Updates of the whole run."""
    config = record.config
    return config.training.steps or steps_in(
        config.training.epochs,
        rows.train.lengths,
        seq_len=rows.info.seq_len,
        packing=config.data.packing,
        seed=config.training.seed,
        batch_size=config.training.batch_size,
        accumulation=config.training.gradient_accumulation,
    )


class PreparedRun:
    """All that `train` needs. `position` moves; everything else stays."""

    def __init__(
        self, writer: RunWriter, start: Start, adapted: AdaptedModel, decode: Callable[[Sequence[int]], str]
    ) -> None:
        self.writer = writer
        self.decode = decode
        self.folder = writer.folder
        self.record = writer.record
        self.config: RunConfig = writer.record.config
        self.rows = start.rows
        self.fixed = start.fixed
        self.total_steps = start.fixed.total_steps
        self.adapted = adapted
        self.device = adapted.base.device
        self.resumed = start.saved is not None
        training = self.config.training
        seed_everything(training.seed)
        self.trained = weights_to_train(adapted, self.config)
        self.layers = len(decoder_layers(adapted.causal_lm))
        self.less = start.less
        self.rows_at_once = self.less.rows_of(self.record)
        self._left_out = self.rows.train.places_of(self.less.left_out)
        self.largest_batch = 0  # tokens of a micro-batch that was computed in this sitting
        if self.device.is_cuda and (training.recompute == HOST or training.embedding_in_ram):
            _require_ram(self._promised())
        self.setup = set_layers_up(adapted, *self._plan_of_layers())
        self.optimizer = AdapterOptimizer(
            self.trained.parameters.items(), self.as_computed.training, self.trained.moved
        )
        self.not_graphed = self._not_graphed_reason()
        self.graphs = None
        if self.not_graphed is None:
            self.optimizer.keep_gradients()
            self.graphs = CudaGraphs(self.model, list(self.optimizer.parameters.values()))
        self.prefers = training.method in PREFERENCES
        noise = 0.0 if self.prefers else training.neftune_alpha
        self.noise = _noise(noise, training.seed, self.device.torch_device)
        self.objective = self._objective()
        self.position = Position(loss_scale=first_loss_scale(adapted.base.storage.compute_dtype))
        if start.saved and start.checkpoint:
            put_checkpoint(start.checkpoint, self.trained, self.optimizer)
            put_random_state(start.saved.random, self.noise.random if self.noise else None)
            self.position = start.saved.position
        elif self.record.hashes.start:
            adapted.put_weights(ADAPTER, require_start(self.folder, self.record.hashes.start))
        self.log = RunLog(writer, self.position, self.total_steps)
        self.memory = MemoryMeter(adapted, self.trained, self.optimizer, self.graphs)
        self.saved_step = self.position.step if self.resumed else None
        self.sampled_step = self.position.step if self.resumed and self._has_samples() else None
        self._sitting_start = time.monotonic()
        self._elapsed_before = self.position.elapsed_s
        self.validation = evaluation_batches(
            self.rows.validation.lengths,
            seq_len=self.rows.info.seq_len,
            packing=self.config.data.packing,
            batch_size=self.rows_at_once,
        )

        self.answers = self._answers()

    @property
    def begins_with_what_was_lost(self) -> bool:
        """Whether the adapter is a new one that LoftQ fills."""
        is_new = not self.resumed and not self.record.hashes.start and not self.config.trains_all
        return is_new and self.config.lora.init == "loftq"

    @property
    def as_computed(self) -> RunConfig:
        """The settings that memory goes by: what is done to take less counts."""
        training = msgspec.structs.replace(self.config.training, batch_size=self.rows_at_once)
        if self.less.eight_bit_optimizer:
            training = msgspec.structs.replace(training, optimizer="paged_adamw_8bit")
        if self.less.recompute_all:
            training = msgspec.structs.replace(training, keep_dequantized=False)
        dtype = name_of(self.adapted.base.storage.compute_dtype)
        model = msgspec.structs.replace(self.config.model, compute_dtype=dtype)
        return msgspec.structs.replace(self.config, model=model, training=training)

    def plan(self, epoch: int) -> list[Update]:
        """The updates of a pass; the same seed gives the same ones. Empty where all its rows are left out."""
        config = self.config
        updates = plan_epoch(
            self.rows.train.lengths,
            seq_len=self.rows.info.seq_len,
            packing=config.data.packing,
            seed=config.training.seed,
            epoch=epoch,
            batch_size=config.training.batch_size,
            accumulation=config.training.gradient_accumulation,
        )
        if self.less.rows_at_once or self._left_out:
            return [lessened(update, self.rows_at_once, self._left_out) for update in updates]
        return updates

    @property
    def model(self) -> PreTrainedModel:
        """In training."""
        return self.adapted.causal_lm

    @property
    def model_folder(self) -> Path | None:
        """None where the weights are random."""
        source = self.adapted.base.source
        return None if source.startswith(SHAPE_PREFIX) else Path(source)

    def elapsed_s(self) -> float:
        """Of training, over all sittings."""
        return self._elapsed_before + time.monotonic() - self._sitting_start

    @property
    def notes(self) -> tuple[str, ...]:
        """What runs otherwise than asked."""
        quiet = (_NO_NOISE,) if self.prefers and self.config.training.neftune_alpha else ()
        return (
            *self.optimizer.notes,
            *self.less.words(self.record),
            *quiet,
            *self.setup.notes,
            *self._uncounted(),
        )

    def _uncounted(self) -> Iterator[str]:
        asked = self.config.checkpoints
        if asked.evaluate_letters and not isinstance(self.answers, RightLetters):
            yield NO_LETTERS
        if asked.evaluate_numbers and not isinstance(self.answers, RightNumbers):
            yield NO_NUMBERS

    def updater(self) -> Updater:
        """Makes the updates."""
        return Updater(
            model=self.model,
            optimizer=self.optimizer,
            ranks=Ranks.here(),
            objective=self.objective,
            max_grad_norm=self.config.training.max_grad_norm,
        )

    def batches(self) -> BatchesAhead:
        """Of its updates."""
        return BatchesAhead(
            self.collate_training, self.put, Ranks.here(), looks_ahead=self.computes_beside_python
        )

    @property
    def computes_beside_python(self) -> bool:
        """A card does: what is asked of it is done later. A processor has nothing to wait for."""
        return self.device.is_cuda

    def collate_training(self, micro_batch: MicroBatch) -> Batch:
        """Of training rows. Where packed, always of the same shape."""
        return self._collate(micro_batch, self.rows.train)

    def collate_validation(self, micro_batch: MicroBatch) -> Batch:
        """Of the rows held out."""
        return self._collate(micro_batch, self.rows.validation)

    def as_batch(self, micro_batch: MicroBatch, rows: TokenizedRows) -> tuple[Batch, PackedBatch]:
        """Other rows, no longer than those held out, in the shapes of these."""
        batch = self._collate(micro_batch, rows)
        return batch, self.put(batch)

    def put(self, batch: Batch) -> PackedBatch:
        """On the device. A card takes packed rows with their padding, so that memory never changes."""
        fixed_shape = self.device.is_cuda and self.config.data.packing
        longest = self.config.data.seq_len if self.setup.not_compiled is None else None
        return on_device(
            batch,
            self.device.torch_device,
            keep_padding=fixed_shape,
            longest=longest,
            with_chats=self.prefers,
        )

    def trainer_state(self) -> TrainerState:
        """As it is now, for a checkpoint."""
        noise = self.noise.random if self.noise else None
        random = take_random_state(noise)
        return TrainerState(position=self.position, random=random, fixed=self.fixed, less=self.less)

    def _objective(self) -> Objective:
        device = "cuda" if self.device.is_cuda else "cpu"
        at_once = logits_at_once(device, self.config, self.setup.recomputed)
        if not self.prefers:
            return LearnedTokens(self.noise, at_once)
        return PreferredAnswers(
            self.config.training.method,
            self.config.preference,
            lambda on: self.adapted.use(ADAPTER if on else None),
            at_once,
        )

    def _answers(self) -> RightLetters | RightNumbers | None:
        """To the questions of their file, or else to the rows held out, where that is asked and they are
        of that kind.
        """
        if self.record.prepared.questions and self.model_folder is not None:
            return self._questions(Path(self.record.prepared.questions), self.model_folder)
        asked, held_out = self.config.checkpoints, len(self.rows.validation) > 0
        if not held_out or self.prefers or self.model_folder is None:
            return None
        if asked.evaluate_letters and (
            choices := choice_questions(self.rows, load_tokenizer(self.model_folder))
        ):
            return RightLetters(
                choices,
                lambda: likeliest_letters(
                    self.model.eval(),
                    self.device,
                    choices,
                    self.as_computed,
                    self.rows.info.pad_id,
                    self.as_batch,
                ),
            )
        if asked.evaluate_numbers and (
            questions := number_questions(self.rows, self.decode, asked.evaluate_numbers)
        ):
            return RightNumbers(
                questions,
                lambda: answered_numbers(self.model.eval(), questions, self.rows, self.decode),
            )
        return None

    def _questions(self, folder: Path, model: Path) -> RightLetters:
        """Raises: StudioError where they are no multiple choice."""
        choices = choice_questions(open_prepared(folder), load_tokenizer(model))
        if not choices:
            raise StudioError(
                f"{self.config.checkpoints.questions} is no multiple choice: not every row has choices in "
                "lines from A on, and one of their letters as its answer.",
                hint="Choose another file for checkpoints.questions, or leave it empty.",
            )
        longest = max(len(question.prompt) + 1 for question in choices)
        config = self.as_computed
        at_once = max(1, config.training.batch_size * config.data.seq_len // longest)  # no more than of rows
        training = msgspec.structs.replace(config.training, batch_size=at_once)
        config = msgspec.structs.replace(config, training=training)
        pad_id = self.rows.info.pad_id
        return RightLetters(
            choices,
            lambda: likeliest_letters(self.model.eval(), self.device, choices, config, pad_id),
        )

    def _has_samples(self) -> bool:
        """Whether every prompt was answered where the run goes on."""
        told = read_samples(self.writer.folder / SAMPLES_FILE).samples
        answered = {sample.index for sample in told if sample.step == self.position.step}
        return answered >= set(range(len(self.rows.info.samples)))

    def _not_graphed_reason(self) -> str | None:
        """Why both passes aren't recorded as CUDA graphs; None where they are."""
        if self.setup.not_compiled is not None:
            return "layers aren't compiled"
        trained = sum(weight.numel() for weight in self.optimizer.parameters.values())
        return not_graphed_reason(model_shape(self.config.model.path), self.config, trained)

    def make_room(self) -> None:
        """Before anything else than training is done with the model."""
        if self.graphs is not None:
            self.graphs.forget()

    def _collate(self, micro_batch: MicroBatch, rows: TokenizedRows) -> Batch:
        pad_id = self.rows.info.pad_id
        if not (self.device.is_cuda and self.config.data.packing):
            return collate(micro_batch, rows, pad_id=pad_id)
        length, height = self.config.data.seq_len, self.rows_at_once
        return collate(micro_batch, rows, pad_id=pad_id, length=length, height=height)

    def _plan_of_layers(self) -> tuple[RunConfig, int]:
        """How they are computed, and how many again."""
        config, asked, layers = self.as_computed, self.config.training.recompute, self.layers
        if self.less.recompute_all:
            return config, layers
        if asked == "auto":  # not resolved when the run was made
            promised = self._promised()
            return as_promised(config, promised), promised.recompute_layers
        if isinstance(asked, str):
            return config, layers if asked in ("all", HOST) else 0
        return config, min(asked, layers)

    def _promised(self) -> Promise:
        """With what is free now."""
        shape = model_shape(self.config.model.path)
        return promise(
            shape,
            self.as_computed,
            device=self.device.kind,
            device_bytes=self.device.memory_bytes,
            free_bytes=self.device.free_bytes() + self.adapted.base.weight_bytes,
            free_ram_bytes=ram_reading().free_bytes if self.device.is_cuda else None,
            longest_row=self.rows.info.longest,
            all_tokens=self.rows.tokens_at_most,
            corrected=correction(self.device.name, shape, self.config.model.quantization),
        )


def _require_ram(promised: Promise) -> None:
    """Raises: StudioError. It may have gone to others since the run was made."""
    if promised.lacks_ram:
        raise StudioError(
            promised.words,
            hint="Close other programs that use RAM and resume it, or start a new run that leaves this on "
            "the card.",
        )


def _noise(alpha: float, seed: int, device: torch.device) -> EmbeddingNoise | None:
    return EmbeddingNoise(alpha, seed, device) if alpha > 0 else None
