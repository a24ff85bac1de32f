"""What ten looks a second at other programs' memory cost: the share of a core that the thread takes.

    python -m tests.benchmarks.memory_watch [--seconds 20]

Watches, one after the other: RAM with the real psutil, a card with its own driver where there is one, and a
card whose driver is stood in for by one that answers at once with 20 processes. Torch's counters, which are
asked for in a container alone, aren't in it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

from qlora_studio.engine.memory_watch import MemoryWatch
from qlora_studio.memory import devices
from qlora_studio.memory.others import OthersInRam, OthersOnCard


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0)
    seconds = parser.parse_args().seconds
    _measure("RAM, psutil", OthersInRam().look, seconds)
    if devices.CardTaken().look() is not None:
        _measure("card, its own driver", OthersOnCard().look, seconds)
    _stand_in_for_a_driver()
    _measure("card, a driver that answers at once", OthersOnCard().look, seconds)
    return 0


def _measure(name: str, look: Callable[[Callable[[], int]], int | None], seconds: float) -> None:
    watch = MemoryWatch(lambda: look(lambda: 0))
    start = time.monotonic()
    watch.start()
    time.sleep(seconds)
    watch.close()
    passed = time.monotonic() - start
    share, each = watch.processor_s / passed, watch.processor_s / watch.looks
    print(
        f"{name}: {watch.looks / passed:.1f} looks a second, {each * 1e6:.0f} µs each, {share:.3%} of a core"
    )


def _stand_in_for_a_driver() -> None:
    processes = [SimpleNamespace(pid=os.getpid() + n, usedGpuMemory=1 << 30) for n in range(20)]
    driver = SimpleNamespace(
        NVMLError=OSError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda card: SimpleNamespace(used=30 << 30),
        nvmlDeviceGetComputeRunningProcesses=lambda card: processes,
    )
    sys.modules["pynvml"] = driver  # type: ignore[assignment]
    devices._started[:] = [driver]


if __name__ == "__main__":
    sys.exit(main())
