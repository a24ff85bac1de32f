"""Work that waits for a disk, done beside the window; its answer comes back in the window's own thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from PySide6.QtCore import QObject, Signal

from qlora_studio.errors import StudioError

T = TypeVar("T")


class Background(QObject):
    """One thread; what it is given is done in order. Python waits for it at its end."""

    _done = Signal(object)

    def __init__(self, name: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._done.connect(self._tell)

    def do(
        self,
        work: Callable[[], T],
        answered: Callable[[T], None],
        refused: Callable[[StudioError], None] | None = None,
    ) -> None:
        """Returns at once. refused: told what `work` refuses; a bug of ours surfaces here."""
        future = self._thread.submit(work)
        future.add_done_callback(lambda done: self._emit((done, answered, refused)))

    def wait(self) -> None:
        """What it was given so far is done when this returns; the answers are told later."""
        self._thread.submit(lambda: None).result()

    def close(self) -> None:
        """What hasn't begun is dropped, what is being done is waited for."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _emit(self, result: tuple[Future[Any], Any, Any]) -> None:
        try:
            self._done.emit(result)
        except RuntimeError:  # the window is gone
            return

    def _tell(self, result: tuple[Future[Any], Any, Any]) -> None:
        future, answered, refused = result
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
