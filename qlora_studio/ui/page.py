"""The frame that every page shares: title line, banner, scrolled columns, and an action bar where it acts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QBoxLayout,
    QFrame,
    QHBoxLayout,
    QLineEdit,
    QMenu,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from qlora_studio.ui.dress import Dress
from qlora_studio.ui.theme import Tone, theme
from qlora_studio.ui.widgets import Banner, ElidedLabel, IconButton, IconLabel, LinkButton
from qlora_studio.ui.widgets.text_size import rescale_layouts

if TYPE_CHECKING:
    from qlora_studio.state.app import AppState

CRUMB_FROM = 520  # px of the page at 100 %: narrower, and the title line needs the crumb's room
SIDE_BELOW = 1280  # px of the window at 100 %: narrower, and the side column moves under the main one


class Page(QWidget):
    """Fill `main` and `side` (QVBoxLayouts); put buttons into the title line with `add_header`.
    End a column of cards with `addStretch(1)`, or they share what is left of the height.

    app:    what the window shows; a page goes elsewhere by `app.show_page(name, what)` and tells small news
            by `app.notices.say(text)`
    menu:   the page's own entries of its menu; the shell adds the global ones below
    search: the field that Ctrl+F goes to, or None
    """

    _waits_with_sizes = False

    def __init__(
        self,
        app: AppState,
        name: str,
        title: str,
        *,
        side: bool = True,
        action_bar: bool = False,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName(f"page_{name}")
        self.setAccessibleName(title)
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)  # a place for the keyboard before the first control
        self.app = app
        self.name = name
        self.dress = Dress(self)
        self.search: QLineEdit | None = None
        self.menu = QMenu(self)
        self.main = QVBoxLayout()
        self.side = QVBoxLayout()
        self.action_bar = QHBoxLayout()
        self.banner = Banner()
        self._action_area: QFrame | None = None
        self._drawn_at = theme().text_size  # per cent
        self._build(title, side, action_bar)

    def wait_with_sizes(self, waits: bool) -> None:
        """While it is built in pieces, the window may change its size: what would be placed isn't there."""
        self._waits_with_sizes = waits
        if not waits:
            self.resize(0, 0)  # so that its place in the window is news

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Resize and self._waits_with_sizes:
            return True
        return super().event(event)

    def pieces(self) -> Iterator[None]:
        """Builds what isn't there yet, up to the next `yield`; after the last the page is whole.

        Override it where all at once takes longer than a frame or two: the window answers in between.
        """
        yield from ()

    def whole(self) -> Self:
        """With all of its pieces, now."""
        for _ in self.pieces():
            pass
        return self

    # What a page calls

    def set_title(self, title: str, crumb: str = "", crumb_page: str = "", tip: str = "") -> None:
        """crumb: the words before the title, `Runs`; crumb_page: the page a click on them opens."""
        self._title.setText(title)
        self._title.set_tip(tip)
        if crumb:
            self._crumb.setText(crumb)
        self._has_crumb = bool(crumb)
        self._crumb.page = crumb_page
        self._fit_header()

    def add_chip(self, chip: QWidget) -> None:
        """Beside the title."""
        self._chips.addWidget(chip)

    def add_header(self, widget: QWidget) -> None:
        """At the right of the title line, before the menu; the title gives way, not the button."""
        widget.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self._buttons.addWidget(widget)

    def show_side(self, shown: bool) -> None:
        """Hidden where it would be empty: then what is on the page stands in its middle."""
        self._side_area.setVisible(shown)

    def show_error(self, text: str, *buttons: QWidget) -> None:
        self.banner.show_text(text, Tone.BAD, *buttons)

    def show_in_view(self, widget: QWidget) -> None:
        """Scrolls to it."""
        self._scroll.ensureWidgetVisible(widget)

    # What the shell calls; override where the page has something to do

    def opened(self, what: object) -> None:
        """The page came to the front. what: what it should show, a run folder or a data file, or None."""

    def rescan(self) -> None:
        """F5: look again at what lies on disk."""

    def open_search(self) -> None:
        """Ctrl+F is about to go to `search`: show it, where it was hidden."""

    def undo(self) -> bool:
        """Ctrl+Z: one step back, where the page keeps steps. Returns whether anything was undone."""
        return False

    def redo(self) -> bool:
        """Ctrl+Shift+Z: one step forward again."""
        return False

    def escape(self) -> bool:
        """Esc: close what is open; the search is emptied by default. Returns whether anything was done."""
        if self.search is not None and self.search.text():
            self.search.clear()
            return True
        return False

    # Layout

    def _build(self, title: str, side: bool, action_bar: bool) -> None:
        across, down = (theme().px(margin) for margin in theme().size.page_margin)
        grid = theme().px(theme().size.grid)
        content = QWidget()
        content.setObjectName("page_content")
        self._columns = QBoxLayout(QBoxLayout.Direction.LeftToRight, content)
        self._columns.setSpacing(theme().px(16))
        for column in (self.main, self.side):
            column.setContentsMargins(0, 0, 0, 0)
            column.setSpacing(grid)
        main_area = QWidget()
        main_area.setLayout(self.main)
        self._columns.addWidget(main_area, 1)
        self._side_area = QWidget()
        self._side_area.setLayout(self.side)
        self._columns.addWidget(self._side_area)
        self._side_area.setVisible(side)
        self._scroll = QScrollArea(widgetResizable=True)
        self._scroll.setFrameShape(QFrame.Shape.NoFrame)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._scroll.setWidget(content)
        self._scroll.verticalScrollBar().rangeChanged.connect(self._keep_edge)
        self._keep_edge()
        banner_slot = QHBoxLayout()
        banner_slot.setContentsMargins(across, 0, across, 0)
        banner_slot.addWidget(self.banner)
        above = QVBoxLayout()
        above.setSpacing(grid)
        above.addWidget(self._build_header(title, across))
        above.addLayout(banner_slot)
        above.addWidget(self._scroll, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, down, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(above, 1)
        if action_bar:
            layout.addWidget(self._build_action_bar(across))
        self._fit_text_size()
        self.dress.changed.connect(self._fit_text_size)

    def _build_header(self, title: str, across: int) -> QWidget:
        bar = self._header = QWidget()
        self._crumb = CrumbButton(name=f"{self.name}_crumb")
        self._crumb.clicked.connect(self._on_crumb_clicked)
        self._crumb_arrow = IconLabel("chevron-right", "muted", 18)
        self._title = ElidedLabel(title, "title", name=f"{self.name}_title")
        self._chips = QHBoxLayout()
        self._chips.setSpacing(theme().px(8))
        self._buttons = QHBoxLayout()
        self._buttons.setSpacing(theme().px(8))
        self._menu_button = IconButton("ellipsis-vertical", "More", name=f"{self.name}_menu")
        self._menu_button.setMenu(self.menu)
        layout = QHBoxLayout(bar)
        layout.setContentsMargins(across, 0, across, 0)
        layout.setSpacing(theme().px(8))
        layout.addWidget(self._crumb)
        layout.addWidget(self._crumb_arrow)
        layout.addWidget(self._title)
        layout.addLayout(self._chips)
        layout.addStretch(1)
        layout.addLayout(self._buttons)
        layout.addWidget(self._menu_button)
        self.set_title(title)
        return bar

    @property
    def foot_height(self) -> int:
        """px at a text size of 100 % that its own buttons take at the foot, over the status bar."""
        return theme().size.action_bar_height if self._action_area is not None else 0

    def _build_action_bar(self, across: int) -> QWidget:
        bar = self._action_area = QFrame()
        bar.setObjectName("action_bar")
        bar.setLayout(self.action_bar)
        self.action_bar.setContentsMargins(across, 0, across, 0)
        self.action_bar.setSpacing(theme().px(10))
        return bar

    def _fit_header(self) -> None:
        """A crumb is a button with room around its words: these stand above the cards' edge all the same."""
        roomy = self.width() >= theme().px(CRUMB_FROM)
        for widget in (self._crumb, self._crumb_arrow):
            widget.setVisible(self._has_crumb and roomy)
        across = theme().px(theme().size.page_margin[0])
        room = 0 if self._crumb.isHidden() else 2 + theme().px(2)  # as the style sheet has it
        self._header.layout().setContentsMargins(across - room, 0, across, 0)  # type: ignore[union-attr]

    def _fit_text_size(self) -> None:
        size = theme().text_size
        if size != self._drawn_at:
            rescale_layouts(self, size / self._drawn_at)
            self._drawn_at = size
        self._header.setFixedHeight(theme().px(36))
        self._fit_header()
        if self._action_area is not None:
            self._action_area.setFixedHeight(theme().px(theme().size.action_bar_height))
        self._place_side()
        self._keep_edge()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit_header()
        self._place_side()

    def _place_side(self) -> None:
        beside = self.window().width() >= theme().px(SIDE_BELOW)
        across = QBoxLayout.Direction.LeftToRight
        self._columns.setDirection(across if beside else QBoxLayout.Direction.TopToBottom)
        if beside:
            self._side_area.setFixedWidth(theme().px(theme().size.side_width))
        else:
            self._side_area.setMinimumWidth(0)
            self._side_area.setMaximumWidth(16_777_215)

    def _keep_edge(self) -> None:
        """The right edge stays where it is when the scroll bar comes."""
        across, down = (theme().px(margin) for margin in theme().size.page_margin)
        bar = self._scroll.verticalScrollBar()
        taken = bar.sizeHint().width() if bar.maximum() > 0 else 0
        self._columns.setContentsMargins(across, 0, max(across - taken, 0), down)

    def _on_crumb_clicked(self) -> None:
        if self._crumb.page:
            self.app.show_page(self._crumb.page)


class CrumbButton(LinkButton):
    """The page above this one, written like a title."""

    def __init__(self, *, name: str) -> None:
        super().__init__("", name=name)
        self.setAccessibleName("The page above")
        self.page = ""
