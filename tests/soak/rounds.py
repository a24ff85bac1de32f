"""What a person does in a round of the soak: a run is trained, stopped, resumed, evaluated, talked to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from PySide6.QtWidgets import QPlainTextEdit

from qlora_studio.config.presets import sample_preset
from qlora_studio.state.app import AppState
from qlora_studio.ui.shell import Shell
from tests.journey.person import Person

PAGES = ("models", "data", "train", "runs", "chat", "export", "settings", "home")
PAUSE_EVERY = 25  # rounds: then the engine ends, and a new one goes on
KEPT_RUNS = 2
LOOK_S = 0.6  # at each page
PROMPT = '[[samples]]\nprompt = "What is 12 times 7?"\nmax_tokens = 8\n'  # of the sample run
REST_S = 6.0  # timers, notices and readers come to their end


class Rounds:
    """In one window with its real engine and readers. folder: for files that are imported; trash: the bin."""

    def __init__(self, app: AppState, shell: Shell, folder: Path, trash: Path) -> None:
        self._app = app
        self._shell = shell
        self._person = Person(shell)
        self._trash = trash
        self._sums = folder / "sums.jsonl"
        self._questions = folder / "questions.jsonl"
        rows = [
            {"question": f"What is {a} times {b}?", "answer": f"{a} x {b} = {a * b}"}
            for a in range(2, 10)
            for b in range(3, 9)
        ]
        self._sums.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
        self._questions.write_text("".join(f"{json.dumps(row)}\n" for row in rows[:1]), "utf-8")

    def go(self, number: int) -> None:
        """One round; number: from 1."""
        self._train(pauses=number % PAUSE_EVERY == 0)
        self._evaluate()
        self._chat()
        self._look_at_pages()
        self._tidy_up()
        self._person.clicks_on("nav_home")
        self._person.waits(REST_S)

    def _train(self, pauses: bool) -> None:
        """Stopped in the middle and resumed; where it pauses, the engine ends meanwhile."""
        app, person = self._app, self._person
        preset = sample_preset()
        app.draft.preset = preset
        app.draft.replace(preset.config)
        person.clicks_on("nav_train")
        person.clicks_on("train_start")
        person.waits_until(lambda: app.engine.training and app.engine.step >= 2, "the second step")
        if pauses:
            person.clicks_on("monitor_pause")
        else:
            person.clicks_on("monitor_stop")
            person.clicks_on("monitor_stop_popover_yes")
        person.waits_until(
            lambda: not app.engine.training and not app.monitor.loading and app.monitor.ending is not None,
            "the run to stand still",
        )
        if self._state() != "finished":  # the word may have come at the last step
            person.clicks_on("monitor_pause")  # where it stood, Resume stands
            person.waits_until(lambda: app.engine.training, "the run to go on")
        person.waits_until(lambda: not app.engine.training and self._state() == "finished", "its end")

    def _state(self) -> str:
        run = self._app.monitor.run
        return run.state.state if run is not None and not self._app.monitor.loading else ""

    def _evaluate(self) -> None:
        evaluation = self._app.evaluation
        self._person.waits_until(lambda: not evaluation.why_not, "evaluating to be possible")
        evaluation.start(str(self._questions))
        self._person.waits_until(lambda: bool(evaluation.found) or evaluation.problem is not None, "answers")
        assert evaluation.problem is None, evaluation.problem

    def _chat(self) -> None:
        person, chat = self._person, self._app.chat
        person.clicks_on("monitor_chat")
        person.waits_until(lambda: chat.tuned is not None, "the adapter")
        person.writes("chat_max_tokens", "8")
        for text in ("What is 7 times 8?", "And 9 times 8?"):
            message = person.waits_for("chat_input", QPlainTextEdit)
            message.setPlainText(text)
            person.clicks_on("chat_send")
            person.waits_until(lambda: bool(chat.turns) and not chat.busy, "the replies")
        path = chat.open_path
        person.clicks_on("chat_new")
        assert path is not None
        chat.move_to_bin(path)

    def _look_at_pages(self) -> None:
        data = self._app.data
        for name in PAGES:
            self._person.clicks_on(f"nav_{name}")
            self._person.waits(LOOK_S)
        self._shell.open_page("data", self._sums)
        self._person.waits_until(lambda: data.counts.counted is not None, "the rows to be counted")

    def _tidy_up(self) -> None:
        """What is kept of a round would be growth that was asked for."""
        runs = self._app.runs
        runs.refresh()
        self._person.waits(LOOK_S)
        for old in sorted(runs.table.runs, key=lambda run: run.folder)[:-KEPT_RUNS]:
            runs.move_to_bin(old)
        self._person.waits_until(lambda: len(runs.table.runs) <= KEPT_RUNS, "old runs to be in the bin")
        shutil.rmtree(self._trash, ignore_errors=True)
        self._app.notices.last.clear()  # a hundred are kept, each with what takes its thing out of the bin
