"""What to change so that a run fits, least harm first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from qlora_studio.config.run_config import HOST, RunConfig

_MOST = 3
_SMALLEST_RANK = 8
_SHORTEST_ROW = 256  # tokens

Changes = dict[str, Any]  # dotted key -> value
Step = tuple[str, Changes]  # words, and what they mean
Kind = Callable[[RunConfig], Iterator[Step]]  # one kind of change, ever stronger


@dataclass(frozen=True)
class Way:
    """Settings that fit. `words`: what is changed, such as "rank 32 and 1,536 tokens"."""

    words: str
    changes: Changes
    config: RunConfig


def ways_to_fit(
    config: RunConfig,
    fits: Callable[[RunConfig], bool],
    on_card: bool,
    *,
    encoder_decoder: bool = False,
    ram_lacks: bool = False,
    embedding_may_move: bool = False,
    weights_stay_dequantized: bool = False,
) -> list[Way]:
    """At most three, best first: single changes, and where these don't do, several together.

    encoder_decoder: whether the model is one; the inputs of its layers don't go to RAM
    ram_lacks:       whether there is no room in RAM for what is to lie there
    embedding_may_move: whether the embedding could lie there
    weights_stay_dequantized: whether they do on the card, as asked
    """
    kinds: list[Kind] = [
        *([_dequantize_each_time] if on_card and weights_stay_dequantized else []),
        _out_of_ram if ram_lacks else partial(_recompute, on_card and not encoder_decoder),
        *([_embedding_in_ram] if on_card and embedding_may_move and not ram_lacks else []),
        _fewer_rows,
        *([_eight_bit_optimizer] if on_card else []),
        _adapter_instead if config.trains_all else _lower_rank,
        _shorter,
    ]
    found = [way for kind in kinds if (way := _first_that_fits(config, {}, [], kind, fits)) is not None]
    if not found:
        together = _together(config, kinds, fits)
        found = [together] if together else []
    return found[:_MOST]


def changed(config: RunConfig, changes: Changes) -> RunConfig:
    """`config` with dotted keys replaced; limits aren't checked."""
    for key, value in changes.items():
        section, name = key.split(".")
        part = msgspec.structs.replace(getattr(config, section), **{name: value})
        config = msgspec.structs.replace(config, **{section: part})
    return config


def _together(config: RunConfig, kinds: list[Kind], fits: Callable[[RunConfig], bool]) -> Way | None:
    """Each kind of change as far as it goes, until it fits."""
    changes: Changes = {}
    words: list[str] = []
    for kind in kinds:
        way = _first_that_fits(config, changes, words, kind, fits)
        if way is not None:
            return way
        steps = list(kind(config))
        if steps:
            words.append(steps[-1][0])
            changes |= steps[-1][1]
    return None


def _first_that_fits(
    config: RunConfig, before: Changes, words: list[str], kind: Kind, fits: Callable[[RunConfig], bool]
) -> Way | None:
    for said, more in kind(config):
        changes = before | more
        candidate = changed(config, changes)
        if fits(candidate):
            return Way(_joined([*words, said]), changes, candidate)
    return None


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _dequantize_each_time(_: RunConfig) -> Iterator[Step]:
    """A little more time, the same numbers."""
    yield "dequantizing weights for each product", {"training.keep_dequantized": False}


def _recompute(inputs_in_ram: bool, config: RunConfig) -> Iterator[Step]:
    """More time, the same result.

    inputs_in_ram: whether those of the recomputed layers can lie there, in about that time
    """
    asked = config.training.recompute
    if asked not in ("auto", "all", HOST):
        yield "recomputing all layers", {"training.recompute": "all"}
    if inputs_in_ram and asked != HOST:
        yield "recomputing all layers, their inputs in RAM", {"training.recompute": HOST}


def _out_of_ram(config: RunConfig) -> Iterator[Step]:
    embedding, inputs = {"training.embedding_in_ram": False}, {"training.recompute": "all"}
    if config.training.embedding_in_ram:
        yield "the embedding on the card", embedding
    if config.training.recompute == HOST:
        yield "recomputing all layers, their inputs on the card", inputs
    if config.training.embedding_in_ram and config.training.recompute == HOST:
        yield "recomputing all layers, their inputs and the embedding on the card", inputs | embedding


def _embedding_in_ram(config: RunConfig) -> Iterator[Step]:
    """The rows of a batch go from there to the card at each step."""
    if not config.training.embedding_in_ram:
        yield "the embedding in RAM", {"training.embedding_in_ram": True}


def _fewer_rows(config: RunConfig) -> Iterator[Step]:
    """The same mathematics: as many rows an update, fewer at once."""
    rows, accumulation = config.training.batch_size, config.training.gradient_accumulation
    while rows % 2 == 0:
        rows, accumulation = rows // 2, accumulation * 2
        words = f"{rows} {'row' if rows == 1 else 'rows'} a step ({accumulation} accumulated)"
        yield words, {"training.batch_size": rows, "training.gradient_accumulation": accumulation}


def _eight_bit_optimizer(config: RunConfig) -> Iterator[Step]:
    if config.training.optimizer != "paged_adamw_8bit":
        yield "the 8-bit optimizer", {"training.optimizer": "paged_adamw_8bit"}


def _lower_rank(config: RunConfig) -> Iterator[Step]:
    # What is trained on keeps its rank, and ranks of single layers are somebody's own choice.
    r = 0 if config.lora.start_from or config.lora.ranks else config.lora.r
    while r // 2 >= _SMALLEST_RANK:
        r //= 2
        yield f"rank {r}", {"lora.r": r}


def _adapter_instead(config: RunConfig) -> Iterator[Step]:
    """Other mathematics, and the learning rate is the person's to raise."""
    adapter = {"training.finetuning": "lora"}
    yield "an adapter in place of all weights", adapter
    yield "an adapter on NF4 weights in place of all weights", adapter | {"model.quantization": "nf4"}


def _shorter(config: RunConfig) -> Iterator[Step]:
    """Cuts or drops the longest chats: last resort."""
    for quarters in (3, 2, 1):
        seq_len = config.data.seq_len * quarters // 4 // 64 * 64
        if seq_len >= _SHORTEST_ROW:
            yield f"{seq_len:,} tokens", {"data.seq_len": seq_len}
