"""Loaded by every Python process of the tests: what would leave the machine raises. Unix sockets may stay."""

from __future__ import annotations

import socket
import sys

_LOOK_UPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
_WITH_A_SOCKET = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"}


def _refuse_the_network(event: str, args: tuple[object, ...]) -> None:
    if event in _LOOK_UPS:
        raise PermissionError(f"tests may not use the network: {event} {args!r}")
    if event in _WITH_A_SOCKET:
        family = getattr(args[0], "family", None)
        if family != getattr(socket, "AF_UNIX", None):
            raise PermissionError(f"tests may not use the network: {event} {args[1:]!r}")


sys.addaudithook(_refuse_the_network)
