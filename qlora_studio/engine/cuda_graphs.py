"""A micro-batch's way through the layers and back as two CUDA graphs: else a short one waits for Python.

source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import contextlib
import gc
import logging
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from qlora_kernels.scratch import held_scratch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from qlora_studio.engine.adapters import decoder_layers
from qlora_studio.engine.attention import starts_as_mask

_log = logging.getLogger(__name__)
_WARM_UP = 2  # micro-batches that run as they are: their kernels are compiled and chosen by then


@dataclass(frozen=True)
class _Way:
    """What is computed alike. equal: all rows are as long as they may be, so their attention is another"""

    tokens: int
    longest: int  # tokens that a row may have
    equal: bool


@dataclass(frozen=True)
class _Kind:
    """What a recording serves. room: rows, of which some may be empty"""

    way: _Way
    room: int


def let_passes_be(model: PreTrainedModel) -> None:
    """Whoever played them before: the layers run as they are."""
    vars(model.base_model).pop("forward", None)


class CudaGraphs:
    """Forward and backward pass of a model's layers, recorded once for each kind of batch and played from
    then on. What they hold meanwhile is theirs alone: `forget` gives it back.

    The backward pass adds to the gradients as they lie there; autograd sees none of the weights.
    """

    def __init__(self, model: PreTrainedModel, weights: Sequence[nn.Parameter]) -> None:
        """model: with compiled layers. weights: that learn; each has a gradient that is there to stay"""
        self._model, self._layers = model, _learning(decoder_layers(model), weights)
        self._seen: Counter[_Way] = Counter()
        self._recorded: dict[_Kind, _Recorded] = {}
        self._places: dict[int, _Places] = {}
        self._pool: Any = None
        self._broken = False
        self.recordings = 0
        base = model.base_model
        self._plain: Callable[..., Any] = types.MethodType(type(base).forward, base)
        base.forward = self._forward

    @property
    def are_played(self) -> bool:
        """Whether the newest micro-batches were."""
        return bool(self._recorded)

    @property
    def held_bytes(self) -> int:
        """That torch doesn't count as allocated between two recorded passes."""
        return max((recorded.held_bytes for recorded in self._recorded.values()), default=0)

    def forget(self) -> None:
        """Before anything else needs the memory. The next micro-batch is recorded anew."""
        if self._pool is None:
            return
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            with contextlib.suppress(RuntimeError):  # of a card that failed
                torch.cuda.synchronize()
        self._recorded.clear()
        self._places.clear()
        self._pool = None
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()

    def close(self) -> None:
        """The model is as it was."""
        self.forget()
        let_passes_be(self._model)

    def _forward(self, *inputs: Any, **named: Any) -> Any:
        """Of the model's stack of layers, which is called in its place."""
        embedded, mask = named.get("inputs_embeds"), named.get("attention_mask")
        if not torch.is_grad_enabled() or embedded is None or mask is None or mask.dtype != torch.int32:
            self.forget()
            return self._plain(*inputs, **named)
        embedded, starts, longest = embedded.detach(), mask[0, 0, 0], mask.shape[2]
        tokens, rows = embedded.shape[1], len(starts) - 1
        way = _Way(tokens, longest, equal=rows * longest == tokens)
        # Room for some rows more: few recordings serve all batches.
        kind = _Kind(way, rows if way.equal else 1 << (rows - 1).bit_length())
        padded = starts.new_full((kind.room + 1,), tokens)
        padded[: rows + 1] = starts
        given = embedded, named["position_ids"], padded
        self._seen[way] += 1
        if self._broken or self._seen[way] <= _WARM_UP:
            self.forget()  # the layers take as much memory as they are
        elif recorded := self._recorded.get(kind) or self._record(kind, *given):
            recorded.fill(*given)
            return BaseModelOutputWithPast(last_hidden_state=_played(recorded))
        embedded.requires_grad_()
        return BaseModelOutputWithPast(last_hidden_state=self._run(*given, longest=longest))

    def _run(self, embedded: Tensor, positions: Tensor, starts: Tensor, *, longest: int) -> Tensor:
        mask = starts_as_mask(starts, longest)
        hidden: Tensor = self._plain(
            inputs_embeds=embedded, position_ids=positions, attention_mask=mask, use_cache=False
        ).last_hidden_state
        return hidden

    def _record(self, kind: _Kind, embedded: Tensor, positions: Tensor, starts: Tensor) -> _Recorded | None:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        if kind.way.tokens not in self._places:
            self._places[kind.way.tokens] = _Places.like(embedded, positions)
        places, run = self._places[kind.way.tokens], partial(self._run, longest=kind.way.longest)
        random = torch.cuda.get_rng_state(embedded.device)
        try:
            made = _Recorded(run, self._layers, places, starts, self._pool)
        except RuntimeError as error:  # want of memory too; a card that failed says so again at once
            words = _in_a_line(_first_cause(error))
        else:
            self._recorded[kind] = made
            self.recordings += 1
            return made
        _log.warning("Layers run without CUDA graphs: %s", words)
        self._broken = True
        gc.collect()  # the error's frames, in which half a pass still lies
        end_recording(self._pool, embedded.device, random)
        self.forget()
        return None


@dataclass(frozen=True, eq=False)
class _Layer:
    """weights: whose gradients going backward through it gives; each has one that is there to stay"""

    module: nn.Module
    weights: tuple[nn.Parameter, ...]

    def add_gradients(self, end: GradientEdge, start: GradientEdge | None, grad: Tensor) -> Tensor:
        """Of all weights by one kernel, where autograd has one for each. Returns: the gradient of `start`, or
        `grad` where nobody asks for that

        grad: of `end`, which is what this layer's output becomes before the next layer
        """
        wanted: list[Any] = [*self.weights] if start is None else [*self.weights, start]
        found = list(torch.autograd.grad([end], wanted, [grad], allow_unused=True))
        before = grad if start is None else found.pop()
        learned: list[tuple[Any, Tensor]] = [
            (weight.grad, new) for weight, new in zip(self.weights, found, strict=True) if new is not None
        ]
        if learned:
            torch._foreach_add_(*map(list, zip(*learned, strict=True)))
        return before


def _learning(layers: nn.ModuleList, weights: Sequence[nn.Parameter]) -> list[_Layer]:
    """Each with those of its weights that learn. One that lies in no layer may be used by any."""
    inside = [{id(weight) for weight in layer.parameters()} for layer in layers]
    anywhere = {id(weight) for weight in weights}.difference(*inside)
    return [
        _Layer(layer, tuple(weight for weight in weights if id(weight) in own | anywhere))
        for layer, own in zip(layers, inside, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Places:
    """Where recordings of so many tokens, which are never played at once, read what they are given.

    embedded, grad: dtype [1, t, hidden_size]; positions: int64 [1, t]
    """

    embedded: Tensor
    positions: Tensor
    grad: Tensor

    @classmethod
    def like(cls, embedded: Tensor, positions: Tensor) -> _Places:
        """With room for these."""
        return cls(embedded.clone().requires_grad_(), positions.clone(), torch.empty_like(embedded))


class _Recorded:
    """Both passes for one kind of batch. starts: int32 [room + 1]"""

    def __init__(
        self,
        run: Callable[[Tensor, Tensor, Tensor], Tensor],
        layers: Sequence[_Layer],
        places: _Places,
        starts: Tensor,
        pool: Any,
    ) -> None:
        self._run, self._layers, self._places = run, layers, places
        self._starts = starts.clone()
        self._hidden = places.grad  # until it is made
        self._inputs: list[GradientEdge] = []  # of the layers
        self._written = held_scratch(starts.device)  # dequantized weights: not freed while this is played
        (self.play_forward, self.play_backward), self.held_bytes = record(
            [self._forward, self._backward], starts.device, pool
        )

    def fill(self, embedded: Tensor, positions: Tensor, starts: Tensor) -> None:
        """With a batch. starts: of as many rows as there is room for; those too many are empty"""
        with torch.no_grad():
            self._places.embedded.copy_(embedded)
        self._places.positions.copy_(positions)
        self._starts.copy_(starts)

    @property
    def hidden(self) -> Tensor:
        """dtype [1, t, hidden_size], what came out of the last layer; until the next batch is played."""
        return self._hidden.detach()

    def backward(self, grad: Tensor) -> None:
        """Adds to the gradients of all weights. grad: of `hidden`"""
        self._places.grad.copy_(grad)
        self.play_backward()

    def _forward(self) -> None:
        with self._noting_inputs():
            self._hidden = self._run(self._places.embedded, self._places.positions, self._starts)

    @contextlib.contextmanager
    def _noting_inputs(self) -> Iterator[None]:
        """Not themselves, which a layer needn't keep."""
        self._inputs = []

        def note(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._inputs.append(get_gradient_edge(given[0] if given else named["hidden_states"]))

        hooks = [layer.module.register_forward_pre_hook(note, with_kwargs=True) for layer in self._layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _backward(self) -> None:
        """Down to the lowest layer that learns, layer by layer: of one alone new gradients are held."""
        lowest = next(number for number, layer in enumerate(self._layers) if layer.weights)
        ends = [*self._inputs[1:], get_gradient_edge(self._hidden)]
        grad = self._places.grad
        for number in reversed(range(lowest, len(self._layers))):
            start = self._inputs[number] if number > lowest else None
            grad = self._layers[number].add_gradients(ends[number], start, grad)
        self._inputs, self._hidden = [], self._hidden.detach()


def _played(recorded: _Recorded) -> Tensor:
    """What comes out of the last layer, of the batch that it was filled with."""
    # What autograd takes for the weights, so that it goes backward here at all
    anchor = torch.zeros((), device=recorded.hidden.device, requires_grad=True)
    made: Tensor = _Passes.apply(anchor, recorded)  # type: ignore[no-untyped-call]
    return made


class _Passes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, recorded: _Recorded) -> Tensor:
        ctx.recorded = recorded
        recorded.play_forward()
        return recorded.hidden

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        ctx.recorded.backward(grad)
        return None, None


def record(
    passes: Sequence[Callable[[], None]], device: torch.device, pool: Any
) -> tuple[list[Callable[[], None]], int]:
    """What plays each of them, and the bytes that they hold between them which torch counts as free.

    Nothing is computed yet. Raises: RuntimeError where one looks at what the card has made; OutOfMemoryError.
    """
    torch.cuda.reset_peak_memory_stats(device)
    stream = torch.cuda.current_stream(device)
    plays = []
    try:
        for work in passes:
            graph = torch.cuda.CUDAGraph()
            # Other threads may ask the driver meanwhile, as the watch over memory does.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                work()
            plays.append(graph.replay)
    finally:
        torch.cuda.set_stream(stream)  # torch stays on that of a recording which can't be ended
    held = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)  # it is counted in `held_bytes` from now on
    return plays, held


def end_recording(pool: Any, device: torch.device, random: Tensor) -> None:
    """Where the driver broke it off torch can't end it: its allocator waits for that and gives nothing
    back till then, and random numbers are read from where the recording would have put them. The allocator of
    pinned memory may wait as well, which nobody can end.

    random: the generator's state before
    """
    end_allocation(pool, device)
    fresh = torch.Generator(device)
    fresh.set_state(random)
    torch.cuda.default_generators[device.index].graphsafe_set_state(fresh.graphsafe_get_state())


def end_allocation(pool: Any, device: torch.device) -> None:
    """Into a pool. Refused where torch has ended it already: then its graphs give it back, and once only."""
    with contextlib.suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(device.index, pool)
        torch._C._cuda_releasePool(device.index, pool)


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0]


def _first_cause(error: BaseException) -> BaseException:
    """What went wrong while recording; that the recording couldn't be ended then comes last."""
    while error.__context__ is not None:
        error = error.__context__
    return error
