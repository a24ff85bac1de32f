"""Decodes a part of a long metrics file for `metric_parts`, in a process of its own.

`python -P -m qlora_studio.runs.metric_part_child START END`, the file as its input.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from qlora_studio.runs.metric_parts import write_part
from qlora_studio.runs.metrics import MetricsTail


def main() -> None:
    """Answers on its output with all that was measured in bytes START to END - 1."""
    start, end = map(int, sys.argv[1:])
    tail = MetricsTail(Path(), start)
    tail.read_up_to(sys.stdin.fileno(), end)
    try:
        with open(sys.stdout.fileno(), "wb", closefd=False) as output:
            write_part(output, tail.facts(), tail.metrics.columns())
    except OSError:  # whoever asked is gone, or no longer wants it
        os._exit(1)


if __name__ == "__main__":
    main()
