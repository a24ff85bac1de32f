"""Work that waits for a disk, done beside the window; its answer comes back in the window's own thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from PySide6.QtCore import QObject, Signal

from qlora_studio.errors import StudioError

T = TypeVar("T")


class Background(QObject):
    """One thread; what it is given is done in order. Python waits for it at its end."""

    _done = Signal()

    def __init__(self, name: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._untold: deque[tuple[Future[Any], Any, Any]] = deque()
        self._done.connect(self._tell)

    def do(
        self,
        work: Callable[[], T],
        answered: Callable[[T], None],
        refused: Callable[[StudioError], None] | None = None,
    ) -> None:
        """Returns at once. refused: told what `work` refuses; a bug of ours surfaces here."""
        future = self._thread.submit(work)
        self._untold.append((future, answered, refused))
        future.add_done_callback(lambda _: self._emit())

    def wait(self) -> None:
        """What it was given so far is done, and its answers are told, when this returns."""
        self._thread.submit(lambda: None).result()
        self._tell()

    def close(self) -> None:
        """What hasn't begun is dropped, what is being done is waited for."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _emit(self) -> None:
        try:
            self._done.emit()
        except RuntimeError:  # the window is gone
            return

    def _tell(self) -> None:
        """In the order of the work."""
        while self._untold and self._untold[0][0].done():
            self._tell_one(*self._untold.popleft())

    def _tell_one(self, future: Future[Any], answered: Any, refused: Any) -> None:
        if future.cancelled():
            return
        try:
            answer = future.result()
        except StudioError as error:
            if refused is None:
                raise
            refused(error)
            return
        answered(answer)
