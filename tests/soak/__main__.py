"""One window for hours: `python -m tests.soak --minutes 120 --csv soak.csv --picture soak.png`.

The window as the command opens it, offscreen, with its real engine, its readers and the sample model, in a
home of its own. Round after round a run is trained with evaluation, sample replies and checkpoints, stopped
and resumed, evaluated and talked to, and all pages are opened. Memory, threads, handles and widgets are read
every 30 s and at rest after each round. The exit status is 1 if one of them grows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("WAKEPY_FAKE_SUCCESS", "1")


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"))
    parser.add_argument("--picture", type=Path, help="a PNG")
    parser.add_argument("--drawn-only", action="store_true", help="the picture of a soak that was")
    arguments = parser.parse_args()
    if not arguments.drawn_only:
        with tempfile.TemporaryDirectory() as folder:
            if not soak(arguments.minutes, arguments.csv, Path(folder)):
                return 1
    from tests.soak import meter

    readings = meter.read_csv(arguments.csv)
    if arguments.picture is not None and not arguments.drawn_only:  # in a process that had no window
        drawn = [sys.executable, "-m", "tests.soak", "--drawn-only", "--csv", arguments.csv]
        subprocess.run([*drawn, "--picture", arguments.picture], check=True, stdout=subprocess.DEVNULL)
    elif arguments.picture is not None:
        from tests.soak.picture import draw

        draw(readings, arguments.picture)
        return 0
    found = meter.growths(readings)
    rounds = max((reading.round for reading in readings), default=0)
    print(f"{rounds} rounds in {readings[-1].seconds / 60:.0f} min, {len(readings)} readings")
    for growth in found:
        print(meter.words(growth))
    return 0 if all(growth.flat for growth in found) else 1


def soak(minutes: float, csv: Path, folder: Path) -> bool:
    """Whether it came to its end; what it read by then is in `csv`."""
    from qlora_studio.config import places

    usual = places.sample_model_folder()
    os.environ["QLORA_STUDIO_HOME"] = str(folder / "home")
    os.environ["XDG_DATA_HOME"] = str(folder / "data")

    from qlora_studio.ui import window
    from tests.journey import person
    from tests.short_sample import take_sample_model, use_short_sample
    from tests.soak.rounds import PROMPT
    from tests.soak.soaked_shell import Soak, SoakedShell

    take_sample_model(usual)
    use_short_sample(checkpoints="every_steps = 2\nevaluate_every_steps = 2", samples=PROMPT)
    person.PATIENCE_S = 900.0
    asked = Soak(minutes, csv, folder)
    vars(window)["Shell"] = partial(SoakedShell, asked)
    window.open_window()
    return asked.whole


if __name__ == "__main__":
    sys.exit(main())
