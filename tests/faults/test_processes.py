"""Real processes, really killed and really stopped: a window with its engine, and what they leave."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest

from qlora_studio.config.run_config import DataConfig
from qlora_studio.engine.inbox import SILENCE_S
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.child import start_engine, start_reader
from qlora_studio.runs.checkpoints import checkpoints, newest_sound
from qlora_studio.runs.folder import open_run
from qlora_studio.runs.run_state import read_state
from tests.engine.tiny import make_model, make_run

# The window's own memory of its engine, without widgets; it says each step, and then every change.
WINDOW = """
import sys
from pathlib import Path
from PySide6.QtCore import QCoreApplication
from qlora_studio.protocol.events import CheckpointSaved
from qlora_studio.state.engine import EngineState
app = QCoreApplication([])
engine = EngineState()
def heard(event):
    if isinstance(event, CheckpointSaved):
        print("saved", event.step, engine._thread.pid, flush=True)
engine.heard.connect(heard)
engine.changed.connect(lambda: print("now", engine.words, flush=True))
engine.ended.connect(lambda words: (print("ended", words, flush=True), app.quit()))
engine.train(Path(sys.argv[1]))
app.exec()
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, make_model(tmp_path / "model"), training__epochs=1000.0)


@pytest.fixture
def window(run: Path) -> Iterator["subprocess.Popen[str]"]:
    """In training, with no checkpoint yet."""
    process = subprocess.Popen(
        [sys.executable, "-c", WINDOW, str(run)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


def said(window: "subprocess.Popen[str]", word: str) -> list[str]:
    """The words of the next line that begins with this one."""
    output: IO[str] | None = window.stdout
    assert output is not None
    return next(line.split() for line in output if line.startswith(word))


@pytest.mark.fault(3)
@pytest.mark.slow
def test_a_window_that_is_killed_leaves_no_engine_and_a_run_that_goes_on(  # R7
    run: Path, window: "subprocess.Popen[str]"
) -> None:
    engine = psutil.Process(int(said(window, "saved")[2]))

    window.kill()

    engine.wait(60)
    saved, state = newest_sound(run), read_state(run).state
    assert saved is not None and state is not None
    assert (state.state, state.step) == ("paused", saved.step)
    assert all(info.sound for info in checkpoints(run, verify=True))
    assert not open_run(run).locked


@pytest.mark.fault(4)
@pytest.mark.slow_fault
@pytest.mark.timeout(300)
def test_an_engine_that_stands_still_is_said_and_its_run_goes_on(  # R4, R7
    run: Path, window: "subprocess.Popen[str]"
) -> None:
    engine = psutil.Process(int(said(window, "saved")[2]))
    engine.suspend()

    words = said(window, "now The engine has not answered for")

    assert 30 <= int(words[7]) < 45
    engine.kill()  # what the window's button does
    assert " ".join(said(window, "ended")) == "ended killed by the system, memory?"
    assert window.wait(10) == 0
    assert all(info.sound for info in checkpoints(run, verify=True))
    assert open_run(run).state.state == "interrupted"


@pytest.mark.fault(16)
@pytest.mark.slow_fault
@pytest.mark.timeout(300)
def test_a_run_whose_processes_all_slept_is_saved_or_goes_on(  # R13
    run: Path, window: "subprocess.Popen[str]"
) -> None:
    engine = psutil.Process(int(said(window, "saved")[2]))
    before = newest_sound(run)
    for process in (engine.pid, window.pid):
        os.kill(process, signal.SIGSTOP)
    time.sleep(SILENCE_S + 10)

    for process in (window.pid, engine.pid):
        os.kill(process, signal.SIGCONT)

    said(window, "saved")
    window.kill()
    engine.wait(60)
    after = newest_sound(run)
    assert before is not None and after is not None
    assert after.step > before.step
    assert open_run(run).state.state == "paused"


@pytest.mark.fault(18)
@pytest.mark.slow
def test_an_engine_killed_from_outside_is_said_and_the_run_is_interrupted(  # R7
    run: Path, window: "subprocess.Popen[str]"
) -> None:
    engine = psutil.Process(int(said(window, "saved")[2]))

    engine.kill()

    assert " ".join(said(window, "ended")) == "ended killed by the system, memory?"
    assert open_run(run).state.state == "interrupted"


SECRET = "hf_abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.mark.fault(33)
@pytest.mark.slow
def test_a_token_of_the_hub_reaches_no_child_no_log_and_no_run(  # S11, R16
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", SECRET)
    run = make_run(home, make_model(tmp_path / "model"), training__steps=2)
    engine, reader = start_engine(), start_reader()
    engine.say(commands.Train(run=str(run)))
    finished = next(event for event in engine.heard() if isinstance(event, events.RunFinished))
    environments = [psutil.Process(child.pid).environ() for child in (engine, reader)]
    for child in (engine, reader):
        child.hang_up()
        assert child.wait(30) == 0

    assert finished.state == "finished"
    assert [SECRET in environment.values() for environment in environments] == [False, False]
    written = [file for file in home.rglob("*") if file.is_file()]
    assert {"run.json", "metrics.jsonl", "engine.log"} <= {file.name for file in written}
    assert [file for file in written if SECRET.encode() in file.read_bytes()] == []


@pytest.mark.fault(33)
@pytest.mark.slow
def test_what_stands_in_the_data_reaches_no_log_and_no_report(  # R16
    tmp_path: Path, home: Path
) -> None:
    from qlora_studio.ui.pages.settings_about import report

    file = tmp_path / "data.jsonl"
    rows = [f'{{"question": "My key, {number}?", "answer": "{SECRET}"}}\n' for number in range(200)]
    file.write_text("".join(rows) + f"no JSON {SECRET}\n", "utf-8")
    reader = start_reader()
    reader.say(reading.ImportData(id=1, data=DataConfig(path=str(file))))
    imported = next(answer for answer in reader.heard() if isinstance(answer, reading.DataImported))
    reader.hang_up()

    assert reader.wait(30) == 0
    assert (imported.report.imported, imported.report.skipped) == (200, 1)
    logs = list((home / "logs").iterdir())
    assert logs
    assert [log for log in logs if SECRET.encode() in log.read_bytes()] == []
    assert SECRET not in report()
