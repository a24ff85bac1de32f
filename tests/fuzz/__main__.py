"""Good files of every kind, spoiled by chance and read: `python -m tests.fuzz --minutes 10 --seed 1 [KIND]`.

The kinds are those of `kinds.py`. Without one the time is shared by all. What breaks a promise is kept as a
folder and said with the line that repeats it; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Prints a line a kind, and each crash."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("kind", nargs="*")
    parser.add_argument("--minutes", type=float, default=10, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="only this one, as a crash names it")
    arguments = parser.parse_args()
    os.environ["QLORA_STUDIO_AUDIT"] = "1"
    runpy.run_path(str(Path(__file__).parents[1] / "no_network" / "sitecustomize.py"))
    from tests.fuzz.hunt import hunt
    from tests.fuzz.kinds import KINDS

    if unknown := sorted(set(arguments.kind) - KINDS.keys()):
        parser.error(f"There is no kind {unknown[0]}; there are {', '.join(KINDS)}.")
    kinds = arguments.kind or list(KINDS)
    broken = False
    for kind in kinds:
        with tempfile.TemporaryDirectory() as work:
            found = hunt(
                kind,
                arguments.seed,
                Path(tempfile.gettempdir()) / "qlora-studio-crashes",
                Path(work),
                seconds=arguments.minutes * 60 / len(kinds),
                cases=0 if arguments.case is None else 1,
                first=arguments.case or 0,
            )
        print(
            f"{kind}: {found.cases:,} cases, {found.taken:,} taken, {found.refused:,} refused, "
            f"slowest {found.slowest_s:.1f} s, {found.most_memory_kb / 1e6:.2f} GB, "
            f"{len(found.crashes)} broken",
            flush=True,
        )
        for folder, problem in found.crashes:
            broken = True
            number = folder.name.rpartition("-")[2]
            print(
                f"  {folder}\n  python -m tests.fuzz --seed {found.seed} --case {number} {kind}\n  {problem}"
            )
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
