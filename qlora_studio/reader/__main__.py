"""The reader's life: requests come in as lines, each is answered, and with the end of input it is gone."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import traceback
from typing import Any

from qlora_studio.data.encodings import BesideEncodingError, OtherEncodingError
from qlora_studio.errors import StudioError
from qlora_studio.protocol.events import Problem
from qlora_studio.protocol.lines import ANSWERS, LONGEST_LINE, REQUESTS, BrokenLineError
from qlora_studio.protocol.reading import ReaderAnswer, ReaderReady, ReaderRequest, Refused
from qlora_studio.reader.left_out import leave_out

MEMORY_BYTES = 2 * 1024**3  # beside what the libraries take when they are loaded (D1)


class Ended(BaseException):
    """The window doesn't want the job in hand any more: what it began is cleared away on the way out."""


def main() -> int:
    """Serves until the input ends."""
    os.umask(0o077)
    signal.signal(signal.SIGTERM, _on_end)
    say = _Speaker(_stdout_for_answers_alone())
    sys.modules["torch"] = None  # type: ignore[assignment]  # what would load it takes another way, or fails
    leave_out("pandas")
    from qlora_studio.reader.jobs import Jobs
    from qlora_studio.reader.limits import limit_memory

    limit_memory(MEMORY_BYTES)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    jobs = Jobs(say)
    say(ReaderReady())
    while True:
        try:
            request = REQUESTS.decode(requests.get())
        except BrokenLineError:
            traceback.print_exc()
            return 1
        _answer(jobs, request, say)


def _on_end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: nothing may disturb the clearing
    raise Ended


class _Speaker:
    """Answers as lines. Ends the process where nobody listens any more."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __call__(self, answer: ReaderAnswer) -> None:
        line = ANSWERS.encode(answer)
        try:
            self._file.write(line)
            self._file.flush()
        except (BrokenPipeError, ValueError):
            os._exit(0)


def _answer(jobs: Any, request: ReaderRequest, say: _Speaker) -> None:
    """Native panics are no `Exception`: they end the process, and the parent tells why (S7)."""
    try:
        say(jobs.answer(request))
    except StudioError as error:
        problem = Problem(error.message[:10_000], error.hint[:10_000])
        likely = error.likely if isinstance(error, OtherEncodingError | BesideEncodingError) else ""
        beside = error.path if isinstance(error, BesideEncodingError) else ""
        say(Refused(id=request.id, error=problem, likely_encoding=likely, beside=beside))
    except MemoryError:
        traceback.print_exc()
        problem = Problem("This needs more than the 2 GB of memory that reading may take.", "Split the file.")
        say(Refused(id=request.id, error=problem))
    except Exception:  # noqa: BLE001 - the edge of the process: it goes on with the next request
        traceback.print_exc()
        words = f"{type(request).__name__} could not be answered."
        hint = "This is a bug of QLoRA Studio's; the reader's log has its place. Your files are unchanged."
        say(Refused(id=request.id, error=Problem(words, hint)))


def _listen(requests: queue.SimpleQueue[bytes]) -> None:
    """The end of input means that the parent is gone, or wants us gone: nothing here needs saving."""
    with contextlib.suppress(OSError, ValueError):
        while line := sys.stdin.buffer.readline(LONGEST_LINE + 1):
            requests.put(line)
    os._exit(0)


def _stdout_for_answers_alone() -> Any:
    """Libraries print: what they say goes where errors go, to the log."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    try:
        status = main()
    except Ended:
        status = 0
    sys.stderr.flush()
    os._exit(status)  # the listening thread holds stdin: an orderly exit would wait for it, and abort
