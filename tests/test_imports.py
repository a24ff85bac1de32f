"""What is loaded with what: the window opens fast because nothing heavy comes with it (DESIGN section 2)."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "peft",
    "bitsandbytes",
    "accelerate",
    "transformers",
    "tokenizers",
    "pyarrow",
    "datasets",
    "pandas",
}
QT = {"PySide6", "shiboken6", "pyqtgraph"}


@pytest.mark.parametrize("room", ["ui", "state", "client"])
def test_a_room_of_the_window_loads_nothing_heavy(room: str) -> None:
    assert loaded_with(modules_of(room)) & HEAVY == set()


@pytest.mark.parametrize("room", ["cli", "protocol", "runs", "models", "memory", "config"])
def test_a_room_that_the_terminal_shares_loads_neither_qt_nor_anything_heavy(room: str) -> None:
    assert loaded_with(modules_of(room)) & (HEAVY | QT) == set()


def test_the_command_itself_loads_neither_qt_nor_anything_heavy() -> None:
    assert loaded_with(["qlora_studio.__main__"]) & (HEAVY | QT) == set()


def test_the_engine_loads_no_qt_and_gguf_only_for_an_export() -> None:
    at_its_start, at_last = loaded_in_turn(["qlora_studio.engine.jobs"], modules_of("engine"))
    assert "gguf" not in at_its_start
    assert at_last & QT == set()


@pytest.mark.parametrize("room", ["data", "reader"])
def test_what_opens_foreign_bytes_loads_neither_torch_nor_qt(room: str) -> None:
    assert loaded_with(modules_of(room)) & (QT | {"torch", "peft", "bitsandbytes", "accelerate"}) == set()


def modules_of(room: str) -> list[str]:
    """Every module of the room, but not what `python -m` runs."""
    name = f"qlora_studio.{room}"
    found = pkgutil.walk_packages([str(ROOT / "qlora_studio" / room)], prefix=f"{name}.")
    modules = [name, *(module.name for module in found if not module.name.endswith(".__main__"))]
    assert len(modules) > 1, f"{name} is empty"
    return modules


def loaded_with(modules: list[str]) -> set[str]:
    """The top-level packages in a fresh Python that has imported `modules`."""
    return loaded_in_turn(modules)[0]


def loaded_in_turn(*stages: list[str]) -> list[set[str]]:
    """The same after each of them, in one Python."""
    script = (
        "import importlib, json, sys\n"
        "for stage in json.loads(sys.argv[1]):\n"
        "    for name in stage: importlib.import_module(name)\n"
        "    print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    command = [sys.executable, "-P", "-c", script, json.dumps(stages)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [set(json.loads(line)) for line in done.stdout.splitlines()]
