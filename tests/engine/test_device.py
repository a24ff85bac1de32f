"""What the device gives back."""

from __future__ import annotations

import platform

import psutil
import pytest
import torch

from qlora_studio.engine.device import Device

MIB = 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries give back by themselves")
def test_a_processor_gives_back_what_lies_freed_between_tensors_that_stay() -> None:
    device = Device(torch.device("cpu"), "processor", 0)
    resident = psutil.Process().memory_info
    tensors = [torch.ones(MIB // 64) for _ in range(16 * 200)]  # 200 MiB, small enough for the heap
    kept = tensors[::8]
    full = resident().rss
    del tensors

    device.empty_cache()

    assert full - resident().rss > 100 * MIB
    assert all(bool((tensor == 1).all()) for tensor in kept)


def test_a_card_gives_back_pinned_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append("of the card"))
    monkeypatch.setattr(torch.accelerator, "empty_host_cache", lambda: given.append("pinned"), raising=False)
    Device(torch.device("cuda"), "a card", 0).empty_cache()
    assert given == ["of the card", "pinned"]

    monkeypatch.delattr(torch.accelerator, "empty_host_cache")
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: given.append("by 2.11's name"), raising=False)
    Device(torch.device("cuda"), "a card", 0).empty_cache()
    assert given[2:] == ["of the card", "by 2.11's name"]
