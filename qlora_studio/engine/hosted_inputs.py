"""What goes into recomputed layers, in the host's memory until the backward pass: a card holds a few."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from qlora_studio.engine.pinned_memory import in_ram


@dataclass(eq=False)
class _Kept:
    """host: pinned, where a card has it from. sent, came: when its way there and back ends."""

    number: int
    host: Tensor
    sent: torch.cuda.Event | None = None
    came: torch.cuda.Event | None = None


class HostedInputs:
    """Of the layers of one model, by their number. Copies go beside the computation, bit for bit."""

    def __init__(self) -> None:
        self._latest: dict[int, _Kept] = {}
        self._leaving: deque[tuple[_Kept, Tensor]] = deque()  # still on the card
        self._coming: dict[_Kept, Tensor] = {}
        self._stream: torch.cuda.Stream | None = None

    @contextmanager
    def of_layer(self, number: int, hidden: Tensor) -> Iterator[None]:
        """Inside, what autograd saves of `hidden` goes to the host; all else it saves stays where it is.

        hidden: dtype [batch, tokens, hidden_size]
        """
        if number == 0:
            self._forget()
        # The graph keeps its hooks: one that knew the tensor would keep it on the card.
        input_at = hidden.data_ptr(), hidden.shape, hidden.dtype
        with saved_tensors_hooks(partial(self._pack, number, input_at), self._unpack):
            yield

    def let_go(self) -> None:
        """Of all, after a run: layers that stay for a chat know this still."""
        self._forget()
        self._latest.clear()

    def _forget(self) -> None:
        """What a pass left behind that an error broke off."""
        if self._stream is not None and (self._leaving or self._coming):
            # Their memory is taken again on this stream: not before the copies from and to it have ended.
            torch.cuda.current_stream().wait_stream(self._stream)
        self._leaving.clear()
        self._coming.clear()

    def _pack(self, number: int, input_at: tuple[object, ...], saved: Tensor) -> Tensor | _Kept:
        is_input = (saved.data_ptr(), saved.shape, saved.dtype) == input_at
        return self._send(number, saved.detach()) if is_input else saved

    def _unpack(self, packed: Any) -> Tensor:
        if not isinstance(packed, _Kept):
            assert isinstance(packed, Tensor)
            return packed
        return self._fetch(packed)

    def _send(self, number: int, tensor: Tensor) -> _Kept:
        self._latest.pop(number, None)  # torch gives its pinned memory again, when the copies are done
        host = in_ram(tensor.shape, tensor.dtype, pinned=tensor.is_cuda)
        kept = self._latest[number] = _Kept(number, host)
        if not tensor.is_cuda:
            host.copy_(tensor)
            return kept
        if self._stream is None:
            self._stream = torch.cuda.Stream(tensor.device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            host.copy_(tensor, non_blocking=True)
            kept.sent = self._stream.record_event()
        self._leaving.append((kept, tensor))
        while len(self._leaving) > 1:
            # Who takes its memory next on this stream comes after the copy; `record_stream` would keep it.
            earlier, _ = self._leaving.popleft()
            assert earlier.sent is not None
            current.wait_event(earlier.sent)
        return kept

    def _fetch(self, kept: _Kept) -> Tensor:
        if self._stream is None:
            return kept.host.clone()
        found = next((tensor for leaving, tensor in self._leaving if leaving is kept), None)
        if found is None:
            if kept not in self._coming:
                self._begin_fetching(kept)
            found = self._coming.pop(kept)
            assert kept.came is not None
            torch.cuda.current_stream().wait_event(kept.came)
        self._let_leave()
        if before := self._latest.get(kept.number - 1):
            self._begin_fetching(before)
        return found

    def _let_leave(self) -> None:
        """The last layer's input was on its way as the backward pass began."""
        while self._leaving:
            left, _ = self._leaving.popleft()
            assert left.sent is not None
            torch.cuda.current_stream().wait_event(left.sent)

    def _begin_fetching(self, kept: _Kept) -> None:
        assert self._stream is not None
        target = torch.empty(kept.host.shape, dtype=kept.host.dtype, device=self._stream.device)
        self._stream.wait_stream(torch.cuda.current_stream())  # whatever had this memory before
        with torch.cuda.stream(self._stream):
            target.copy_(kept.host, non_blocking=True)
            kept.came = self._stream.record_event()
        self._coming[kept] = target
