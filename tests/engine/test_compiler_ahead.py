"""What a first compiled layer waits for is made ready before, where nothing is asked."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from qlora_studio.config.places import compiled_folder
from qlora_studio.engine import __main__ as engine
from qlora_studio.engine import compiler_ahead, training_job
from qlora_studio.engine.device import Device
from qlora_studio.engine.inbox import Inbox
from qlora_studio.engine.jobs import Jobs
from qlora_studio.errors import StudioError
from qlora_studio.protocol import commands
from tests.engine.tiny import events_of, make_model, make_run

CARD = torch.device("cuda", 0)
COMPILING = """
import time
from qlora_studio.engine.compiler_ahead import start_compiling_processes
from torch._inductor.async_compile import AsyncCompile

start_compiling_processes()
AsyncCompile.wait_pool_ready()
print(AsyncCompile.process_pool().process.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was begun, in order."""
    found: list[object] = []
    for module in (compiler_ahead, training_job):
        monkeypatch.setattr(module, "start_compiling_processes", lambda: found.append("processes"))
        monkeypatch.setattr(module, "compiles_on", lambda device: device == CARD)
    monkeypatch.setattr(compiler_ahead, "compile_something", found.append)
    return found


def told_to_expect_a_run(device: torch.device, inbox: Inbox) -> None:
    list(Jobs(Device(device, "test", 8 << 30), inbox).events_of(commands.ExpectTraining()))


def test_an_engine_that_expects_a_run_makes_the_compiler_ready(begun: list[object]) -> None:
    told_to_expect_a_run(CARD, Inbox())

    assert begun == ["processes", CARD]


def test_one_that_is_asked_meanwhile_answers_first(
    begun: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Inbox()

    def asked_meanwhile() -> None:
        begun.append("processes")
        told.take(commands.LoadModel(id=1, model="shape:any"))

    monkeypatch.setattr(compiler_ahead, "start_compiling_processes", asked_meanwhile)
    told_to_expect_a_run(CARD, told)
    told_to_expect_a_run(CARD, told)

    assert begun == ["processes"]


@pytest.mark.parametrize("capability", [None, (7, 5)], ids=["processor", "card without flash attention"])
def test_where_no_layer_is_compiled_nothing_is_made_ready(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None
) -> None:
    begun: list[object] = []
    monkeypatch.setattr(compiler_ahead, "start_compiling_processes", lambda: begun.append("processes"))
    monkeypatch.setattr(compiler_ahead, "compile_something", begun.append)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)

    told_to_expect_a_run(CARD if capability else torch.device("cpu"), Inbox())

    assert begun == []


@pytest.mark.parametrize(
    ("compiled", "compiles", "starts"),
    [("auto", True, ["processes"]), ("off", True, []), ("auto", False, [])],
    ids=["compiled", "not wanted", "on no such device"],
)
def test_a_run_whose_layers_are_compiled_starts_the_processes_before_its_model_is_loaded(
    begun: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled: str,
    compiles: bool,
    starts: list[object],
) -> None:
    settings = {"training__compile": compiled, "model__compute_dtype": "bfloat16", "data__packing": True}
    run = make_run(tmp_path, make_model(tmp_path / "model"), **settings)

    def loads(*_: object) -> None:
        begun.append("loads")
        raise StudioError("It is enough.")

    monkeypatch.setattr(training_job, "compiles_on", lambda _: compiles)
    monkeypatch.setattr("qlora_studio.engine.model_holder.ModelHolder.hold", loads)

    events_of(run)

    assert begun == [*starts, "loads"]


@pytest.fixture
def nowhere_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libraries keep what is compiled; as it was before once the test is over."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("nowhere_said")
def test_what_is_compiled_lies_in_our_own_cache_unless_it_was_said_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLORA_STUDIO_CACHE", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", "elsewhere")

    engine._keep_what_is_compiled()

    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(compiled_folder()) == str(tmp_path / "compiled")
    assert os.environ["TRITON_CACHE_DIR"] == "elsewhere"


@pytest.mark.usefixtures("nowhere_said")
def test_nobody_else_can_put_code_among_what_is_compiled(  # S1
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLORA_STUDIO_CACHE", str(tmp_path))
    compiled_folder().mkdir()
    compiled_folder().chmod(0o777)

    engine._keep_what_is_compiled()

    assert compiled_folder().stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("nowhere_said")
def test_where_our_cache_can_not_be_made_it_lies_where_libraries_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("QLORA_STUDIO_CACHE", str(tmp_path / "file"))

    engine._keep_what_is_compiled()

    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


@pytest.mark.usefixtures("nowhere_said")
@pytest.mark.parametrize("reason", [errno.EPERM, errno.EROFS], ids=["another person's", "read-only"])
def test_where_it_is_not_ours_to_write_to_it_lies_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def refuses(folder: Path, mode: int) -> None:
        raise OSError(reason, os.strerror(reason), str(folder))

    monkeypatch.setenv("QLORA_STUDIO_CACHE", str(tmp_path))
    compiled_folder().mkdir()
    monkeypatch.setattr(Path, "chmod", refuses)

    engine._keep_what_is_compiled()

    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_a_compiler_that_does_not_start_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor.async_compile import AsyncCompile

    def refuses() -> None:
        raise OSError("no process more")

    monkeypatch.setattr(AsyncCompile, "warm_pool", refuses)

    compiler_ahead.start_compiling_processes.__wrapped__()

    assert "processes didn't start: OSError: no process more" in caplog.text


@pytest.mark.fault(3)  # R7
def test_what_compiles_ends_with_an_engine_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "2")  # one alone compiles in the engine itself
    with subprocess.Popen([sys.executable, "-c", COMPILING], stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        first = psutil.Process(int(engine.stdout.readline()))
        started = [first, *first.children()]
        engine.kill()

    _, alive = psutil.wait_procs(started, 30)
    assert len(started) == 3
    assert alive == []
