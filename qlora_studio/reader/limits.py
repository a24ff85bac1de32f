"""How much memory a child may take: a limit of the system, where it has one."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path


def limit_memory(more_bytes: int) -> None:
    """From now on at most so much more data. Asking for more is a MemoryError, or ends the process."""
    if sys.platform != "linux":
        return  # elsewhere the limit is not kept by the system: the parent's limit on time stays
    import resource

    with contextlib.suppress(OSError, ValueError):  # a lower limit that somebody set before is kept
        resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + more_bytes,) * 2)


def _data_bytes() -> int:
    """Private memory that is mapped now; other than the address space it holds no reserved ranges."""
    found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    return int(found.group(1)) * 1024 if found else 0
