"""What a run won't do as its settings ask, and why: what terminal and window say before it starts."""

from __future__ import annotations

from collections.abc import Iterator

from qlora_studio.config.architecture import as_trained
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import RunConfig
from qlora_studio.memory.compiling import (
    LAYERS_FOR_WEIGHTS,
    embedding_stays,
    in_16_bit,
    not_fp8_reason,
    not_in_ram_reason,
    not_kept_dequantized,
    not_kept_dequantized_reason,
)
from qlora_studio.memory.promise import Promise


def not_as_asked(
    shape: ModelShape, config: RunConfig, promised: Promise, *, on_card: bool, multiplies_in_fp8: bool
) -> tuple[str, ...]:
    """Sentences. multiplies_in_fp8: of a card; False only where it is known to be too old"""
    config = as_trained(config, shape)
    found = [*_in_16_bit(shape, config, on_card, multiplies_in_fp8)]
    if on_card:
        found += [*_not_kept_dequantized(shape, config, promised), *_embedding_stays(shape, config)]
    return tuple(found)


def _in_16_bit(shape: ModelShape, config: RunConfig, on_card: bool, multiplies_in_fp8: bool) -> Iterator[str]:
    """Why products aren't made in fp8, where they are to be."""
    if not config.training.fp8:
        return
    reason = not_fp8_reason(shape.family, config)
    if not on_card:
        reason = "there is no card"
    elif not multiplies_in_fp8:
        reason = "the card is older than Ada"
    if reason is not None:
        yield in_16_bit(reason)


def _not_kept_dequantized(shape: ModelShape, config: RunConfig, promised: Promise) -> Iterator[str]:
    """Why weights on a card don't stay dequantized, where they are to."""
    if not config.training.keep_dequantized:
        return
    reason = not_kept_dequantized_reason(shape.family, config)
    if promised.gives_up_dequantized:
        reason = LAYERS_FOR_WEIGHTS
    if reason is not None:
        yield not_kept_dequantized(reason)


def _embedding_stays(shape: ModelShape, config: RunConfig) -> Iterator[str]:
    """Why the embedding isn't in RAM beside a card, where it is to be."""
    if config.training.embedding_in_ram:
        reason = not_in_ram_reason(shape, config)
        if reason is not None:
            yield embedding_stays(reason)
