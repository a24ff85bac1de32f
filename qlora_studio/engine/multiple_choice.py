"""Questions with letters to choose from: the letter that the model finds likeliest counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from qlora_studio.config.run_config import RunConfig
from qlora_studio.data.choice_questions import ChoiceQuestion
from qlora_studio.data.packing import Batch, MicroBatch, collate, evaluation_batches
from qlora_studio.data.tokenized_row import TokenizedRow, TokenizedRows
from qlora_studio.engine.device import Device
from qlora_studio.engine.learned_loss import Head, learned_hidden_states
from qlora_studio.engine.packed_batch import PackedBatch, on_device
from qlora_studio.errors import StudioError

AsBatch = Callable[[MicroBatch, TokenizedRows], tuple[Batch, PackedBatch]]


def likeliest_letters(
    model: PreTrainedModel,
    device: Device,
    questions: Sequence[ChoiceQuestion],
    config: RunConfig,
    pad_id: int,
    as_batch: AsBatch | None = None,
) -> Generator[int, None, NDArray[np.int64]]:
    """int64 [questions]: the place of the letter with the highest log-probability.

    as_batch: puts rows on the device in the shapes that a run computes; None: as short as they are
    Tells how many are answered; whoever listens may stop there.
    Raises: StudioError where a log-probability is not finite.
    """
    prompts = _Prompts(questions)
    chosen = np.full(len(questions), -1, np.int64)
    done = 0
    asked = sorted({letter for question in questions for letter in question.letter_ids})
    token_ids = torch.tensor(asked, device=device.torch_device)
    for micro_batch in evaluation_batches(
        prompts.lengths,
        seq_len=max(config.data.seq_len, int(prompts.lengths.max())),
        packing=config.data.packing,
        batch_size=config.training.batch_size if device.is_cuda else 1,
    ):
        if as_batch is not None:
            batch, packed = as_batch(micro_batch, prompts)
        else:
            batch = collate(micro_batch, prompts, pad_id=pad_id)
            packed = on_device(batch, device.torch_device, keep_padding=False)
        with torch.no_grad():
            hidden = learned_hidden_states(model, packed)
            # Of one position the log-probabilities differ from the logits by one number alone.
            logits = Head.of(model).logits_of(hidden, token_ids).cpu().numpy()
        for place, at_end in zip(batch.rows, logits, strict=True):
            chosen[place] = _likeliest(questions[place], dict(zip(asked, at_end.tolist(), strict=True)))
        done += len(batch.rows)
        yield done
    return chosen


def _likeliest(question: ChoiceQuestion, logits: dict[int, float]) -> int:
    """Raises: StudioError where one is not finite."""
    of_letters = [logits[letter] for letter in question.letter_ids]
    if not all(map(math.isfinite, of_letters)):
        raise StudioError(
            f"The model chooses no letter in row {question.row + 1:,}: what it makes of them is not finite.",
            hint="Another compute dtype may help; an adapter that diverged can't be measured.",
        )
    return of_letters.index(max(of_letters))


class _Prompts:
    """Each with the right letter after it, which alone is looked at; its `row` is its place."""

    def __init__(self, questions: Sequence[ChoiceQuestion]) -> None:
        self._questions = questions
        self.lengths = np.array([len(question.prompt) + 1 for question in questions], np.int32)

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, index: int) -> TokenizedRow:
        question = self._questions[index]
        ids = np.append(question.prompt, np.int32(question.letter_ids[question.right]))
        weights = np.zeros(len(ids), np.float32)
        weights[-1] = 1
        return TokenizedRow(index, ids, weights, question.second)
