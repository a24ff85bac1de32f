"""The card and the machine's memory as they are now: name, total, used, load, heat, other programs."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

FP8_LEAST = (8, 9)  # compute capability of Ada; as qlora_kernels.fp8 has it
_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = frozenset(("avx512_bf16", "amx_bf16"))  # as Linux names them


class CardReading(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a card. None: the driver doesn't tell."""

    name: str
    total_bytes: int
    used_bytes: int
    load: float | None  # 0 to 1
    temperature_c: int | None
    power_w: float | None
    other_bytes: int | None  # of processes that aren't ours
    compute_capability: tuple[int, int] | None = None

    @property
    def free_bytes(self) -> int:
        """What a run may take."""
        return self.total_bytes - self.used_bytes

    @property
    def multiplies_in_fp8(self) -> bool:
        """False only where it is known to be older than Ada."""
        return self.compute_capability is None or self.compute_capability >= FP8_LEAST


class RamReading(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the machine's memory. `load`: of all cores, 0 to 1, since the look before."""

    total_bytes: int
    free_bytes: int  # what programs can get without swapping
    load: float

    @property
    def used_bytes(self) -> int:
        """All that isn't free."""
        return self.total_bytes - self.free_bytes


def card_reading(own_pids: Collection[int] = ()) -> CardReading | None:
    """The first card that CUDA programs see; None without one, or where its driver fails.

    own_pids: processes that don't count as others, such as the engine
    """
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        card = _first_visible(nvml)
        if card is None:
            return None
        memory = nvml.nvmlDeviceGetMemoryInfo(card)
        return CardReading(
            name=_text(nvml.nvmlDeviceGetName(card)),
            total_bytes=int(memory.total),
            used_bytes=int(memory.used),
            load=_told(lambda: nvml.nvmlDeviceGetUtilizationRates(card).gpu / 100),
            temperature_c=_told(lambda: nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU)),
            power_w=_told(lambda: nvml.nvmlDeviceGetPowerUsage(card) / 1000),
            other_bytes=_told(lambda: _bytes_of_others(nvml, card, own_pids)),
            compute_capability=_told(lambda: tuple(nvml.nvmlDeviceGetCudaComputeCapability(card))),
        )
    except nvml.NVMLError:  # a card that fell off the bus, a driver that was updated under us
        return None


class CardTaken:
    """What is in use on that card, for who looks often: a shorter look than `card_reading`.

    The card is looked up once, and its driver's list of processes, which costs most, is asked for again only
    where another number of bytes is in use than before.
    """

    def __init__(self) -> None:
        self._card: Any = None
        self._used = -1
        self._by_process: dict[int, int] = {}

    def look(self) -> tuple[int, dict[int, int]] | None:
        """Bytes in use, and of each process that the driver lists; None without a card."""
        nvml = _nvml()
        if nvml is None:
            return None
        try:
            if self._card is None:
                self._card = _first_visible(nvml)
            if self._card is None:
                return None
            used = int(nvml.nvmlDeviceGetMemoryInfo(self._card).used)
            if used != self._used:
                processes = _told(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(self._card)) or ()
                self._by_process = {int(each.pid): int(each.usedGpuMemory or 0) for each in processes}
                self._used = used
        except nvml.NVMLError:
            self._card, self._used = None, -1  # one that comes back may be another
            return None
        return used, self._by_process


def device_name(device: str) -> str:
    """What measurements on it are kept under. device: "cuda" | "cpu"."""
    card = card_reading() if device == "cuda" else None
    return card.name if card is not None else processor_name()


def ram_reading() -> RamReading:
    """Of this machine."""
    import psutil

    memory = psutil.virtual_memory()
    return RamReading(
        total_bytes=memory.total, free_bytes=memory.available, load=psutil.cpu_percent(interval=None) / 100
    )


def processor_name() -> str:
    """As it calls itself: what speeds measured on a CPU are kept under."""
    return _said_of_processor("model name") or platform.processor() or platform.machine() or "CPU"


def likely_dtype(device_name: str) -> str:
    """What the compute dtype "auto" will be there, before the engine has timed it: "bfloat16" on a processor
    with instructions for it; "" where that isn't known.
    """
    is_fast = not _BFLOAT16_FLAGS.isdisjoint(_said_of_processor("flags").split())
    return "bfloat16" if is_fast and device_name == processor_name() else ""


def _said_of_processor(what: str) -> str:
    """By Linux, of its first core; else empty."""
    try:
        with _CPUINFO.open(encoding="utf-8") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(what)), "")
    except OSError:
        return ""


def process_bytes(pid: int) -> int | None:
    """Memory that a process holds in RAM; None where it is gone or not ours to see."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


_starting = threading.Lock()
_started: list[Any] = []  # nvml once it was started, None where it can't be


def _nvml() -> Any | None:
    with _starting:
        if not _started:
            _started.append(_start_nvml())
    return _started[0]


def _start_nvml() -> Any | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError):  # no driver, or one that is broken
        return None
    return pynvml


def _first_visible(nvml: Any) -> Any | None:
    """As CUDA_VISIBLE_DEVICES has it, where that is set."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(first.encode())
    if not first.isdigit() or int(first) >= nvml.nvmlDeviceGetCount():
        return None
    return nvml.nvmlDeviceGetHandleByIndex(int(first))


def _bytes_of_others(nvml: Any, card: Any, own_pids: Collection[int]) -> int:
    processes = nvml.nvmlDeviceGetComputeRunningProcesses(card)
    return sum(int(process.usedGpuMemory or 0) for process in processes if process.pid not in own_pids)


def _told(ask: Any) -> Any:
    """The answer, or None: many cards don't tell their power, and containers not their processes."""
    import pynvml

    try:
        return ask()
    except (pynvml.NVMLError, UnicodeDecodeError):
        return None


def _text(name: str | bytes) -> str:
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
    return "".join(mark for mark in text if mark.isprintable())[:80]
