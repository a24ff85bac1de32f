"""Keeps the machine from falling asleep while a model loads, trains or is exported."""

from __future__ import annotations

import contextlib
import threading
from functools import partial

from PySide6.QtCore import QObject, QTimer, Signal

from qlora_studio.state.engine import Doing, EngineState
from qlora_studio.state.preferences import PreferencesState

_RESTING = {Doing.NOTHING, Doing.CHATTING}
_BRIEF = _RESTING | {Doing.STARTING, Doing.LOADING}  # without a run: of no account where it isn't kept awake

_SETTLED_MS = 500  # the engine and a page start first: what is loaded here holds the window up for 50 ms


class KeepAwake(QObject):
    """refused: this desktop doesn't let programs keep it awake; told once, where long work would wait."""

    refused = Signal()
    _failed = Signal()  # from its thread

    def __init__(
        self, engine: EngineState, preferences: PreferencesState, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._engine = engine
        self._preferences = preferences
        self._let_sleep: threading.Event | None = None  # set: the thread that keeps awake ends
        self._is_refused = self._told = False
        self._failed.connect(self._on_failed)
        engine.changed.connect(self._follow)
        preferences.changed.connect(self._follow)

    @property
    def wanted(self) -> bool:
        """Whether the machine should stay awake now."""
        busy = self._engine.training or self._engine.doing not in _RESTING
        return busy and self._preferences.values.keep_awake

    def _follow(self) -> None:
        if self.wanted and self._let_sleep is None:
            self._let_sleep = threading.Event()
            QTimer.singleShot(_SETTLED_MS, self, partial(self._begin, self._let_sleep))
        elif not self.wanted and self._let_sleep is not None:
            self._let_sleep.set()
            self._let_sleep = None
        long = self._engine.training or self._engine.doing not in _BRIEF
        if long and self._is_refused and not self._told:
            self._told = True
            self.refused.emit()

    def _begin(self, let_sleep: threading.Event) -> None:
        # Here, not in the thread: PySide looks at each import, and ended the process in tests where several
        # threads did so beside its loop.
        with contextlib.suppress(ImportError):
            from wakepy import JeepneyDBusAdapter, keep  # noqa: F401
        if not let_sleep.is_set():
            threading.Thread(target=self._stay, args=(let_sleep,), name="awake", daemon=True).start()

    def _on_failed(self) -> None:
        self._is_refused = True
        self._follow()

    def _stay(self, let_sleep: threading.Event) -> None:
        """In a thread of its own: the desktop's answer may take seconds."""
        from wakepy import keep

        with keep.running(on_fail="pass") as mode:
            if not mode.active:
                self._tell()
            let_sleep.wait()

    def _tell(self) -> None:
        try:
            self._failed.emit()
        except RuntimeError:  # the window is gone
            return
