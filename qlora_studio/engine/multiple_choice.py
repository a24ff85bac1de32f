"""Rows that ask for one of several letters, as MMLU's do: the one that the model finds likeliest counts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from qlora_studio.config.run_config import RunConfig
from qlora_studio.data.packing import Batch, MicroBatch, collate, evaluation_batches
from qlora_studio.data.prepared import PreparedRows
from qlora_studio.data.tokenized_row import TokenizedRow, TokenizedRows
from qlora_studio.data.tokenizer import ModelTokenizer
from qlora_studio.engine.device import Device
from qlora_studio.engine.learned_loss import Head, learned_hidden_states
from qlora_studio.engine.packed_batch import PackedBatch, on_device
from qlora_studio.errors import StudioError

AsBatch = Callable[[MicroBatch, TokenizedRows], tuple[Batch, PackedBatch]]

_LONGEST_SHOWN = 100  # characters of a question
_CHOICE = re.compile(r"^[ \t]*\(?([A-Z])[.):][ \t]", re.MULTILINE)
_CHOICE_ANYWHERE = re.compile(r"(?<!\S)\(?([A-Z])[.):][ \t]")


@dataclass(frozen=True, eq=False)
class ChoiceQuestion:
    """row: index in the imported data set. prompt: all that stands before the letter.

    letters:    what can be chosen, from A on
    letter_ids: the token of each
    right:      the place of the right one
    text:       the line before the choices, to name the question by
    second:     as that of its row
    """

    row: int
    prompt: NDArray[np.int32]
    letters: str
    letter_ids: tuple[int, ...]
    right: int
    text: str
    second: int = 0


def choice_questions(rows: PreparedRows, tokenizer: ModelTokenizer) -> list[ChoiceQuestion]:
    """None where not every row is one: choices in lines from A on, and one of their letters as the answer.

    Of a tokenizer to which a line's end is a space, as T5's, the choices may stand anywhere.
    """
    questions, has_lines = [], _keeps_lines(tokenizer)
    for place in range(len(rows.validation)):
        question = _question(rows.validation[place], rows.info.stop_ids, tokenizer, has_lines)
        if question is None:
            return []
        questions.append(question)
    return questions


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


def _keeps_lines(tokenizer: ModelTokenizer) -> bool:
    (encoded,) = tokenizer.encode_rendered(["A\nB"])
    return "\n" in tokenizer.decode(encoded.ids.tolist())


def _question(
    row: TokenizedRow, stop_ids: tuple[int, ...], tokenizer: ModelTokenizer, has_lines: bool
) -> ChoiceQuestion | None:
    """The last choices count: those before belong to examples."""
    learned = [int(at) for at in np.flatnonzero(row.weights) if int(row.ids[at]) not in stop_ids]
    spoken = [(at, text) for at in learned[:4] if (text := tokenizer.decode([int(row.ids[at])]).strip())]
    if len(spoken) != 1 or len(learned) > 4 or not re.fullmatch("[A-Z]", spoken[0][1]):
        return None
    at, right = spoken[0]
    prompt = row.ids[:at]
    asked = tokenizer.decode(prompt.tolist())
    letters, begin = _choices(asked, has_lines)
    name = tokenizer.name_of(int(row.ids[at]))
    if at == 0 or right not in letters or name.count(right) != 1:
        return None
    ids = [tokenizer.id_of(name.replace(right, letter)) for letter in letters]
    known = tuple(id for id in ids if id is not None)
    if len(known) != len(letters):
        return None
    text = _name_of(asked[:begin].strip(), has_lines)
    return ChoiceQuestion(row.row, prompt, letters, known, letters.index(right), text, row.second)


def _name_of(asked: str, has_lines: bool) -> str:
    """asked: all before the choices, examples among it"""
    if has_lines:
        return asked.splitlines()[-1].strip()[:_LONGEST_SHOWN] if asked else ""
    return asked if len(asked) <= _LONGEST_SHOWN else "…" + asked[1 - _LONGEST_SHOWN :]


def _choices(asked: str, has_lines: bool) -> tuple[str, int]:
    """The letters of the last list of them, and where that begins."""
    letters, begin = "", 0
    for found in (_CHOICE if has_lines else _CHOICE_ANYWHERE).finditer(asked):
        letter = found[1]
        if letter == "A":
            letters, begin = "A", found.start()
        elif letters and ord(letter) == ord(letters[-1]) + 1:
            letters += letter
        elif has_lines:  # anywhere in a text it may be an initial, such as that of J. Doe
            letters = ""
    return (letters, begin) if len(letters) > 1 else ("", 0)
