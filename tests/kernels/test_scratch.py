"""One piece of memory for weights that come and go; a processor's stands in for a card's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from qlora_kernels.scratch import forget_scratch, held_scratch, scratch, scratches
from torch import Tensor

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_held(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    forget_scratch()
    yield
    forget_scratch()


def test_the_next_is_written_where_the_last_was_and_a_larger_one_elsewhere() -> None:
    first = scratch((4, 8), torch.float32, CPU)
    assert (first.shape, first.dtype) == ((4, 8), torch.float32)
    assert scratch((2, 8), torch.bfloat16, CPU).data_ptr() == first.data_ptr()
    larger = scratch((8, 8), torch.float32, CPU)
    assert larger.data_ptr() != first.data_ptr()
    assert scratch((4, 8), torch.float32, CPU).data_ptr() == larger.data_ptr()


def test_what_has_become_too_small_goes_before_the_larger_one_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scratch((4, 8), torch.float32, CPU)
    held: list[Tensor | None] = []
    make = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *size, **named: (held.append(held_scratch(CPU)), make(*size, **named))[1]
    )
    scratch((8, 8), torch.float32, CPU)
    assert held == [None]


def test_a_recording_takes_what_is_held_and_what_is_too_large_for_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = scratch((4, 8), torch.float32, CPU)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert scratch((4, 8), torch.float32, CPU).data_ptr() == held.data_ptr()
    assert scratch((8, 8), torch.float32, CPU).data_ptr() != held.data_ptr()
    still = held_scratch(CPU)
    assert still is not None
    assert still.numel() == 4 * 8 * 4


def test_forgotten_it_is_made_anew() -> None:
    scratch((4, 8), torch.float32, CPU)
    forget_scratch()
    assert held_scratch(CPU) is None
    assert scratch((2, 8), torch.float32, CPU).shape == (2, 8)
    held = held_scratch(CPU)
    assert held is not None
    assert held.numel() == 2 * 8 * 4


def test_several_at_once_lie_in_one_piece_and_not_on_each_other() -> None:
    one, two = scratches([(3, 5), (2, 8)], torch.bfloat16, CPU)
    assert (one.shape, two.shape) == ((3, 5), (2, 8))
    assert two.data_ptr() - one.data_ptr() == 256  # where a card's products want them to begin
    held = held_scratch(CPU)
    assert held is not None
    assert held.data_ptr() == one.data_ptr()
