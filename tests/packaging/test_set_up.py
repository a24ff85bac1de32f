"""The first `make` installs, later ones only where a lock changed; what goes wrong is said in words."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script in a project of its own: an empty lock, and no pip that is really called."""
    spec = importlib.util.spec_from_file_location("set_up", ROOT / "packaging" / "set_up.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "set_up", module)  # dataclass looks its own module up
    spec.loader.exec_module(module)
    venv = tmp_path / ".venv"
    for name, place in {"ROOT": tmp_path, "VENV": venv, "PYTHON": venv / "bin" / "python"}.items():
        monkeypatch.setattr(module, name, place)
    monkeypatch.setattr(module, "DONE", venv / "set-up")
    monkeypatch.setattr(module, "LOG", venv / "set-up.log")
    (venv / "set-up").mkdir(parents=True)
    (venv / "bin").mkdir()
    (tmp_path / "a.lock").write_text("a==1\n")
    return module


def test_a_step_that_is_done_is_done_again_only_when_its_lock_changes(set_up, monkeypatch):
    calls = []
    monkeypatch.setattr(set_up, "_pip_install", calls.append)
    step = set_up.Step("a", "a", ("-r", "a.lock"), ("a.lock",))

    set_up._do(step)
    set_up._do(step)
    assert len(calls) == 1

    (set_up.ROOT / "a.lock").write_text("a==2\n")
    set_up._do(step)
    assert len(calls) == 2


def test_a_step_that_failed_is_tried_again(set_up):
    write_pip(set_up, "echo 'ERROR: No space left on device'; exit 1")
    step = set_up.Step("a", "a", ("-r", "a.lock"), ("a.lock",))

    with pytest.raises(SystemExit, match="No space left on device"):
        set_up._do(step)

    assert not (set_up.DONE / "a").exists()


def test_warnings_of_pip_are_no_errors_and_stay_in_the_log(set_up, capsys):
    write_pip(
        set_up,
        "echo 'WARNING: the index is slow' >&2; echo '  Downloading torch-2.13.0-cp311.whl (532.1 MB)'",
    )

    set_up._pip_install(("-r", "a.lock"))

    assert capsys.readouterr().out == "  downloading torch 2.13.0, 532.1 MB\n"
    assert "the index is slow" in set_up.LOG.read_text()


def test_a_virtual_environment_that_was_moved_here_is_made_anew(set_up):
    set_up.PYTHON.symlink_to(sys.executable)
    (set_up.VENV / "bin" / "pip").write_text("#!/somewhere/else/.venv/bin/python\n")

    assert not set_up._is_sound()


def test_without_a_fitting_python_make_says_which_are():
    done = subprocess.run(["make", "run", "PYTHON="], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 2
    assert "Python 3.11, 3.12, 3.13 or 3.14" in done.stderr


def write_pip(set_up: ModuleType, script: str) -> None:
    """Lets `script` stand for the environment's Python, whatever it is called with."""
    set_up.PYTHON.write_text(f"#!/bin/sh\n{script}\n")
    set_up.PYTHON.chmod(0o755)
