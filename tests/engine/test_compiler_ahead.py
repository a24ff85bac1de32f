"""What a first compiled layer waits for is made ready before, where nothing is asked."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from qlora_studio.config.places import compiled_folder
from qlora_studio.engine import __main__ as engine
from qlora_studio.engine import compiler_ahead
from qlora_studio.engine.device import Device
from qlora_studio.engine.inbox import Inbox
from qlora_studio.errors import StudioError
from qlora_studio.protocol import commands
from tests.engine.tiny import events_of, make_model, make_run

CARD = torch.device("cuda", 0)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was begun, in order."""
    found: list[object] = []
    for place in (compiler_ahead, "qlora_studio.engine.training_job"):
        name = place if isinstance(place, str) else place.__name__
        monkeypatch.setattr(f"{name}.start_compiling_processes", lambda: found.append("processes"))
    monkeypatch.setattr(compiler_ahead, "compile_something", found.append)
    return found


def test_an_engine_that_is_asked_nothing_makes_the_compiler_ready(begun: list[object]) -> None:
    engine._make_compiler_ready(CARD, Inbox())

    assert begun == ["processes", CARD]


def test_an_engine_that_is_asked_answers_first(begun: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    told = Inbox()

    def asked_meanwhile() -> None:
        begun.append("processes")
        told.take(commands.LoadModel(id=1, model="shape:any"))

    monkeypatch.setattr(compiler_ahead, "start_compiling_processes", asked_meanwhile)
    engine._make_compiler_ready(CARD, told)
    engine._make_compiler_ready(CARD, told)

    assert begun == ["processes"]


@pytest.mark.parametrize(("compiled", "starts"), [("auto", ["processes"]), ("off", [])])
def test_a_run_on_a_card_starts_them_before_its_model_is_loaded(
    begun: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: str, starts: list[object]
) -> None:
    settings = {"training__compile": compiled, "model__compute_dtype": "bfloat16", "data__packing": True}
    run = make_run(tmp_path, make_model(tmp_path / "model"), **settings)

    def loads(*_: object) -> None:
        begun.append("loads")
        raise StudioError("It is enough.")

    monkeypatch.setattr(Device, "is_cuda", property(lambda _: True))
    monkeypatch.setattr("qlora_studio.engine.model_holder.ModelHolder.hold", loads)

    events_of(run)

    assert begun == [*starts, "loads"]


def test_a_run_on_a_processor_starts_none(begun: list[object], tmp_path: Path) -> None:
    events_of(make_run(tmp_path, make_model(tmp_path / "model"), training__steps=1))

    assert begun == []


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

    monkeypatch.setattr(AsyncCompile, "warm_pool", lambda: 1 / 0)

    compiler_ahead.start_compiling_processes.__wrapped__()

    assert "processes didn't start: ZeroDivisionError" in caplog.text
