"""`doctor`: versions, GPU, free space, and the command that mends what is missing."""

from __future__ import annotations

import argparse

from qlora_studio.cli.children import Engine
from qlora_studio.cli.output import Told, print_json, print_text
from qlora_studio.config.machine_check import check_machine
from qlora_studio.errors import StudioError
from qlora_studio.memory.devices import card_reading

_MARKS = {"ok": "ok  ", "warn": "!   ", "bad": "bad "}


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`qlora-studio doctor`."""
    doctor = subparsers.add_parser("doctor", help="what this machine has, and what is missing")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(run=doctor_command)


def doctor_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    card = card_reading()
    lines = check_machine(card.name if card else None, _engine_device(arguments.json))
    if arguments.json:
        print_json({"ok": all(line.tone != "bad" for line in lines), "lines": lines})
        return 0
    width = max(len(line.name) for line in lines)
    for line in lines:
        print_text(f"{_MARKS[line.tone]} {line.name:<{width}}  {line.words}")
        if line.mend:
            print_text(f"     {'':<{width}}  {line.mend}")
    return 0


def _engine_device(as_json: bool) -> str | None:
    try:
        with Told(quiet=as_json) as told, Engine(told) as engine:
            return engine.ready.device
    except StudioError:
        return None
