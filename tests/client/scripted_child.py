"""A child process of a few lines of Python, in place of the engine or a reader."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from typing import TypeVar

from qlora_studio.protocol.child import Child
from qlora_studio.protocol.lines import Lines

Said = TypeVar("Said")
Heard = TypeVar("Heard")

_BEGINNING = """
import json, os, sys, time
def say(type, **fields):
    print(json.dumps({"type": type, **fields}), flush=True)
def heard():
    return (json.loads(line) for line in sys.stdin)
"""


class ScriptedChild(Child[Said, Heard]):
    """Runs `script`, which may `say(type, ...)` and iterate over what is `heard()`."""

    def __init__(self, script: str, said: Lines[Said], heard: Lines[Heard]) -> None:
        self._said = said
        self._heard = heard
        self._writing = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _BEGINNING + textwrap.dedent(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
