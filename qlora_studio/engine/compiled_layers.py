"""The decoder layers compiled: one graph serves all layers of a kind, with or without recomputing."""

from __future__ import annotations

import errno
import logging
import os
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from qlora_kernels.lora_layers import FrozenLinear4bit, base_of, keep_in_one, products_in
from qlora_kernels.side_by_side import write_in_place
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qlora_studio.config.run_config import RunConfig
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.attention import flash_takes_heads_of
from qlora_studio.engine.hosted_inputs import HostedInputs
from qlora_studio.engine.merged_products import merge_products
from qlora_studio.memory.compiling import not_compiled_reason
from qlora_studio.runs.space import is_disk_full

_log = logging.getLogger(__name__)
# With inputs and weights of all layers in e4m3 the sample model's loss on gsm8k, before it learns, is 1.34 %
# higher; without the first and last two's 0.35 % (24 rows, by the plain reference): these stay in 16 bit.
_IN_16_BIT, _IN_FP8_BETWEEN = 2, 8  # of fewer than 16 layers one, of fewer than 8 none
_GRAPHS = 64  # of one function: kinds of layers x recomputed or not x adapters on or off


def compile_layers(
    layers: nn.ModuleList,
    recomputed: int,
    hosted: HostedInputs | None = None,
    *,
    backend: str | Callable[..., Any] = "inductor",
) -> None:
    """Each layer's forward is compiled where gradients are wanted; without them it stays as it is.

    The first `recomputed` layers keep nothing but their input. They do it inside their graph: a checkpoint
    around it would hide from the compiler what is needed twice.

    hosted: where that input goes; None: it stays on the card
    """
    _configure()
    _forget_other_runs()
    whole, again = _Compiled(_forward, backend), _Compiled(_forward_twice, backend)
    for module in layers.modules():
        if isinstance(module, FrozenLinear4bit):
            module.look_at_weight()
    for number, layer in enumerate(layers):
        layer.gradient_checkpointing = False  # type: ignore[assignment]
        forward: Callable[..., Any] = again if number < recomputed else whole
        if hosted is not None and number < recomputed:
            forward = partial(_hosted, again, hosted, number)
        layer.forward = partial(forward, layer) if hosted else types.MethodType(forward, layer)


@dataclass(frozen=True)
class InFp8:
    """count: of the linear layers that multiply so. refused: name -> why one that was asked to doesn't"""

    count: int
    refused: dict[str, str]


def multiply_in_fp8(layers: nn.ModuleList, wanted: bool) -> InFp8:
    """Which of these do, from now on, where they are compiled.

    What can't be multiplied so keeps its products in 16 bit, and so do the first and the last layers.
    """
    count, refused = 0, {}
    ends = min(_IN_16_BIT, len(layers) // _IN_FP8_BETWEEN)
    for number, layer in enumerate(layers):
        between = ends <= number < len(layers) - ends
        for name, module in layer.named_modules():
            if isinstance(module, FrozenLinear4bit):
                module.fp8_scales = None
                if not (wanted and between):
                    continue
                reason = module.multiply_in_fp8()
                count += reason is None
                if reason is not None:
                    refused[f"{number}.{name}"] = reason
    return InFp8(count, refused)


def keep_dequantized(layers: nn.ModuleList, wanted: bool) -> None:
    """Whether weights on a card stay dequantized beside their codes; on a processor free memory decides."""
    for layer in layers:
        on_card = [module for module in products_in(layer) if base_of(module).weight.is_cuda]
        for module in on_card:
            base_of(module).keep(False)
        if wanted:
            keep_in_one(on_card)


def why_not_compiled(adapted: AdaptedModel, config: RunConfig) -> str | None:
    """In words for the log; None where the layers of this run can be compiled."""
    model, storage, device = adapted.causal_lm, adapted.base.storage, adapted.base.device
    if not device.is_cuda:
        return "compiling a layer on a processor takes longer than it saves"
    if model.config.is_encoder_decoder:
        return "sources and targets come in ever new shapes"
    if getattr(model.config, "attn_logit_softcapping", None):
        return "its attention bends the scores"
    if any(getattr(model.config, name, 0) for name in ("attention_dropout", "attn_pdrop")):
        return "its attention drops some of the scores"
    if not flash_takes_heads_of(model, storage.compute_dtype, device.torch_device):
        return "torch's flash attention doesn't take its heads on this card"
    return not_compiled_reason(str(model.config.model_type), config)


def let_layers_be(layers: nn.ModuleList) -> None:
    """Takes `compile_layers` back."""
    for layer in layers:
        vars(layer).pop("forward", None)


class _Compiled:
    """Runs a layer compiled where gradients are wanted, and as it is written where the compiler fails."""

    def __init__(self, function: Callable[..., Any], backend: str | Callable[..., Any]) -> None:
        self._plain = function
        self._compiled: Callable[..., Any] | None = torch.compile(
            function, backend=partial(_compile, backend), fullgraph=True
        )

    def __call__(self, layer: nn.Module, *inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return _forward(layer, *inputs, **named)  # chat and evaluation come in ever new shapes
        if self._compiled is not None:
            from torch._dynamo.exc import TorchDynamoException  # loads a second's worth of compiler
            from torch._inductor.exc import InductorError

            try:
                return self._compiled(layer, *inputs, **named)
            except (TorchDynamoException, InductorError) as error:
                if is_disk_full(error):  # as it comes where a kernel is compiled when it is called
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
                self._compiled = None
                words = str(error).strip().partition("\n")[0]
                _log.warning("%s runs uncompiled: %s: %s", type(layer).__name__, type(error).__name__, words)
        return self._plain(layer, *inputs, **named)


def _compile(backend: str | Callable[..., Any], graph: Any, inputs: Any) -> Callable[..., Any]:
    """A layer's graph, after what has the same input was put together."""
    from torch._dynamo import lookup_backend

    merge_products(graph)
    compiled: Callable[..., Any] = lookup_backend(backend)(graph, inputs)
    return compiled


def _hosted(
    again: _Compiled,
    hosted: HostedInputs,
    number: int,
    layer: nn.Module,
    hidden: Tensor,
    *others: Any,
    **named: Any,
) -> Any:
    with hosted.of_layer(number, hidden):
        return again(layer, hidden, *others, **named)


def _forward(layer: nn.Module, *inputs: Any, **named: Any) -> Any:
    return type(layer).forward(layer, *inputs, **named)


def _forward_twice(layer: nn.Module, *inputs: Any, **named: Any) -> Tensor:
    output: Tensor = checkpoint(partial(_forward, layer), *inputs, use_reentrant=False, **named)
    return output


def _forget_other_runs() -> None:
    """What differs from an earlier run of this process, as the length of rows or an adapter's scaling, would
    be an unknown to this one's graph: slower kernels, and code for the processor, which wants a C++ compiler.
    """
    torch._dynamo.reset()


def _configure() -> None:
    import torch._dynamo.config as dynamo
    import torch._functorch.config as functorch
    import torch._inductor.config as inductor

    dynamo.recompile_limit = max(dynamo.recompile_limit, _GRAPHS)
    functorch.force_non_lazy_backward_lowering = (
        True  # what can't be compiled is known before the backward pass
    )
    try:
        write_in_place()
    except (ImportError, AttributeError) as error:
        _log.warning("Gradients of products with one input are copied side by side: %s", error)
    inductor.combo_kernels = True  # an adapter's many small tensors are rounded in one kernel
    inductor.fallback_random = True  # dropout draws the numbers that it draws uncompiled (R3)
    # What is cheap to make again is not kept: H100, Llama 8B shape, 4 x 2048: see docs/BENCHMARKS.md
    functorch.ban_recompute_used_far_apart = False
    functorch.ban_recompute_long_fusible_chains = False
    functorch.ban_recompute_materialized_backward = False
    functorch.ban_recompute_reductions = False
