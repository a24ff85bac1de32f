"""The window: rail, pages, status bar; the keys and drops that work everywhere; how it closes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from PySide6.QtCore import QSettings, Qt
from PySide6.QtGui import (
    QAction,
    QCloseEvent,
    QDragEnterEvent,
    QDropEvent,
    QKeySequence,
    QResizeEvent,
    QShowEvent,
)
from PySide6.QtWidgets import (
    QApplication,
    QHBoxLayout,
    QMainWindow,
    QMenu,
    QStackedWidget,
    QVBoxLayout,
    QWhatsThis,
    QWidget,
)

from qlora_studio.config import places
from qlora_studio.data.file_names import may_be_data
from qlora_studio.state.app import AppState
from qlora_studio.state.notices import Notice
from qlora_studio.ui.ahead import Ahead
from qlora_studio.ui.dress import Dress
from qlora_studio.ui.live_run import LiveRun
from qlora_studio.ui.logo import window_icon
from qlora_studio.ui.page import Page
from qlora_studio.ui.pages import PageFactory, page_factories
from qlora_studio.ui.quit_guard import Leave, QuitGuard
from qlora_studio.ui.rail import PAGES, SETTINGS, Rail
from qlora_studio.ui.status_bar import StatusBar
from qlora_studio.ui.theme import theme
from qlora_studio.ui.tray import Tray
from qlora_studio.ui.widgets import ToastCorner, plain_tooltip

FIRST_SIZE = (1440, 900)
LEAST_SIZE = (1024, 600)
NARROW_BELOW = 1200  # px of the window at 100 %: narrower, and the rail shows icons
_TOASTS_ABOVE = 6  # px between a toast and what stands below it, at 100 %


class Shell(QMainWindow):
    """Shows one page at a time. Pages are built when first opened, or ahead.

    ahead: what the window does while nobody waits
    """

    def __init__(self, app: AppState, factories: Mapping[str, PageFactory] | None = None) -> None:
        theme()  # before there is a widget that would keep the desktop's font
        super().__init__()
        self.setObjectName("shell")
        self.setWindowTitle("QLoRA Studio")
        self.setWindowIcon(window_icon())
        self.setAcceptDrops(True)
        self._app = app
        self._factories = page_factories() if factories is None else factories
        self._pages: dict[str, Page] = {}  # those that are whole
        self._builds: dict[str, Iterator[None]] = {}
        self._asked_for: tuple[str, object] | None = None  # while it is built
        self.ahead = Ahead(self)
        self._place = QSettings(
            str(places.settings_folder() / "window-place.ini"), QSettings.Format.IniFormat
        )
        self._leaving = False
        self._unsaved_is_left = False
        self._guard: QuitGuard | None = None
        self._build()
        self._actions = self._build_actions()
        self._bind()
        self._restore_place()

    # Pages

    def show_page(self, name: str, what: object = None) -> None:
        """`open_page` for a person: where it must be built first, the window answers meanwhile."""
        if name in self._pages:
            self.open_page(name, what)
            return
        self._rail.show_current(name)
        self._asked_for = (name, what)
        self.ahead.add_awaited(self._build_to_open(self._asked_for))

    def open_page(self, name: str, what: object = None) -> Page:
        """Brings a page to the front, built at once if need be. what: a run folder, a data file, or None."""
        self._asked_for = None
        self.ahead.make_way()
        page = self._pages.get(name) or self._build_page(name)
        self._stack.setCurrentWidget(page)
        self._rail.show_current(name)
        self.setWindowTitle(f"{page.accessibleName()} – QLoRA Studio")
        page.setFocus(Qt.FocusReason.OtherFocusReason)
        page.opened(what)
        return page

    def page_names(self) -> list[str]:
        return list(self._factories)

    def page(self) -> Page | None:
        """The one in front."""
        widget = self._stack.currentWidget()
        return widget if isinstance(widget, Page) else None

    def build_ahead(self) -> None:
        """All pages, so that the first visit of one only paints it."""
        for name in self._factories:
            self.ahead.add(self._build_of(name))

    def open_live_run(self) -> None:
        """The run that trains, or else the list of runs."""
        run = self._live_run.folder
        if run is not None or self._live_run.preparing:
            self.show_page("monitor", run)
        else:
            self.show_page("runs")

    def _build_to_open(self, asked_for: tuple[str, object]) -> Iterator[None]:
        """Opens it at the end, unless another was asked for meanwhile."""
        name, what = asked_for
        yield from self._build_of(name)
        if self._asked_for is asked_for:
            self.open_page(name, what)

    def _build_page(self, name: str) -> Page:
        for _ in self._build_of(name):
            pass
        return self._pages[name]

    def _build_of(self, name: str) -> Iterator[None]:
        """One for each page, so that a page asked for while it is built ahead is built to its end."""
        return self._builds.setdefault(name, self._build_in_pieces(name))

    def _build_in_pieces(self, name: str) -> Iterator[None]:
        page = self._factories[name](self._app)
        page.menu.aboutToShow.connect(lambda: self._complete_menu(page.menu))
        page.setParent(self._stack)
        page.wait_with_sizes(True)
        yield
        yield from page.pieces()
        page.wait_with_sizes(False)
        self._stack.addWidget(page)
        self._pages[name] = page

    def _dress_ahead(self) -> None:
        self.ahead.add(self._dress_hidden())

    def _dress_hidden(self) -> Iterator[None]:
        """Pages put on another look before they are asked for."""
        for page in list(self._pages.values()):
            if not page.dress.is_worn:
                page.dress.put_on()
                yield

    # Layout

    def _build(self) -> None:
        self._rail = Rail()
        self._stack = QStackedWidget()
        self._stack.setObjectName("pages")
        self._status = StatusBar(self._app)
        self._live_run = LiveRun(self._app, self._rail.run_chip)
        self._toasts = ToastCorner(self, bottom=_TOASTS_ABOVE + theme().size.status_height)
        self._stack.currentChanged.connect(self._on_page)
        self._tray = Tray(self._app, self)
        across = QHBoxLayout()
        across.setSpacing(0)
        across.addWidget(self._rail)
        across.addWidget(self._stack, 1)
        body = QWidget()
        down = QVBoxLayout(body)
        down.setContentsMargins(0, 0, 0, 0)
        down.setSpacing(0)
        down.addLayout(across, 1)
        down.addWidget(self._status)
        self.setCentralWidget(body)
        self.setMinimumSize(*LEAST_SIZE)

    def _bind(self) -> None:
        self._rail.asked.connect(self.show_page)
        self._rail.run_chip.clicked.connect(self.open_live_run)
        self._app.page_asked.connect(self.show_page)
        self._app.notices.said.connect(self._on_notice)
        self._app.engine.changed.connect(self._on_engine_changed)
        theme().changed.connect(self._fit_rail)
        theme().restyled.connect(self._dress_ahead)
        QApplication.instance().commitDataRequest.connect(self._on_session_ends)  # type: ignore[union-attr]

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit_rail()

    def _fit_rail(self) -> None:
        self._rail.set_narrow(self.width() < theme().px(NARROW_BELOW))

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._app.machine.start()

    def _restore_place(self) -> None:
        self.resize(*FIRST_SIZE)
        place = self._place.value("geometry")
        if place is not None:
            self.restoreGeometry(place)

    # Keys

    def _build_actions(self) -> list[QAction]:
        """Those of the first list stand in every page's menu, with their keys."""
        pages = QMenu("Go to", self)
        pages.setObjectName("menu_go_to")
        Dress(pages)
        for number, (name, words, _) in enumerate(PAGES, 1):
            pages.addAction(self._action(words, f"Ctrl+{number}", partial(self.show_page, name)))
        pages.addAction(self._action(SETTINGS[1], "Ctrl+,", partial(self.show_page, SETTINGS[0])))
        pages.addAction(self._action("Run that is going on", "Ctrl+M", self.open_live_run))
        return [
            pages.menuAction(),
            self._action("Search this page", "Ctrl+F", self._search),
            self._action("Look at the disk again", "F5", self._rescan),
            self._action("Undo", "Ctrl+Z", self._undo),
            self._action("Redo", "Ctrl+Shift+Z", self._redo),
            self._action("Help for this field", "F1", self._help),
            self._action("Close what is open", "Esc", self._escape),
            self._action("Quit", "Ctrl+Q", self.close),
        ]

    def _action(self, words: str, keys: str, do: Callable[[], object]) -> QAction:
        action = QAction(words, self)
        action.setObjectName(f"key_{words.lower().replace(' ', '_')}")
        action.setShortcut(QKeySequence(keys))
        action.triggered.connect(lambda: do())
        self.addAction(action)
        return action

    def _complete_menu(self, menu: QMenu) -> None:
        """The global entries under the page's own."""
        if self._actions[0] not in menu.actions():
            menu.addSeparator()
            menu.addActions(self._actions)

    def _search(self) -> None:
        page = self.page()
        if page is not None and page.search is not None:
            page.open_search()
            page.search.setFocus(Qt.FocusReason.ShortcutFocusReason)
            page.search.selectAll()
        else:
            self._app.notices.say("This page has nothing to search", "neutral")

    def _rescan(self) -> None:
        page = self.page()
        if page is not None:
            page.rescan()

    def _undo(self) -> None:
        page = self.page()
        if page is not None and page.undo():
            return
        notice = next((notice for notice in reversed(self._app.notices.last) if notice.undo), None)
        if notice is not None:
            self._undo_notice(notice)

    def _redo(self) -> None:
        page = self.page()
        if page is not None:
            page.redo()

    def _help(self) -> None:
        """The description of whatever has the focus, beside it."""
        focused = QApplication.focusWidget()
        if focused is None:
            return
        words = focused.whatsThis() or focused.accessibleDescription() or focused.accessibleName()
        if words:
            QWhatsThis.showText(
                focused.mapToGlobal(focused.rect().bottomLeft()), plain_tooltip(words), focused
            )

    def _escape(self) -> None:
        page = self.page()
        if page is not None:
            page.escape()

    # Files dropped anywhere

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if any(url.isLocalFile() for url in event.mimeData().urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        event.acceptProposedAction()
        self.open_dropped(*(Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()))

    def open_dropped(self, *paths: Path) -> None:
        """Several data files are mixed; of other things dropped together the first is opened."""
        if len(paths) > 1 and all(_page_of(path) == "data" for path in paths):
            self.show_page("data", paths)
            return
        for path in paths[:1]:
            self._open_one_dropped(path)
        if len(paths) > 1:
            self._app.notices.say(f"Of {len(paths):,} things dropped, {paths[0].name} was opened", "warn")

    def _open_one_dropped(self, path: Path) -> None:
        page = _page_of(path)
        if page:
            self.show_page(page, path)
        else:
            self._app.notices.say(
                f"{path.name} is no model folder (with .safetensors files) and no data file "
                "(JSON, JSONL, CSV, Parquet, Arrow, text, also compressed).",
                "warn",
            )

    # Notices

    def _on_page(self) -> None:
        page = self.page()
        foot = page.foot_height if page is not None else 0
        self._toasts.keep_free(_TOASTS_ABOVE + theme().size.status_height + foot)

    def _on_notice(self, notice: Notice) -> None:
        if not self.isVisible():
            return
        if notice.undo is None:
            self._toasts.show(notice.text, notice.tone)
        else:
            self._toasts.show(notice.text, notice.tone, "Undo", lambda: self._undo_notice(notice))

    def _undo_notice(self, notice: Notice) -> None:
        if notice.undo is not None and notice in self._app.notices.last:
            self._app.notices.last.remove(notice)
            notice.undo()

    # Closing

    def closeEvent(self, event: QCloseEvent) -> None:
        if self._app.engine.training:
            event.ignore()
            if not self._leaving:
                self._ask_before_leaving()
            return
        if not self._unsaved_is_left and (why := self._app.save()):
            event.ignore()
            self._ask_before_losing(why)
            return
        self._keep_place()
        self._tray.hide()
        self._app.close()
        event.accept()

    def _ask_before_leaving(self) -> None:
        engine = self._app.engine
        where = f"step {engine.step:,} of {engine.total_steps:,}" if engine.total_steps else "its start"
        self._guard = QuitGuard(
            f"Training is at {where}.",
            "Save and quit ends it after the step in hand; it can be resumed with the same result.",
            can_hide=self._tray.exists,
            parent=self,
        )
        self._guard.finished.connect(self._on_guard_finished)
        self._guard.open()

    def _ask_before_losing(self, why: str) -> None:
        self._guard = QuitGuard(
            "What was said in Chat is not on the disk.",
            f"{why} To try it again, close the window again.",
            can_save=False,
            can_hide=False,
            parent=self,
        )
        self._guard.finished.connect(self._on_guard_finished)
        self._guard.open()

    def _on_guard_finished(self, answer: int) -> None:
        self._guard = None
        match Leave(answer):
            case Leave.SAVE_AND_QUIT:
                self._leaving = True
                self._app.notices.say("Saving, then the window closes", "neutral")
                self._app.engine.release()
                self._on_engine_changed()
            case Leave.HIDE:
                self._tray.hide_window()
            case Leave.QUIT_UNSAVED:
                self._unsaved_is_left = True
                self.close()
            case Leave.STAY:
                self._leaving = False

    def _on_engine_changed(self) -> None:
        if self._leaving and not self._app.engine.training:
            self.close()

    def _on_session_ends(self) -> None:
        """The desktop logs out: it waits for nobody, so the run is saved without asking."""
        self._keep_place()
        self._app.close()

    def _keep_place(self) -> None:
        self._place.setValue("geometry", self.saveGeometry())


def _page_of(path: Path) -> str:
    """A folder with a run.json is a run, one with safetensors a model; what else can be read is data.

    Returns: the page that shows it; empty: none does.
    """
    if path.is_dir() and (path / "run.json").is_file():
        return "monitor"
    if path.is_dir() and any(path.glob("*.safetensors")):
        return "models"
    return "data" if path.is_dir() or (path.is_file() and may_be_data(path)) else ""
