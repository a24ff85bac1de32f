"""Chat: feel the difference between the base and what a run made of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PySide6.QtCore import QEvent, Qt, QTimer, Signal
from PySide6.QtGui import (
    QAction,
    QGuiApplication,
    QHideEvent,
    QKeyEvent,
    QKeySequence,
    QResizeEvent,
    QTextCursor,
)
from PySide6.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QMenu,
    QPlainTextEdit,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from qlora_studio.config.run_config import SAMPLE
from qlora_studio.plain_text import visible_line
from qlora_studio.runs.conversations import MOST_SIDES
from qlora_studio.state.app import AppState
from qlora_studio.state.chat_turns import RIGHT, Reply, Tuned, Turn
from qlora_studio.ui.page import CRUMB_FROM, Page
from qlora_studio.ui.pages.chat_arena import ArenaCard
from qlora_studio.ui.pages.chat_endpoint import EndpointCard
from qlora_studio.ui.pages.chat_list import ConversationsCard
from qlora_studio.ui.pages.chat_sampling import SamplingCard
from qlora_studio.ui.pages.chat_side import MemoryCard, SystemCard, TemplateCard
from qlora_studio.ui.pages.chat_turns import TurnRow
from qlora_studio.ui.theme import theme
from qlora_studio.ui.widgets import (
    Card,
    ChoiceBox,
    DangerButton,
    EmptyState,
    IconButton,
    Meter,
    PlainLabel,
    PrimaryButton,
    SecondaryButton,
    Segmented,
    Tile,
    plain_tooltip,
)
from qlora_studio.ui.widgets.allowed import allow
from qlora_studio.ui.widgets.columns import Columns
from qlora_studio.ui.widgets.text_size import at_text_size

BASE_ALONE = ""
ALSO_TIP = "Compare with up to two more adapters of this base"
LIST_TIP = "Conversations"
NEW_CHAT = "New chat"
ARENA_TIP = "Arena: judge answers without names"
ENDPOINT_TIP = "Local endpoint for other programs"
MARK_TIP = "Mark where the replies differ"
NAME, TO_BIN = "Name the conversation", "Move the conversation to the bin"
IN_LIST = {NAME: "F2", TO_BIN: "Del"}  # keys of the list of conversations
NEARLY_FULL = 0.9  # of the context
AT_END = 24  # px from the end: the view still follows what is written
NOTHING_TYPED = "Write a message first"
WHILE_WRITING = "The models can be changed once the reply is complete"
MOST_LINES = 5  # of the message box
LONGEST_PROMPT = 120  # characters of one that is offered
_AROUND_PROMPT = 64  # px at 100 % that a button has around its words, and the page around the button


class ChatPage(Page):
    """Turns in the middle, the message below, how it is sampled on the right."""

    def __init__(self, app: AppState) -> None:
        super().__init__(app, "chat", "Chat")
        self._state = app.chat
        self._rows: list[TurnRow] = []
        self._actions: dict[str, QAction] = {}  # of the menu, by its words
        self._follows = True
        self._offers_first: Path | None = None  # the run whose first prompt is to be typed
        self._changing: Turn | None = None  # whose message is typed again
        self._correcting: tuple[Turn, Reply] | None = None  # which answer is written as it should be

    def opened(self, what: object) -> None:
        """what: the folder of a run to talk to, its first prompt typed already; or None."""
        self._offers_first = what if isinstance(what, Path) else None
        self._state.refresh(self._offers_first)
        self._state.conversations.refresh()
        self._state.good_answers.refresh()
        self._input.setFocus()

    def rescan(self) -> None:
        """F5: looks for runs that finished and conversations that came meanwhile."""
        self._state.refresh()
        self._state.conversations.refresh()

    def escape(self) -> bool:
        """Esc stops the reply, or leaves a message as it was."""
        if self._state.busy:
            self._state.stop()
        elif self._changing is not None or self._correcting is not None:
            self._changing = self._correcting = None
            self._input.clear()
        elif super().escape():
            return True
        elif not (self._conversations.isHidden() and self._arena.isHidden()):
            self._show_list(False)
        else:
            return False
        return True

    def undo(self) -> bool:
        """Ctrl+Z: the last vote of the arena."""
        may = not self._arena.isHidden() and bool(self.app.arena.arena and self.app.arena.arena.votes)
        if may:
            self.app.arena.take_back()
        return may

    def open_search(self) -> None:
        """The list comes to the front."""
        self._show_list(True)

    # Layout -----------------------------------------------------------------------------------------

    def pieces(self) -> Iterator[None]:
        """What is said, then what it is said with."""
        yield from self._build_page()
        self._bind()

    def _build_page(self) -> Iterator[None]:
        self._mode = Segmented([("one", "One"), ("two", "Side by side")], label="Replies", name="chat_mode")
        self._to_arena = IconButton("flag", ARENA_TIP, name="chat_to_arena")
        self._new = SecondaryButton(NEW_CHAT, "plus", name="chat_new")
        self._new.setAccessibleName(NEW_CHAT)
        self._to_list = IconButton("history", LIST_TIP, name="chat_to_list")
        self.add_header(self._to_list)
        self.add_header(self._to_arena)
        self.add_header(self._mode)
        self.add_header(self._new)
        self.main.addLayout(self._build_sides())
        yield
        self._turns = QVBoxLayout()
        self._turns.setSpacing(theme().px(12))
        self._turns.setContentsMargins(0, 0, 0, 0)
        inside = QWidget()
        inside.setObjectName("page_content")
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 0, 0)
        self._inside = column
        self._offers = self._build_empty()
        column.addWidget(self._offers, 1)
        column.addLayout(self._turns)
        self._below = QWidget()  # takes what the turns leave of the height
        column.addWidget(self._below, 1)
        self._view = QScrollArea(widgetResizable=True)
        self._view.setObjectName("chat_turns")
        self._view.setAccessibleName("The chat so far")
        self._view.setFrameShape(QScrollArea.Shape.NoFrame)
        self._view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._view.setWidget(inside)
        at_text_size(self._view, self._view.setMinimumHeight, 220)
        self._input_card = self._build_input()
        self._conversations = ConversationsCard(self._state)
        self.search = self._conversations.search
        self._conversations.hide()
        self._arena = ArenaCard(self.app.arena)
        self._arena.hide()
        self.main.addWidget(self._conversations, 1)
        self.main.addWidget(self._arena, 1)
        self.main.addWidget(self._view, 1)
        self.main.addWidget(self._input_card)
        yield
        self._endpoint: EndpointCard | None = None  # built when it is asked for
        self._sampling = SamplingCard(self._state)
        self._system = SystemCard(self._state)
        self._template = TemplateCard(self._state)
        self._memory = MemoryCard(self.app)
        for card in (self._sampling, self._system, self._template, self._memory):
            self.side.addWidget(card)
        self.side.addStretch(1)
        self._build_menu()

    def _build_sides(self) -> Columns:
        """Beside each other, as the replies; one above the other where there is no room."""
        row = Columns(most=2, least=260, gap=12, line_gap=8)
        self._left = Tile("box", "Base", "", name="chat_left")
        self._change = SecondaryButton("Change", small=True, name="chat_change_base")
        self._left.add(self._change)
        self._right = Tile("layers", "Tuned", "", name="chat_right_tile")
        self._choice = ChoiceBox([(BASE_ALONE, "No adapter")], name="chat_right", label="Tuned model")
        at_text_size(self._choice, self._choice.setMinimumWidth, 190)
        self._also = IconButton("columns-3", ALSO_TIP, small=True, name="chat_also")
        self._also_menu = QMenu(self._also)
        self._also.setMenu(self._also_menu)
        self._right.add(self._choice)
        self._right.add(self._also)
        row.addWidget(self._left)
        row.addWidget(self._right)
        return row

    def _build_empty(self) -> EmptyState:
        self._prompts = [SecondaryButton("", name=f"chat_prompt_{number}") for number in range(3)]
        empty = EmptyState(
            "messages-square", "Ask something", "Both sides get the same message.", name="chat_empty"
        )
        offers = QVBoxLayout()
        offers.setSpacing(theme().px(8))
        for button in self._prompts:
            offers.addWidget(button, 0, Qt.AlignmentFlag.AlignHCenter)
        layout = empty.layout()
        assert isinstance(layout, QVBoxLayout)
        layout.insertLayout(layout.count() - 1, offers)
        return empty

    def _build_input(self) -> Card:
        card = Card(name="chat_input_card")
        self._input = MessageBox()
        self._hint = PlainLabel("", "note", wrap=True)
        self._context = PlainLabel("", "note", name="chat_context")
        self._meter = Meter(name="chat_context_meter", label="How full the model's context is", height=6)
        at_text_size(self._meter, self._meter.setFixedWidth, 64)
        self._waits = PlainLabel("", "note", wrap=True, name="chat_waits_for")
        self._waits.set_tone("warn")
        self._pause = SecondaryButton("Pause and chat", "pause", small=True, name="chat_pause_training")
        self._pause.hide()
        self._send = PrimaryButton("Send", "send", name="chat_send")
        self._stop = DangerButton("Stop", "square", name="chat_stop")
        self._stop.hide()
        row = QHBoxLayout()
        row.setSpacing(theme().px(10))
        row.addWidget(self._hint, 1)
        row.addWidget(self._waits, 1)
        row.addWidget(self._pause)
        row.addWidget(self._meter)
        row.addWidget(self._context)
        row.addWidget(self._send)
        row.addWidget(self._stop)
        card.body.addWidget(self._input)
        card.body.addLayout(row)
        return card

    def _build_menu(self) -> None:
        for words, keys, slot in (  # keys behind a tab are the message box's own
            ("Send\tEnter", "", self._on_send),
            ("New line in the message\tShift+Enter", "", lambda: self._input.insertPlainText("\n")),
            ("Stop the reply\tEsc", "", self._state.stop),
            ("Change the last message\tUp", "", self._on_change_last),
            (NEW_CHAT, "Ctrl+N", self._on_new),
            ("Answer again", "Ctrl+R", self._on_again),
            ("One or side by side", "Ctrl+B", self._on_mode_key),
            (LIST_TIP, "Ctrl+L", self._on_list),
            (NAME, "", self._on_rename),
            (TO_BIN, "", self._on_bin),
            ("Copy the chat", "", self._on_copy_all),
            (MARK_TIP, "Ctrl+D", self._on_mark_differences),
            (ARENA_TIP, "Ctrl+J", self._on_arena),
            ("Keep the last answer for training", "Ctrl+G", self._on_good),
            ("Open the good answers as data", "", self._on_open_good),
            (ENDPOINT_TIP, "", self._on_endpoint),
        ):
            action = QAction(words, self)
            if keys:
                action.setShortcut(QKeySequence(keys))
                action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            if words == MARK_TIP:
                action.setCheckable(True)
                action.setChecked(self._state.mark_differences)
            action.triggered.connect(slot)
            self.addAction(action)
            self.menu.addAction(action)
            self._actions[words] = action

    # Wiring -----------------------------------------------------------------------------------------

    def _bind(self) -> None:
        self._state.changed.connect(self._refresh)
        self._state.grown.connect(self._on_grown)
        self.dress.changed.connect(self._fit_new)
        self._mode.changed.connect(lambda mode: self._state.set_side_by_side(mode == "two"))
        self._new.clicked.connect(self._on_new)
        self._to_list.clicked.connect(self._on_list)
        self._to_arena.clicked.connect(self._on_arena)
        self._arena.back_asked.connect(self._on_arena)
        self._arena.prompts_asked.connect(self._on_arena_prompts)
        self._arena.table_asked.connect(self._on_arena_table)
        self._arena.judge_asked.connect(self._on_arena_judge)
        self.app.arena.saved.connect(lambda path: self.app.notices.say(f"Saved {path.name}"))
        self._conversations.opened.connect(lambda: self._show_list(False))
        self._state.good_answers.changed.connect(self._refresh_turns)
        self._state.good_answers.refused.connect(self.show_error)
        self._state.conversations.told.connect(lambda words, _: self.show_error(words))
        self._change.clicked.connect(lambda: self.app.show_page("models"))
        self._choice.chosen.connect(self._on_tuned)
        self._send.clicked.connect(self._on_send)
        self._stop.clicked.connect(self._state.stop)
        self._pause.clicked.connect(self.app.engine.pause_training)
        self._input.sent.connect(self._on_send)
        self._input.went_up.connect(self._on_change_last)
        for button in self._prompts:
            button.clicked.connect(lambda _=False, button=button: self._offer(button))
        bar = self._view.verticalScrollBar()
        bar.rangeChanged.connect(self._keep_at_end)
        bar.valueChanged.connect(self._on_scrolled)
        self._input.textChanged.connect(self._refresh_buttons)
        self.menu.aboutToShow.connect(self._enable_actions)
        self._refresh()

    def _on_send(self) -> None:
        text = self._input.toPlainText().strip()
        if text and self._send.isEnabled():
            turn, self._changing = self._changing, None
            corrected, self._correcting = self._correcting, None
            self._input.clear()
            if corrected is not None:
                self._state.correct(*corrected, text)
                return
            self._follows = True
            if turn is not None and turn in self._state.turns:
                self._state.change(turn, text)
            else:
                self._state.send(text)

    def _on_change_last(self) -> None:
        if self._state.turns:
            self._on_change(self._state.turns[-1])

    def _on_change(self, turn: Turn) -> None:
        """The message is typed again; nothing is dropped before it is sent."""
        if self._state.busy:
            return
        self._changing, self._correcting = turn, None
        self._type(turn.text)

    def _on_correct(self, turn: Turn, reply: Reply) -> None:
        """The answer is typed again, as it should be; nothing is asked of the model."""
        if not self._state.busy:
            self._changing, self._correcting = None, (turn, reply)
            self._type(reply.text)

    def _type(self, text: str) -> None:
        self._input.setPlainText(text)
        self._input.moveCursor(QTextCursor.MoveOperation.End)
        self._input.setFocus()

    def _offer(self, button: SecondaryButton) -> None:
        self._input.setPlainText(str(button.property("prompt")))
        self._input.setFocus()

    def _on_new(self) -> None:
        self._state.new_chat()
        self._show_list(False)

    def _on_again(self) -> None:
        if self._state.turns and not self._state.busy:
            turn = self._state.turns[-1]
            self._state.again(turn, *turn.replies)

    def _on_list(self) -> None:
        self._show_list(self._conversations.isHidden())

    def _show_list(self, shown: bool) -> None:
        """In place of what is said, or back."""
        self._arena.hide()
        self._conversations.setVisible(shown)
        self._view.setVisible(not shown)
        self._input_card.setVisible(not shown)
        (self._conversations.search if shown else self._input).setFocus()

    def _on_arena(self) -> None:
        """In place of what is said, or back."""
        shown = self._arena.isHidden()
        self._show_list(False)
        self._arena.setVisible(shown)
        self._view.setVisible(not shown)
        self._input_card.setVisible(not shown)
        if shown:
            self.app.arena.look()
            self._arena.take_focus()

    def _on_arena_prompts(self) -> None:
        words = "Prompts for the arena: lines of text, or JSON objects with a prompt"
        dialog = QFileDialog(self, words, "", "Prompts (*.txt *.jsonl *.json);;All files (*)")
        dialog.setObjectName("chat_pick_prompts")
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.fileSelected.connect(self.app.arena.begin)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _on_arena_table(self) -> None:
        dialog = QFileDialog(self, "Save all votes", "votes.csv", "Table (*.csv)")
        dialog.setObjectName("chat_save_votes")
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix("csv")
        dialog.fileSelected.connect(lambda path: self.app.arena.save_votes(Path(path)))
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _on_arena_judge(self) -> None:
        dialog = QFileDialog(self, "Folder of the model that judges")
        dialog.setObjectName("chat_pick_judge")
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.fileSelected.connect(self.app.arena.ask_judge)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _on_mode_key(self) -> None:
        self._state.set_side_by_side(not self._state.side_by_side)

    def _on_rename(self) -> None:
        """The one that is chosen in the list, or else the one that is read."""
        if self._conversations.isHidden():
            self._show_list(True)
            self._conversations.choose_open()
        self._conversations.rename()

    def _on_bin(self) -> None:
        """As for a name."""
        if not self._conversations.isHidden():
            self._conversations.move_to_bin()
        elif self._state.open_path is not None:
            self._state.move_to_bin(self._state.open_path)

    def _enable_actions(self) -> None:
        """What can't be done now says why."""
        listed = not self._conversations.isHidden()
        if listed:
            why = "" if self._conversations.has_choice else "choose one first"
        else:
            why = "" if self._state.open_path is not None else "nothing was said yet"
        for words, keys in IN_LIST.items():
            action = self._actions[words]
            action.setEnabled(not why)
            action.setText(f"{words} ({why})" if why else f"{words}\t{keys}" if listed else words)

    def _on_copy_all(self) -> None:
        lines = []
        for turn in self._state.turns:
            lines.append(f"You: {turn.text}")
            lines += [f"{self._state.name_of(reply)}: {reply.text}" for reply in turn.replies]
        QGuiApplication.clipboard().setText("\n\n".join(lines))
        self.app.notices.say("Chat copied")

    def _on_good(self) -> None:
        """Of two sides the tuned one's."""
        if self._state.turns and self._state.turns[-1].replies:
            turn = self._state.turns[-1]
            self._state.switch_good(turn, turn.reply(RIGHT) or turn.replies[0])

    def _on_open_good(self) -> None:
        if self._state.good_answers.count:
            self.app.show_page("data", self._state.good_answers.path)
        else:
            self.app.notices.say("No answer is kept yet: each has a button for it", "warn")

    def _on_endpoint(self) -> None:
        """Its card, above the others; what listens is only begun there."""
        if self._endpoint is None:
            self._endpoint = EndpointCard(self.app.endpoint)
            self._endpoint.copied.connect(self.app.notices.say)
            self.side.insertWidget(0, self._endpoint)
        self._endpoint.show()
        QTimer.singleShot(0, self._show_endpoint)  # once it has its place

    def _show_endpoint(self) -> None:
        if self._endpoint is not None:
            self.show_in_view(self._endpoint)

    def hideEvent(self, event: QHideEvent) -> None:
        """Another page, or the window's end: nothing listens that nobody sees (S10)."""
        super().hideEvent(event)
        if self._endpoint is not None and self.app.endpoint.running and not event.spontaneous():
            self.app.endpoint.stop()
            self.app.notices.say("The local endpoint was closed with its page")

    def _on_mark_differences(self) -> None:
        self._state.set_mark_differences(not self._state.mark_differences)

    def _on_tuned(self, folder: str) -> None:
        chosen = next((item for item in self._state.choices if str(item.folder) == folder), None)
        self._state.choose_tuned(chosen)

    def _on_grown(self, reply: Reply) -> None:
        for row in self._rows:
            if row.show_reply(reply):
                return

    def _on_scrolled(self, value: int) -> None:
        self._follows = value >= self._view.verticalScrollBar().maximum() - AT_END

    def _keep_at_end(self) -> None:
        bar = self._view.verticalScrollBar()
        beside = theme().px(4) if bar.maximum() > 0 else 0  # without a bar the replies end where the box does
        self._inside.setContentsMargins(0, 0, beside, 0)
        if self._follows:
            bar.setValue(bar.maximum())

    # What is shown ----------------------------------------------------------------------------------

    def _refresh(self) -> None:
        state = self._state
        self._mode.set_value("two" if state.side_by_side else "one")
        self._mode.setVisible(state.tuned is not None)
        trained = state.own_model
        words = _alone(state.model.path) if trained is None else self._choice_words(trained)
        self._left.set_words("Base", words)
        self._right.set_words("Tuned", self._tuned_words())
        own = [(str(item.folder), self._choice_words(item)) for item in state.choices]
        # A model of which all weights were trained stands for itself: its base is another model.
        base = "No adapter" if trained is None else _alone(trained.run.record.config.model.path)
        self._choice.set_choices([(BASE_ALONE, base), *own])
        chosen = state.tuned or trained
        self._choice.set_value(str(chosen.folder) if chosen else BASE_ALONE)
        self._fill_also()
        for control in (self._choice, self._also, self._change):
            allow(control, WHILE_WRITING if state.busy else "")
        self._type_first_prompt()
        if self._changing not in state.turns:
            self._changing = None  # what was typed for it stays, as a message of its own
        if self._correcting is not None and self._correcting[0] not in state.turns:
            self._correcting = None
        self._refresh_turns()
        for button, prompt in zip(self._prompts, state.prompts(), strict=False):
            button.setProperty("prompt", prompt)
        self._fit_prompts()
        self._offers.setVisible(not state.turns)
        self._below.setVisible(bool(state.turns))
        both = "All of them get" if state.also else "Both sides get"
        two = f"{both} the same message." if state.side_by_side else "One reply to each message."
        self._offers.set_words("Ask something", two)
        for shown in (self._context, self._meter):
            shown.setVisible(state.context_used > 0)
        share = state.context_used / max(state.context_room, 1)
        self._meter.set_share(share, "accent" if share < NEARLY_FULL else "warn")
        self._context.setText(f"{state.context_used:,} of {state.context_room:,} tokens")
        self._conversations.refresh()
        self._system.refresh()
        self._template.refresh()
        self._refresh_buttons()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit_new()
        self._fit_prompts()

    def _fit_new(self) -> None:
        """A plus alone where the title line has no room for its words."""
        roomy = self.width() >= theme().px(CRUMB_FROM)
        self._new.setText(NEW_CHAT if roomy else "")
        self._new.setToolTip("" if roomy else plain_tooltip(NEW_CHAT))

    def _fit_prompts(self) -> None:
        """As much of each as there is room for; the tooltip has it whole."""
        room = self._view.viewport().width() - theme().px(_AROUND_PROMPT)
        for button in self._prompts:
            prompt = visible_line(str(button.property("prompt") or ""), LONGEST_PROMPT)
            shown = button.fontMetrics().elidedText(prompt, Qt.TextElideMode.ElideRight, room)
            button.setText(shown)
            button.setAccessibleName(prompt)
            button.setToolTip(plain_tooltip(prompt) if shown != prompt else "")

    def _tuned_words(self) -> str:
        tuned = self._state.tuned
        if tuned is not None:
            return f"+ {len(self._state.also)} more" if self._state.also else tuned.name
        if self._state.own_model is not None:
            return "All weights were trained, no adapter"
        return "No adapter chosen" if self._state.choices else "No run has finished yet"

    def _fill_also(self) -> None:
        """Where there are other adapters of the same base: which of them answer too."""
        state = self._state
        others = state.others()
        self._also.setVisible(bool(others))
        if [action.data() for action in self._also_menu.actions()] != others:
            self._also_menu.clear()
            for other in others:
                action = self._also_menu.addAction(visible_line(other.name, 60).replace("&", "&&"))
                action.setData(other)
                action.setCheckable(True)
                action.triggered.connect(lambda on, other=other: state.compare_with(other, on))
        for action in self._also_menu.actions():
            action.setChecked(action.data() in state.also)
            action.setEnabled(action.isChecked() or len(state.also) < MOST_SIDES - 2)

    def _choice_words(self, item: Tuned) -> str:
        """A run of another base names it: choosing it changes the base."""
        if item.is_model:
            return f"{item.name}, all weights"
        if item.model == self._state.model:
            return item.name
        return f"{item.name}, of {item.run.record.model_name or Path(item.model.path).name}"

    def _type_first_prompt(self) -> None:
        tuned = self._state.tuned or self._state.own_model
        if self._offers_first is None or tuned is None or tuned.run.folder != self._offers_first:
            return
        self._offers_first = None
        if not self._state.turns and not self._input.toPlainText():
            self._input.setPlainText(self._state.prompts()[0])
            self._input.moveCursor(QTextCursor.MoveOperation.End)

    def _refresh_buttons(self) -> None:
        state = self._state
        self._send.setVisible(not state.busy)
        self._stop.setVisible(state.busy)
        if state.holder and self.isVisible():
            state.look_at_need()
        held = state.waits_for
        allow(self._send, held or ("" if self._input.toPlainText().strip() else NOTHING_TYPED))
        self._waits.setText(held)
        self._pause.setVisible(bool(state.holder))
        self._waits.setVisible(bool(state.holder))
        self._hint.setText(self._hint_words())
        self._hint.setVisible(not state.holder)

    def _hint_words(self) -> str:
        state = self._state
        keys = "Enter sends, Shift+Enter starts a line"
        typed = bool(self._input.toPlainText().strip())
        hint = f"Esc stops. {WHILE_WRITING}" if state.busy else keys if typed else f"{NOTHING_TYPED}. {keys}"
        if self._correcting is not None and typed:
            hint = "Enter puts it beside the model's answer, to be kept for training. Esc leaves it"
        elif self._changing is not None and typed:
            hint = "Enter sends it beside the old message, which stays as another version. Esc leaves it"
        if not state.left_out:
            return hint
        what = "message is" if state.left_out == 1 else f"{state.left_out} messages are"
        return f"{hint}. The model's context is full: the first {what} left out."

    def _refresh_turns(self) -> None:
        """A row for each turn; rows that are there stay, so that nothing jumps."""
        turns = self._state.turns
        for row in self._rows[len(turns) :]:
            row.hide()
            row.deleteLater()
        del self._rows[len(turns) :]
        for number, turn in enumerate(turns):
            if number == len(self._rows):
                self._rows.append(self._row(turn, number))
            self._rows[number].show_turn(turn, self._state.busy)

    def _row(self, turn: Turn, number: int) -> TurnRow:
        row = TurnRow(turn, number, self._state)
        row.again.connect(self._state.again)
        row.copied.connect(self._on_copy)
        row.change_asked.connect(self._on_change)
        row.correct_asked.connect(self._on_correct)
        row.good_switched.connect(self._state.switch_good)
        row.message_chosen.connect(self._state.show_message)
        row.reply_chosen.connect(self._state.show_reply)
        self._turns.addWidget(row)
        return row

    def _on_copy(self, text: str) -> None:
        QGuiApplication.clipboard().setText(text)
        self.app.notices.say("Copied")


class MessageBox(QPlainTextEdit):
    """Grows to five lines. sent: Enter without Shift. went_up: Up, where nothing is typed."""

    sent = Signal()
    went_up = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("chat_input")
        self.setAccessibleName("Message")
        self.setPlaceholderText("Message")
        self.setTabChangesFocus(True)
        self.setMaximumBlockCount(2_000)
        self.textChanged.connect(self._fit)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        if enter and not event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self.sent.emit()
            return
        if event.key() == Qt.Key.Key_Up and not self.toPlainText():
            self.went_up.emit()
            return
        super().keyPressEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self._fit()

    def _fit(self) -> None:
        """As high as its lines and no higher, so that one line stands in the middle."""
        lines = max(self.document().size().height(), 1)
        bar = (
            Qt.ScrollBarPolicy.ScrollBarAsNeeded
            if lines > MOST_LINES
            else Qt.ScrollBarPolicy.ScrollBarAlwaysOff
        )
        self.setVerticalScrollBarPolicy(bar)
        around = self.contentsMargins()
        text = min(lines, MOST_LINES) * self.cursorRect().height() + 2 * self.document().documentMargin()
        self.setFixedHeight(round(text) + around.top() + around.bottom() + 2)  # 2: the ring of the focus


def _alone(path: str) -> str:
    """A base model, by its name."""
    return f"{'SmolLM2-135M-Instruct' if path == SAMPLE else Path(path).name}, no adapter"
