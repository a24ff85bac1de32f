"""What no process of the tests may do: unpickle, start a shell, run code of an input folder, write elsewhere.

With QLORA_STUDIO_AUDIT set, as `make faults` sets it, `sitecustomize.py` runs this in every Python process of
the tests. The folder of a test, from which all its inputs come, is that of QLORA_STUDIO_HOME.
"""

# Strings, not paths: files are opened so often that a Path at each would be felt.
# ruff: noqa: PTH100, PTH117, PTH119, PTH120

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import CodeType
from typing import Any

_PROJECT = str(Path(__file__).resolve().parents[2])
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_SHELLS = {"sh", "bash", "dash", "zsh", "cmd.exe", "powershell.exe"}
# The last one by pipes to processes in which torch compiles; its files are read by another module.
_UNPICKLES_ITS_OWN = (
    "multiprocessing.",
    "concurrent.futures.",
    "_pytest.",
    "xdist.",
    "torch._inductor.compile_worker.",
)
# Where a test run may write: temporary files, caches that tools keep in the project, Python's own bytecode.
_ROOTS = tuple(
    dict.fromkeys(
        folder + os.sep
        for name in (tempfile.gettempdir(), "/tmp", "/dev", "/proc", sys.prefix, sys.base_prefix)
        for folder in (os.path.abspath(name), os.path.realpath(name))
    )
)
_CACHES = ("__pycache__", ".pytest_cache", "pytest-cache-files-", ".hypothesis", ".mypy_cache", ".ruff_cache")


def refuse(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook. Raises: PermissionError."""
    check = _CHECKS.get(event)
    if check is not None:
        check(*args)


def _opened(path: Any, mode: Any, flags: Any) -> None:
    if flags & _WRITES:
        _written(path, relative_to_a_descriptor=mode is None)  # os.open: it doesn't say to which


def _removed(path: Any, folder: int) -> None:
    _written(path, relative_to_a_descriptor=folder != -1)


def _made(path: Any, mode: int, folder: int) -> None:
    _written(path, relative_to_a_descriptor=folder != -1)


def _moved(source: Any, target: Any, source_folder: int, target_folder: int) -> None:
    _written(source, relative_to_a_descriptor=source_folder != -1)
    _written(target, relative_to_a_descriptor=target_folder != -1)


def _written(path: Any, *, relative_to_a_descriptor: bool = False) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return  # a descriptor: its opening was seen
    name = os.fsdecode(path)
    if relative_to_a_descriptor and not os.path.isabs(name):
        return  # the descriptor's opening was seen
    name = os.path.abspath(name)
    if (name + os.sep).startswith(
        _ROOTS
    ):  # a root itself too: O_TMPFILE opens the folder for a file without a name
        return
    if name.startswith(_PROJECT) and any(cache in name for cache in _CACHES):
        return
    raise PermissionError(f"tests may not write outside their folders: {name}")


def _compiled(source: Any, filename: Any) -> None:
    _refuse_input(filename)


def _run(code: CodeType) -> None:
    _refuse_input(code.co_filename)


def _refuse_input(filename: Any) -> None:
    home = os.environ.get("QLORA_STUDIO_HOME")
    if home and isinstance(filename, str) and filename.startswith(os.path.dirname(home) + os.sep):
        raise PermissionError(f"code out of an input folder may not run: {filename}")


def _unpickled(module: str, name: str) -> None:
    caller = sys._getframe(2).f_globals.get("__name__", "")
    if not caller.startswith(_UNPICKLES_ITS_OWN):
        raise PermissionError(f"nothing may be unpickled: {module}.{name}, asked for by {caller}")


def _command(executable: Any, command: Any, *_: Any) -> None:
    words = [command] if isinstance(command, str | bytes) else list(command)
    if (
        len(words) > 1
        and os.path.basename(os.fsdecode(words[0])) in _SHELLS
        and os.fsdecode(words[1]) == "-c"
    ):
        raise PermissionError(f"no shell may be started: {words!r}")


def _shell(command: Any) -> None:
    raise PermissionError(f"no shell may be started: {command!r}")


_CHECKS: dict[str, Any] = {
    "open": _opened,
    "os.remove": _removed,
    "os.rmdir": _removed,
    "os.mkdir": _made,
    "os.rename": _moved,
    "compile": _compiled,
    "exec": _run,
    "pickle.find_class": _unpickled,
    "subprocess.Popen": _command,
    "os.system": _shell,
}

sys.addaudithook(refuse)
