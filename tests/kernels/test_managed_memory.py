"""Managed memory that is brought to the card. The driver is stood in for; engine/test_card.py has one."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from qlora_kernels.cuda import launching, managed_memory
from qlora_kernels.cuda.managed_memory import bring_to_card, give_back

CARD = torch.device("cuda", 1)
ITS_NUMBER, STREAM = 5, 77


class Driver:
    """asked: what is to be brought where, on which stream"""

    def __init__(self, refuses: int = 0) -> None:
        self.asked: list[tuple[int, ...]] = []
        self._refuses = refuses

    def cuDeviceGet(self, number: Any, ordinal: ctypes.c_int) -> int:
        assert ordinal.value == CARD.index
        number._obj.value = ITS_NUMBER
        return 0

    def cuMemPrefetchAsync(self, *given: Any) -> int:
        self.asked.append(tuple(value.value for value in given))
        return self._refuses

    def cuMemFree_v2(self, start: ctypes.c_uint64) -> int:
        self.asked.append((start.value,))
        return self._refuses

    def cuGetErrorString(self, failed: int, words: Any) -> int:
        words._obj.value = f"error {failed}".encode()
        return 0


def stand_in(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Driver:
    for module in (launching, managed_memory):
        monkeypatch.setattr(module, "driver", lambda: driver)
    monkeypatch.setattr(managed_memory, "_stream", lambda _: SimpleNamespace(cuda_stream=STREAM))
    return driver


def test_each_tensor_is_brought_whole_on_the_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = stand_in(monkeypatch, Driver())
    tensors = [torch.zeros(3, 5), torch.zeros(7, dtype=torch.uint8)]
    bring_to_card(tensors, CARD)
    assert driver.asked == [
        (tensors[0].data_ptr(), 60, ITS_NUMBER, STREAM),
        (tensors[1].data_ptr(), 7, ITS_NUMBER, STREAM),
    ]


def test_each_tensor_is_given_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = stand_in(monkeypatch, Driver())
    tensors = [torch.zeros(3, 5), torch.zeros(7, dtype=torch.uint8)]
    give_back(tensors)
    assert driver.asked == [(tensor.data_ptr(),) for tensor in tensors]


def test_what_the_driver_refuses_is_raised_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = stand_in(monkeypatch, Driver(refuses=101))
    with pytest.raises(RuntimeError, match="CUDA error: error 101"):
        bring_to_card([torch.zeros(3), torch.zeros(3)], CARD)
    assert len(driver.asked) == 1
