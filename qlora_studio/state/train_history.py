"""What earlier runs tell of the next one: which names are taken, and how true the memory promise was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qlora_studio.errors import StudioError
from qlora_studio.memory.correction import as_promised
from qlora_studio.runs.folder import Run
from qlora_studio.runs.history import list_runs

MOST_COMPARED = 6


@dataclass(frozen=True)
class Promised:
    """What was said before a run, and what it took at its peak: bytes."""

    said: int
    was: int


@dataclass(frozen=True)
class History:
    """Of all runs of the runs folder. promises: the newest first, by device."""

    names: frozenset[str] = frozenset()
    promises: dict[str, tuple[Promised, ...]] | None = None

    def free_name(self, wanted: str) -> str:
        """`wanted`, or `wanted-2`, ..."""
        number, name = 1, wanted
        while name in self.names:
            number += 1
            name = f"{wanted}-{number}"
        return name

    def promise_words(self, device: str) -> str:
        """How near the promise came on this device; empty before a first run."""
        found = (self.promises or {}).get(device, ())
        if not found:
            return ""
        if len(found) == 1:
            return f"The last run here: said {found[0].said / 2**30:.1f}, was {found[0].was / 2**30:.1f} GiB"
        furthest = max(abs(item.said - item.was) / item.was for item in found)
        return f"Last {len(found)} runs here: promised within {furthest * 100:.0f}\u202f%"


def read_history(runs_folder: Path) -> History:
    """Empty where the folder can't be read: the Runs page says why."""
    try:
        runs = [summary.run for summary in list_runs(runs_folder) if summary.run is not None]
    except StudioError:
        return History()
    promises: dict[str, list[Promised]] = {}
    for run in runs:
        kept = promises.setdefault(run.record.device, [])
        if _has_both(run) and len(kept) < MOST_COMPARED:
            was = as_promised(run.state.peak_bytes, run.record.device)
            kept.append(Promised(sum(run.record.promise_bytes.values()), was))
    return History(
        frozenset(name for run in runs for name in (run.name, run.record.name)),
        {device: tuple(items) for device, items in promises.items()},
    )


def _has_both(run: Run) -> bool:
    return bool(run.record.promise_bytes) and run.state.peak_bytes > 0 and run.state.step > 0
