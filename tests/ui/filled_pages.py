"""Every page with something on it, from silent children: for what is measured, crawled and pictured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from pytestqt.qtbot import QtBot

from qlora_studio.config.data_parts import Fix, MixPart
from qlora_studio.config.places import sweeps_folder
from qlora_studio.config.run_config import RunConfig
from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.report import Finding, FixCount, PartReport, SkipReason
from qlora_studio.data.token_view import Lengths, Token
from qlora_studio.models.quantization_report import report_file
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.sweep_plan import new_sweep
from qlora_studio.runs.sweep import with_run, write_sweep
from qlora_studio.state.app import AppState
from qlora_studio.ui.page import Page
from qlora_studio.ui.shell import Shell
from tests.state.reports import (
    CHECKED_ADAPTER,
    chat_encoded,
    counted,
    import_report,
    model_report,
    quantization_report,
)
from tests.ui.example_runs import Example, make_run, step_event
from tests.ui.person import click, found
from tests.ui.silent import Silent

MODEL = "/models/Mistral-7B-Instruct-v0.3-of-somebody-with-a-long-name"
DATA = "/data/support_replies_of_the_last_three_years.jsonl"
QUESTION = "A baker makes 12 trays of 8 rolls and sells 70 of them. How many rolls are left?"
ANSWER = "The baker makes 12 x 8 = 96 rolls. After selling 70 of them, 96 - 70 = 26 rolls are left.\n#### 26"

OUT_OF_MEMORY = (
    "NVIDIA RTX 6000 Ada Generation ran out of memory at step 319: 2.10 GiB more were needed, 0.60 GiB are "
    "free. Held were weights 5.50, adapter 1.20, optimizer 1.30, and for the computation 39.20 GiB, promised "
    "were 26.20. Its largest batch had 4 rows, the longest of them training rows 11,402 (2,044 tokens), "
    "11,977 (2,031 tokens)."
)
RESUME_IT = (
    "Resume it with all layers recomputed (slower, the same result), with 2 rows at once (each update has "
    "the same rows), with the optimizer's state in 8 bit, or without training rows 11,402, 11,977. In a new "
    "run try a sequence length of 1,024, or rank 32, or close other programs that use its memory."
)
WAYS = ("recompute", "half_rows", "eight_bit", "without_rows")
REPORT = import_report(
    DATA,
    rows_in=18_420,
    imported=18_211,
    skipped=37,
    merged=172,
    conversations=18_211,
    format="sharegpt",
    problems=(SkipReason(204, "no answer", 31, (204, 311)), SkipReason(880, "not valid JSON", 6, (880,))),
    findings=(
        Finding(kind="skipped", tone="bad", count=37, words="37 of 18,420 rows skipped", why="Lost."),
        Finding(
            kind="empty_answer",
            tone="warn",
            count=12,
            words="12 answers are empty",
            why="There is nothing to learn from them; they are left out of training.",
            rows=(2, 3),
        ),
        Finding(
            kind="special_tokens",
            tone="info",
            count=3,
            words="3 texts hold “<|eot_id|>”",
            why="Encoded as plain text, never as the token of that name.",
            rows=(1,),
        ),
    ),
    columns=("conversations", "id", "source"),
    map={"messages": "conversations"},
)  # fmt: skip


DIAGNOSED = (
    *REPORT.findings,
    Finding(
        kind="near_duplicates",
        tone="warn",
        count=64,
        words="64 rows are nearly equal to an earlier one",
        why="At least 90 % of the words are the same, in the same order; system texts and forms that many "
        "rows share don't count. What is seen several times is learned as many times harder.",
        rows=(4, 5),
        groups=((4, 5),),
        fix=Fix(kind="near_duplicates"),
        fix_words="Leave out 64 copies",
    ),
    Finding(
        kind="contradictions",
        tone="warn",
        count=1_120,
        words="1,120 questions are answered in different ways",
        why="The model learns to waver between them. Where several answers are meant, keep them.",
        rows=(6, 7),
        fix=Fix(kind="contradictions"),
        fix_words="Keep the first answer of each, leave out 2,240",
    ),
    Finding(
        kind="secrets",
        tone="bad",
        count=1,
        words="1 row holds what looks like a secret key",
        why="A model may repeat it to anyone.",
        rows=(9,),
    ),
)


@dataclass(frozen=True)
class Filler:
    """What it takes to fill a page. folder: for the small files that answers name."""

    shell: Shell
    app: AppState
    silent: Silent
    qtbot: QtBot
    folder: Path

    def fill(self, name: str) -> Page:
        """Opened, and shown with what a person would have on it."""
        return _FILLS[name](self)

    # One page each ----------------------------------------------------------------------------------

    def home(self) -> Page:
        make_runs(self.app)
        self.app.preferences.set("models", [MODEL])
        self.app.preferences.set("data", [DATA])
        page = self.shell.open_page("home")
        self.qtbot.waitUntil(found(page, "home_continue").isVisible)
        return page

    def models(self) -> Page:
        sound, broken = self.folder / "Llama-3.1-8B-Instruct", self.folder / "old-model-with-pickles"
        for folder in (sound, broken):
            folder.mkdir(exist_ok=True)
        page = self.shell.open_page("models", broken)
        message = "Only safetensors files are read; this folder has .bin files, which can run code."
        self.silent.refuse(reading.CheckModel, message, "Look for a safetensors version.")
        self.app.models.add_folder(sound)
        warnings = ("This model comes with its own code. It was not run.",)
        report = model_report(sound, warnings=warnings)
        self.silent.answer(reading.CheckModel, reading.ModelChecked, report=report)
        self.qtbot.waitUntil(lambda: bool(self.app.models.promises()))
        kept = report_file(sound)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(msgspec.json.encode(quantization_report()))
        self.app.quantization.look_at(str(sound), again=True)
        self.qtbot.waitUntil(lambda: self.app.quantization.report is not None)
        return page

    def data(self) -> Page:
        self.app.draft.set("model.path", MODEL)
        page = self.shell.open_page("data")
        self.app.data.read(DATA)
        self.silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/set", report=REPORT)
        self._count_rows()
        return page

    def data_doctor(self) -> Page:
        """Once the doctor has looked, with a fix in force and a test file beside the rows."""
        page = self.data()
        self._diagnose()
        self.app.data.fix("near_duplicates")
        report = msgspec.structs.replace(REPORT, fixes=(FixCount(Fix(kind="near_duplicates"), 64),))
        self.silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/mended", report=report)
        self._count_rows()
        self.app.data.doctor.compare("/data/test_questions_of_last_year.jsonl")
        self._diagnose()
        return page

    def data_mix(self) -> Page:
        """Three data sets in one, one of them mended before it was added."""
        self.app.draft.set("model.path", MODEL)
        page = self.shell.open_page("data")
        copies = Fix(kind="near_duplicates")
        mix = (
            MixPart(path=DATA, recipe=(copies,)),
            MixPart(path="/data/sums.csv", weight=2.5),
            MixPart(path="/data/handbook.txt", weight=0.5),
        )
        self.app.data.look_away()
        self.app.draft.set_many({"data.path": "", "data.mix": mix})
        self.app.data.look()
        for part, (rows, format) in zip(
            mix, ((11_000, "sharegpt"), (7_000, "question_answer"), (211, "text")), strict=True
        ):
            fixes = (FixCount(copies, 64),) if part.recipe else ()
            report = msgspec.structs.replace(
                REPORT, path=part.path, conversations=rows, format=format, fixes=fixes
            )
            self.silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/part", report=report)
        parts = (
            PartReport(DATA, 1.0, 0, 11_000, "a", 64),
            PartReport("/data/sums.csv", 2.5, 11_000, 7_000, "b"),
            PartReport("/data/handbook.txt", 0.5, 18_000, 211, "c"),
        )
        report = msgspec.structs.replace(
            REPORT, path="", format="question_answer, sharegpt, text", columns=(), map={}, parts=parts
        )
        self.silent.answer(reading.ImportData, reading.DataImported, dataset="/cache/mix", report=report)
        self._count_rows()
        self._diagnose()
        return page

    def data_refused(self) -> Page:
        """A file that has columns to choose from."""
        page = self.shell.open_page("data")
        self.app.data.read(DATA)
        message = "no column says which text is the prompt."
        self.silent.refuse(reading.ImportData, f"{DATA}: {message}", "Choose the columns.")
        names = ("frage", "antwort")
        self.silent.answer(reading.ShowColumns, reading.ColumnsShown, columns=names, records=())
        return page

    def _diagnose(self) -> None:
        """The doctor has looked."""
        self.qtbot.waitUntil(lambda: bool(self.silent.asked(reading.Diagnose)))
        self.silent.answer(reading.Diagnose, reading.Diagnosed, rows=REPORT.conversations, findings=DIAGNOSED)

    def _count_rows(self) -> None:
        """Lengths of all rows, and the tokens of the first."""
        file = self.folder / "many-lengths.npy"
        rows = REPORT.conversations
        lengths = np.stack((np.arange(rows) % 2_600 + 40, np.arange(rows) % 900), axis=1).astype(np.int32)
        np.save(file, lengths)
        found = Lengths(
            file=str(file), rows=rows, tokens=int(lengths[:, 0].sum()), learned_tokens=1, longest=2_639,
            median=1_340, nothing_to_learn=21, template_sha256="",
        )  # fmt: skip
        bins = tuple(int(count) for count in np.bincount(lengths[:, 0] // 64))
        counted_rows = {"lengths": found, "too_long": 3_000, "bins": bins, "bin_width": 64}
        self.qtbot.waitUntil(lambda: bool(self.silent.asked(reading.CountTokens)))
        self.silent.answer(reading.CountTokens, reading.TokensCounted, **counted_rows)
        self.answer_rows()

    def answer_rows(self) -> None:
        """Rows, and the tokens of the first of them."""
        while self.silent.asked(reading.ShowRows):
            asked = self.silent.asked(reading.ShowRows)[0]
            rows = tuple(_row(at) for at in range(asked.start, asked.start + asked.count))
            self.silent.answer(reading.ShowRows, reading.RowsShown, rows=rows, total=REPORT.conversations)
        if self.silent.asked(reading.ShowTokens):
            fields = {"row": 0, "tokens": _tokens(), "text": "", "total": 2 * len(_tokens())}
            self.silent.answer(reading.ShowTokens, reading.TokensShown, **fields)

    def train(self) -> Page:
        make_runs(self.app)
        self.app.draft.set_many({"model.path": MODEL, "data.path": DATA, "lora.dropout": 0.05})
        page = self.shell.open_page("train")
        self.silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
        problems = REPORT.problems
        report = import_report(DATA, skipped=30, imported=270, conversations=3_000, problems=problems)
        self.silent.answer(reading.ImportData, reading.DataImported, dataset="/d", report=report)
        self.qtbot.waitUntil(lambda: bool(self.silent.asked(reading.CountTokens)))
        lengths = [100 + row % 3_001 for row in range(3_000)]
        self.silent.answer(reading.CountTokens, reading.TokensCounted, **counted(self.folder, lengths))
        self.qtbot.waitUntil(lambda: bool(self.app.train.problems))
        return page

    def train_advanced(self) -> Page:
        page = self.train()
        click(self.qtbot, page, "train_mode_advanced")
        return page

    def runs(self) -> Page:
        folders = make_runs(self.app)
        make_sweep(self.app)
        page = self.shell.open_page("runs")
        self.qtbot.waitUntil(lambda: self.app.sweep.opened is not None)
        self.qtbot.waitUntil(lambda: len(self.app.runs.table.runs) == len(folders))
        for row in (0, 1):
            self.app.runs.table.toggle(row)
        self.qtbot.waitUntil(lambda: all(item.points is not None for item in self.app.runs.compared()))
        return page

    def monitor(self) -> Page:
        folder = make_run(
            self.app.preferences.runs_folder, Example(steps=600, evaluate_every=200, end="paused")
        )
        page = self.shell.open_page("monitor", folder)
        self.qtbot.waitUntil(lambda: not self.app.monitor.loading and not self.app.monitor.verifying)
        return page

    def monitor_out_of_memory(self) -> Page:
        """With all that it can go on with."""
        example = Example(
            steps=318, evaluate_every=100, end="failed", cause="out_of_memory", message=OUT_OF_MEMORY,
            hint=RESUME_IT, ways=WAYS, rows=(11_401, 11_976),
        )  # fmt: skip
        page = self.shell.open_page("monitor", make_run(self.app.preferences.runs_folder, example))
        self.qtbot.waitUntil(lambda: not self.app.monitor.loading and not self.app.monitor.verifying)
        return page

    def monitor_live(self) -> Page:
        """While it trains here, after its last save."""
        example = Example(steps=200, evaluate_every=100, tags=("support", "keep"))
        folder = make_run(self.app.preferences.runs_folder, example)
        self.app.engine.train(folder, "support-llama8b-r64")
        page = self.shell.open_page("monitor", folder)
        self.qtbot.waitUntil(lambda: not self.app.monitor.loading)
        started = events.RunStarted(run=str(folder), step=200, total_steps=3_410, resumed=True, time=0.0)
        self.silent.hear(started)
        for number in range(201, 206):
            self.silent.hear(step_event(number, example))
        self.qtbot.waitUntil(lambda: len(self.app.monitor.points) == 205)
        return page

    def chat(self) -> Page:
        model = str(self.folder / "tiny")
        example = Example(
            name="support-llama8b-r64", model="tiny", steps=20, evaluate_every=10, end="finished",
            changes={"model.path": model},
        )  # fmt: skip
        run = make_run(self.app.preferences.runs_folder, example)
        page = self.shell.open_page("chat", run)
        self.qtbot.waitUntil(lambda: self.app.chat.tuned is not None)
        self.app.chat.send(QUESTION)
        self.silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(model))
        self.silent.hear(_loaded(model))
        self._reply("Let me think. " * 30)
        self.silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
        self._reply(ANSWER)
        return page

    def _reply(self, text: str) -> None:
        self.silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
        self.silent.hear(
            events.GenerationFinished(
                id=self.silent.last_said(commands.Generate).id, reply=text, tokens=67,
                tokens_per_second=13.0, first_token_seconds=0.2, ended="length",
            )
        )  # fmt: skip

    def export(self) -> Page:
        example = Example(
            name="support-llama8b-r64", steps=400, end="finished", changes={"model.path": MODEL}
        )
        folder = make_run(self.app.preferences.runs_folder, example)
        (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"x" * 5_000)
        page = self.shell.open_page("export", folder)
        self.qtbot.waitUntil(lambda: self.app.export.sources is not None)
        self.silent.answer(reading.CheckModel, reading.ModelChecked, report=model_report(MODEL))
        self.qtbot.waitUntil(lambda: bool(self.app.export.place.folder) and not self.app.export.waits_for)
        self.app.export.start()
        self.silent.answer(reading.CheckAdapter, reading.AdapterChecked, **CHECKED_ADAPTER)
        while self.silent.asked(reading.EncodeChat):
            self.silent.answer(reading.EncodeChat, reading.ChatEncoded, **chat_encoded())
        self.silent.hear(_exported(self.silent.last_said(commands.Export).id))
        return page

    def settings(self) -> Page:
        return self.shell.open_page("settings")


_FILLS: dict[str, Callable[[Filler], Page]] = {
    "home": Filler.home,
    "models": Filler.models,
    "data": Filler.data,
    "data_doctor": Filler.data_doctor,
    "data_mix": Filler.data_mix,
    "data_refused": Filler.data_refused,
    "train": Filler.train,
    "train_advanced": Filler.train_advanced,
    "runs": Filler.runs,
    "monitor": Filler.monitor,
    "monitor_live": Filler.monitor_live,
    "monitor_out_of_memory": Filler.monitor_out_of_memory,
    "chat": Filler.chat,
    "export": Filler.export,
    "settings": Filler.settings,
}
FILLED = tuple(_FILLS)


def make_runs(app: AppState) -> list[Path]:
    """One of each end, the last one the newest."""
    examples = (
        Example(name="recipes-smollm", model="SmolLM2-135M", steps=40, end="stopped", tags=("trial",)),
        Example(
            name="support-llama8b-8k",
            steps=318,
            end="failed",
            cause="out_of_memory",
            message="The GPU ran out of memory at step 318: 2.1 GiB asked, 0.6 free.",
            hint="Try a sequence length of 1,024, or a smaller batch.",
        ),
        Example(name="gsm8k-llama8b-r32", steps=420, end="running", tags=("maths", "keep")),
        Example(name="support-llama8b-r64-second-try-with-a-long-name", steps=600, end="finished"),
    )
    return [make_run(app.preferences.runs_folder, example) for example in examples]


def make_sweep(app: AppState) -> None:
    """Six runs that were to be compared, of which two are finished; they lie beside the others' folder."""
    sweep = new_sweep(
        RunConfig(), known_shape("llama-7b"), over="ranks", runs_dir=app.preferences.runs_folder
    )
    for place, loss in enumerate((0.95, 0.9)):
        name = f"rank-{place}"
        run = make_run(
            sweeps_folder() / "runs",
            Example(name=name, loss=loss, steps=40, evaluate_every=20, end="finished"),
        )
        sweep = with_run(sweep, place, str(run))
    write_sweep(sweeps_folder() / "2026-11-24-ranks", sweep)


def _row(index: int) -> Row:
    messages = (Message("user", f"Hi, the battery of order {index} is empty"), Message("assistant", ANSWER))
    return Row(row=index, line=index + 1, messages=messages, source='{"conversations": []}')


def _tokens() -> tuple[Token, ...]:
    said = [Token(f" word{at}", 900 + at, "context", "user") for at in range(80)]
    learned = [Token(f" learned{at}", 2_000 + at, "learned", "assistant") for at in range(200)]
    cut = [Token(f" cut{at}", 3_000 + at, "cut", "assistant") for at in range(30)]
    return (Token("<|im_start|>", 1, "context", "user", special=True), *said, *learned, *cut)


def _loaded(model: str) -> events.ModelLoaded:
    return events.ModelLoaded(
        model=model, parameters=1, trainable_parameters=0, seconds=1.0, device_name="CPU",
        compute_dtype="float32",
    )  # fmt: skip


def _exported(command_id: int) -> events.ExportFinished:
    verified = events.Verification(
        with_="peft",
        prompts=8,
        token_agreement=0.984,
        mean_kl=0.002,
        max_logprob_drift=0.03,
        passed=True,
        merge_base="Merged into the 16-bit weights, the closer ones: KL 0.002 against 0.041.",
        run=events.RunByLlamaCpp(
            with_="llama.cpp (xllamacpp 2026.10.11549)",
            token_agreement=0.98,
            max_logprob_drift=0.04,
            same_replies=7,
            first_difference=events.FirstDifference(
                prompt=3, token=9, wanted='" 18"', found='" 16"', times_likelier=1.02
            ),
        ),
        same_replies=8,
    )
    return events.ExportFinished(
        id=command_id,
        folder="/home/somebody/qlora-studio/exports/2026-11-24-support-llama8b-r64-adapter",
        files=("adapter_model.safetensors", "adapter_config.json", "tokenizer.json"),
        bytes=671_000_000,
        verified=verified,
    )
