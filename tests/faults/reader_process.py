"""A real reader, asked one thing after the other: what one file leaves behind meets the next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qlora_studio.protocol import reading
from qlora_studio.protocol.child import Child, start_reader

Reader = Child[reading.ReaderRequest, reading.ReaderAnswer]


@contextmanager
def a_reader(home: Path) -> Iterator[Reader]:
    """With its files under `home`; killed at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QLORA_STUDIO_HOME", str(home))
        child = start_reader()
        yield child
        child.kill()
        child.wait()


def asked(reader: Reader, request: reading.ReaderRequest) -> tuple[reading.ReaderAnswer, float]:
    """Its answer, and the seconds that it took."""
    start = time.monotonic()
    assert reader.say(request)
    for answer in reader.heard():
        if not isinstance(answer, reading.Progress | reading.ReaderReady):
            return answer, time.monotonic() - start
    raise AssertionError(reader.end_in_words() + reader.log.read_text())
