"""How a run computes its layers: compiled or as they are written, in which numbers, and what lies where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from qlora_studio.config.run_config import HOST, RunConfig
from qlora_studio.engine.adapters import AdaptedModel, decoder_layers
from qlora_studio.engine.compiled_layers import (
    InFp8,
    compile_layers,
    keep_dequantized,
    let_layers_be,
    multiply_in_fp8,
    why_not_compiled,
)
from qlora_studio.engine.embedding_in_ram import put_in_ram
from qlora_studio.engine.hosted_inputs import HostedInputs
from qlora_studio.memory.compiling import (
    embedding_stays,
    in_16_bit,
    not_fp8_reason,
    not_in_ram_reason,
    not_kept_dequantized,
    not_kept_dequantized_reason,
    partly_in_16_bit,
    uncompiled,
)
from qlora_studio.models.shapes import model_shape

_INPUTS_STAY = "What goes into recomputed layers stays on the card: it's an encoder-decoder."


@dataclass(frozen=True, eq=False)
class LayerSetup:
    """As it was set up.

    recomputed:        layers whose activations are computed again
    hosted:            where the inputs of these go; None: they stay on the device
    not_compiled:      why layers run as they are written; None: they are compiled
    multiplies_in_fp8: whether products of frozen weights are made in that
    keeps_dequantized: whether 4-bit weights stay so on a card
    notes:             what is otherwise than asked
    """

    recomputed: int
    hosted: HostedInputs | None
    not_compiled: str | None
    multiplies_in_fp8: bool
    keeps_dequantized: bool
    notes: tuple[str, ...]


def set_layers_up(adapted: AdaptedModel, config: RunConfig, recomputed: int) -> LayerSetup:
    """From now on, whatever was before. config: as it is computed

    Raises: PinnedMemoryError.
    """
    on_card, model = adapted.base.device.is_cuda, adapted.causal_lm
    layers = decoder_layers(model)
    asks_for_ram = config.training.recompute == HOST and on_card
    hosted = HostedInputs() if asks_for_ram and not model.config.is_encoder_decoder else None
    notes = [_INPUTS_STAY] if asks_for_ram and hosted is None else []

    family, not_compiled = str(model.config.model_type), why_not_compiled(adapted, config)
    not_kept = not_kept_dequantized_reason(family, config) or uncompiled(not_compiled)
    asks_to_keep = config.training.keep_dequantized and on_card  # else memory decides
    keeps = asks_to_keep and not_kept is None
    keep_dequantized(layers, keeps)  # before it is asked for fp8, which takes the codes

    not_fp8 = uncompiled(not_compiled) or not_fp8_reason(family, config)
    in_fp8 = InFp8(0, {})
    if not_compiled is None:
        in_fp8 = multiply_in_fp8(layers, wanted=config.training.fp8 and not_fp8 is None)
        compile_layers(layers, recomputed, hosted)
    else:
        let_layers_be(layers)
        recompute(model, recomputed, hosted)

    notes += _not_in_fp8(config, not_fp8, in_fp8)
    if asks_to_keep and not_kept is not None:
        notes.append(not_kept_dequantized(not_kept))
    if config.training.embedding_in_ram and on_card:
        notes += _put_embedding_in_ram(model, config)
    return LayerSetup(recomputed, hosted, not_compiled, in_fp8.count > 0, keeps, tuple(notes))


def recompute(model: PreTrainedModel, count: int, hosted: HostedInputs | None = None) -> int:
    """The first `count` layers keep nothing but their input, and compute again in the backward pass.

    hosted: where that input goes; None: it stays on the device
    """
    for number, layer in enumerate(cast(Iterable[Any], decoder_layers(model))):
        layer.gradient_checkpointing = number < count
        layer._gradient_checkpointing_func = partial(_checkpoint, hosted, number)
    return count


def _checkpoint(
    hosted: HostedInputs | None, number: int, function: Callable[..., Tensor], *inputs: Tensor
) -> Tensor:
    with hosted.of_layer(number, inputs[0]) if hosted is not None else nullcontext():
        output: Tensor = checkpoint(function, *inputs, use_reentrant=False)
    return output


def _not_in_fp8(config: RunConfig, reason: str | None, in_fp8: InFp8) -> Iterator[str]:
    """A note where that was asked for and isn't so, or not everywhere."""
    if not config.training.fp8:
        return
    if reason is None and not in_fp8.count:
        reason = next(iter(in_fp8.refused.values()), "it has no fused 4-bit layer")
    if reason is not None:
        yield in_16_bit(reason)
    elif in_fp8.refused:
        yield partly_in_16_bit(in_fp8.count, in_fp8.refused)


def _put_embedding_in_ram(model: PreTrainedModel, config: RunConfig) -> Iterator[str]:
    """A note where it stays on the card."""
    reason = not_in_ram_reason(model_shape(config.model.path), config)
    if reason is None and not put_in_ram(model):
        reason = "it does more than look rows up"
    if reason is not None:
        yield embedding_stays(reason)
