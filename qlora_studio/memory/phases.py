"""What else than training takes memory: evaluation and sample replies, and later chat and export."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import msgspec

from qlora_studio.config.architecture import row_limit
from qlora_studio.config.run_config import QUESTION_TOKENS, WRITTEN_TOGETHER
from qlora_studio.memory.parts import (
    Parts,
    adapter_parameters,
    base_bytes,
    bytes_a_layer,
    logit_bytes,
    other_bytes,
)
from qlora_studio.memory.setting import Setting

Phase = Literal["training", "evaluation", "sample replies", "chat", "export"]
OF_THE_RUN: tuple[Phase, ...] = ("training", "evaluation", "sample replies")

_PLACES_AT_ONCE = 512  # a text's cache has room for that many more tokens, and for a multiple of it
_SAMPLE = 512  # tokens of a prompt with its reply
_FP32 = 4  # bytes
# Of a number of a weight while it is merged: as stored in 16 bit, in fp32, the adapter's product, that
# product scaled, and the sum (engine/merging.py).
_BYTES_MERGING = 2 + 4 * _FP32


def by_phase(setting: Setting, training: Parts) -> dict[Phase, Parts]:
    """training: of its step, what alone was measured on a card; the others are computed from shapes.

    A sample with its reply is taken for a text of 512 tokens, a chat for one as long as a row; so is each of
    the replies written together where right numbers are counted. Chat and export come after the run: nothing
    is left of gradients and optimizer then, nor of weights that stayed dequantized on a card.
    """
    replying = msgspec.structs.replace(training, logits=_logits_of_one_token(setting))
    # Without gradients the usual ones are made, as where layers are recomputed.
    evaluating = msgspec.structs.replace(training, logits=_usual_logits(setting))
    config = setting.config
    adapter = 0 if config.trains_all else _FP32 * adapter_parameters(setting.shape, config.lora)
    after = _after_the_run(setting)
    alone = msgspec.structs.replace(replying, weights=base_bytes(after), adapter=adapter, optimizer=0)
    row = row_limit(setting.config.data, setting.shape)
    return {
        "training": training,
        "evaluation": _with(setting, evaluating, _of_evaluation(setting)),
        "sample replies": _with(setting, replying, _of_replies(setting)),
        "chat": _with(after, alone, _of_a_text(after, row)),
        "export": _with(after, alone, _of_merging(after)),
    }


def cache_bytes(setting: Setting, tokens: int) -> int:
    """Keys and values of one text in every layer, the places kept free for its next tokens among them."""
    shape = setting.shape
    places = -(-(tokens + _PLACES_AT_ONCE) // _PLACES_AT_ONCE) * _PLACES_AT_ONCE
    return 2 * shape.stacks[-1].layers * shape.kv_heads * shape.head_dim * places * setting.dtype_bytes


def _after_the_run(setting: Setting) -> Setting:
    """Weights stay dequantized on a card, and the embedding beside it, for the run alone."""
    training = setting.config.training
    training = msgspec.structs.replace(training, keep_dequantized=False, embedding_in_ram=False)
    return replace(setting, config=msgspec.structs.replace(setting.config, training=training))


def _with(setting: Setting, held: Parts, activations: int) -> Parts:
    return msgspec.structs.replace(
        held,
        activations=int(setting.factor * activations),
        other=other_bytes(setting, activations),
    )


def _of_evaluation(setting: Setting) -> int:
    """One layer's work on a batch; a question with its examples may be longer than that."""
    longest = QUESTION_TOKENS if setting.config.checkpoints.questions else 0
    return bytes_a_layer(setting) * max(setting.tokens, longest) // setting.tokens


def _of_a_text(setting: Setting, tokens: int) -> int:
    """The cache, and one layer's work on the whole text."""
    return cache_bytes(setting, tokens) + bytes_a_layer(setting) * tokens // setting.tokens


def _of_replies(setting: Setting) -> int:
    """Of one sample, or of those written together: their caches, and a layer's work on all prompts."""
    row = setting.config.data.seq_len
    together = min(setting.config.checkpoints.evaluate_numbers, WRITTEN_TOGETHER)
    return max(_of_a_text(setting, min(row, _SAMPLE)), together * _of_a_text(setting, row))


def _of_merging(setting: Setting) -> int:
    """One weight at a time: the largest of a layer, or the embedding, read and copied in 16 bit."""
    shape = setting.shape
    largest = max((out * inner for _, out, inner in shape.all_linears), default=0)
    return max(_BYTES_MERGING * largest, 2 * 2 * shape.vocab_size * shape.hidden_size)


def _usual_logits(setting: Setting) -> int:
    return int(setting.factor * logit_bytes(setting, setting.shape.layers))


def _logits_of_one_token(setting: Setting) -> int:
    """In the compute dtype, in fp32, and sorted with their places to choose one."""
    return setting.shape.vocab_size * (setting.dtype_bytes + 4 * _FP32)
