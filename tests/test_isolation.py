"""The tests' own walls: no network in any process, folders of their own."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from qlora_studio.config import places


@pytest.mark.fault(34)
def test_a_test_can_not_reach_the_network():  # S10
    with pytest.raises(PermissionError, match="network"):
        socket.create_connection(("127.0.0.1", 9))


REACH = "import socket; socket.socket().connect(('127.0.0.1', 9))"
PASS_ON = f"import subprocess, sys; subprocess.run([sys.executable, '-P', '-c', {REACH!r}], env={{}})"


@pytest.mark.fault(34)
@pytest.mark.parametrize("code", [REACH, PASS_ON], ids=["child", "grandchild"])
def test_a_process_of_a_test_can_not_reach_the_network(code):
    child = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "tests may not use the network" in child.stderr


def test_unix_sockets_stay():
    first, second = socket.socketpair()
    with first, second:
        first.sendall(b"x")
        assert second.recv(1) == b"x"


def test_every_folder_of_the_application_lies_in_the_tests_own(home):
    assert places.runs_folder().is_relative_to(home)
    assert places.settings_folder().is_relative_to(home)
