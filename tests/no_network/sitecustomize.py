"""Loaded by every Python process of the tests: what would leave the machine raises. Unix sockets may stay."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

_LOOK_UPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
_WITH_A_SOCKET = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"}
LOOPBACK = "QLORA_STUDIO_TEST_LOOPBACK"  # set: this process may speak to itself, for a test of just that
_OWN_ADDRESS = "127.0.0.1"
_HERE = str(Path(__file__).parent)
_AUDIT = "QLORA_STUDIO_AUDIT"

_start_process = subprocess.Popen.__init__


def _refuse_the_network(event: str, args: tuple[Any, ...]) -> None:
    if event in _LOOK_UPS and not (_may_reach_itself() and args[0] == _OWN_ADDRESS):
        raise PermissionError(f"tests may not use the network: {event} {args!r}")
    if event in _WITH_A_SOCKET:
        family = getattr(args[0], "family", None)
        own = _may_reach_itself() and args[1][0] == _OWN_ADDRESS
        if family != getattr(socket, "AF_UNIX", None) and not own:
            raise PermissionError(f"tests may not use the network: {event} {args[1:]!r}")


def _may_reach_itself() -> bool:
    """No child: the variable names the process."""
    return os.environ.get(LOOPBACK) == str(os.getpid())


def _start_without_network(self: Any, *args: Any, **kwargs: Any) -> None:
    """Children load this file too, also those that are started with an environment of their own."""
    given = kwargs.get("env")
    environment = dict(os.environ if given is None else given)
    folders = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if _HERE not in folders:
        environment["PYTHONPATH"] = os.pathsep.join([_HERE, *folders])
    if _AUDIT in os.environ:
        environment[_AUDIT] = os.environ[_AUDIT]
    _start_process(self, *args, **{**kwargs, "env": environment})


sys.addaudithook(_refuse_the_network)
if _AUDIT in os.environ:
    runpy.run_path(str(Path(__file__).parent / "audit.py"))
subprocess.Popen.__init__ = _start_without_network  # type: ignore[method-assign]
