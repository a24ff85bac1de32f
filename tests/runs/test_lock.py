"""One writer per run folder, by a lock of the system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qlora_studio.errors import StudioError
from qlora_studio.runs.lock import RunLock, RunLockedError, is_locked

_HOLD = """
import sys
from pathlib import Path
from qlora_studio.runs.lock import RunLock, RunLockedError
try:
    lock = RunLock(Path(sys.argv[1]))
except RunLockedError:
    print("refused", flush=True)
else:
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.fault(13)
def test_of_two_that_start_at_once_one_writes(tmp_path: Path) -> None:  # R8
    for _ in range(3):
        both = [_start_holder(tmp_path), _start_holder(tmp_path)]
        assert sorted(_answer(holder) for holder in both) == ["held", "refused"]
        for holder in both:
            holder.communicate()


@pytest.mark.fault(13)
def test_twenty_races_in_one_process_have_one_winner_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # R8
    monkeypatch.setattr("qlora_studio.runs.lock._PATIENCE_S", 0.02)
    for race in range(20):
        (folder := tmp_path / str(race)).mkdir()
        won: list[RunLock] = []
        threads = [threading.Thread(target=_try_lock, args=(folder, won)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        won[0].release()


@pytest.mark.fault(14)
def test_a_killed_writer_holds_nothing(tmp_path: Path) -> None:  # R8
    holder = _start_holder(tmp_path)
    assert _answer(holder) == "held"
    assert is_locked(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert not is_locked(tmp_path)
    RunLock(tmp_path).release()


@pytest.mark.fault(14)
def test_a_lock_file_left_behind_is_no_lock_whatever_it_says(tmp_path: Path) -> None:  # R8
    (tmp_path / "lock").write_text("1")  # as if process 1 held it
    assert not is_locked(tmp_path)
    RunLock(tmp_path).release()


def test_looking_does_not_disturb_a_writer_that_starts(tmp_path: Path) -> None:  # R8
    RunLock(tmp_path).release()
    ended = threading.Event()
    looking = threading.Thread(target=_look_until, args=(ended, tmp_path))
    looking.start()
    for _ in range(50):
        RunLock(tmp_path).release()
    ended.set()
    looking.join()


def test_looking_makes_no_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_told_where_the_run_is_open(tmp_path: Path) -> None:  # R16
    run = tmp_path / "my-run"
    run.mkdir()
    with RunLock(run), pytest.raises(RunLockedError, match="my-run is open elsewhere"):
        RunLock(run)


def test_a_link_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(StudioError, match="can't be opened"):
        RunLock(tmp_path)
    assert not is_locked(tmp_path)


def _start_holder(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def _answer(holder: subprocess.Popen[str]) -> str:
    assert holder.stdout is not None
    return holder.stdout.readline().strip()


def _try_lock(folder: Path, won: list[RunLock]) -> None:
    try:
        won.append(RunLock(folder))
    except RunLockedError:
        return


def _look_until(ended: threading.Event, folder: Path) -> None:
    while not ended.is_set():
        is_locked(folder)
