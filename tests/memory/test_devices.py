"""The card's meter where NVML is there, lacks a part, fails, or is missing."""

from __future__ import annotations

import os
import platform
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from qlora_studio.memory import devices
from qlora_studio.memory.devices import card_reading, process_bytes, ram_reading


class NVMLError(Exception):
    """As pynvml has it."""


def fake_nvml(**changes: Any) -> SimpleNamespace:
    processes = [SimpleNamespace(pid=1, usedGpuMemory=1000), SimpleNamespace(pid=2, usedGpuMemory=None)]
    answers: dict[str, Any] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: f"card {index}",
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid.decode(),
        "nvmlDeviceGetMemoryInfo": lambda card: SimpleNamespace(total=80, used=30),
        "nvmlDeviceGetName": lambda card: card,
        "nvmlDeviceGetUtilizationRates": lambda card: SimpleNamespace(gpu=95),
        "nvmlDeviceGetTemperature": lambda card, sensor: 61,
        "nvmlDeviceGetPowerUsage": lambda card: 412_500,
        "nvmlDeviceGetComputeRunningProcesses": lambda card: processes,
        "nvmlDeviceGetCudaComputeCapability": lambda card: [8, 9],
    }
    return SimpleNamespace(NVMLError=NVMLError, NVML_TEMPERATURE_GPU=0, **(answers | changes))


def failing(*_: Any) -> Any:
    raise NVMLError("Not Supported")


@pytest.fixture
def nvml(monkeypatch):
    def use(**changes: Any) -> None:
        monkeypatch.setattr(devices, "_started", [])
        monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(**changes))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return use


def test_a_card_tells_memory_load_heat_power_and_others(nvml):
    nvml()
    card = card_reading(own_pids=[2])
    assert (card.name, card.total_bytes, card.used_bytes, card.free_bytes) == ("card 0", 80, 30, 50)
    assert (card.load, card.temperature_c, card.power_w, card.other_bytes) == (0.95, 61, 412.5, 1000)
    assert card.compute_capability == (8, 9)


def test_our_own_processes_are_no_others(nvml):
    nvml()
    assert card_reading(own_pids=[1]).other_bytes == 0


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ("nvmlDeviceGetUtilizationRates", "load"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetPowerUsage", "power_w"),
        ("nvmlDeviceGetComputeRunningProcesses", "other_bytes"),
        ("nvmlDeviceGetCudaComputeCapability", "compute_capability"),
    ],
)
def test_what_a_card_does_not_tell_is_none_and_the_rest_stays(nvml, asked, field):
    nvml(**{asked: failing})
    card = card_reading()
    assert getattr(card, field) is None
    assert card.total_bytes == 80


@pytest.mark.parametrize(
    ("capability", "multiplies"), [([9, 0], True), ([8, 9], True), ([8, 6], False), ([7, 5], False)]
)
def test_cards_from_ada_on_multiply_in_fp8(nvml, capability, multiplies):
    nvml(nvmlDeviceGetCudaComputeCapability=lambda card: capability)
    assert card_reading().multiplies_in_fp8 is multiplies


def test_a_card_that_does_not_tell_its_capability_may_multiply_in_fp8(nvml):
    nvml(nvmlDeviceGetCudaComputeCapability=failing)
    assert card_reading().multiplies_in_fp8


def test_the_kernels_need_the_same_card():
    from qlora_kernels import fp8

    assert fp8._LEAST_CARD == devices.FP8_LEAST


@pytest.mark.parametrize(
    "asked", ["nvmlDeviceGetMemoryInfo", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetCount"]
)
def test_a_card_that_disappears_is_no_card(nvml, asked):
    nvml(**{asked: failing})
    assert card_reading() is None


def test_a_driver_that_does_not_start_is_no_card(nvml):
    nvml(nvmlInit=failing)
    assert card_reading() is None


def test_no_nvml_is_no_card(monkeypatch):
    monkeypatch.setattr(devices, "_started", [])
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert card_reading() is None


@pytest.mark.parametrize(
    ("visible", "name"),
    [("1", "card 1"), ("1,0", "card 1"), ("GPU-abc", "GPU-abc"), ("", None), ("-1", None), ("7", None)],
)
def test_the_card_is_the_one_that_cuda_sees_first(nvml, monkeypatch, visible, name):
    nvml()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    card = card_reading()
    assert (card.name if card else None) == name


def test_a_name_in_bytes_is_plain_text(nvml):
    nvml(nvmlDeviceGetName=lambda card: b"H100\x1b[31m 80GB\xff")
    assert card_reading().name == "H100[31m 80GB\ufffd"


def test_the_machines_memory_is_known_everywhere():
    ram = ram_reading()
    assert 0 < ram.free_bytes <= ram.total_bytes
    assert ram.used_bytes == ram.total_bytes - ram.free_bytes
    assert 0 <= ram.load <= 1


def test_a_processs_memory_is_known_while_it_lives():
    assert process_bytes(os.getpid()) > 1_000_000
    assert process_bytes(2**22 + 1) is None


@pytest.mark.parametrize(
    ("told", "name", "dtype"),
    [
        ("model name\t: EPYC\nflags\t\t: fpu avx512f avx512_bf16\n", "EPYC", "bfloat16"),
        ("model name\t: Xeon\nflags\t\t: fpu amx_bf16 amx_tile\n", "Xeon", "bfloat16"),
        ("model name\t: EPYC\nflags\t\t: fpu avx512_bf16\n", "an H100", ""),  # not this processor
        ("model name\t: Core\nflags\t\t: fpu avx2\nmodel name\t: Core\n", "Core", ""),
        (None, platform.processor() or platform.machine(), ""),  # no Linux
    ],
)
def test_bfloat16_is_likely_where_the_processor_has_instructions_for_it(
    tmp_path, monkeypatch, told, name, dtype
):
    file = tmp_path / "cpuinfo"
    if told is not None:
        file.write_text(told, "utf-8")
    monkeypatch.setattr(devices, "_CPUINFO", file)
    assert devices.likely_dtype(name) == dtype
