"""Odd but good models and adapters are taken; those that only seem good are refused by file and reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qlora_studio.errors import StudioError
from qlora_studio.models.adapter import check_adapter
from qlora_studio.models.check import check_model
from qlora_studio.models.finite import look_at_numbers
from qlora_studio.protocol import reading
from tests.faults.odd_adapters import ADAPTERS, Adapter
from tests.faults.odd_models import CONFIGS, WEIGHTS, sound_model
from tests.faults.odd_texts import TEXTS
from tests.faults.reader_process import Reader, a_reader, asked

MOST_SECONDS = 15
GOOD = {name: change for cases in (CONFIGS, WEIGHTS) for name, (change, words) in cases.items() if not words}
BAD = {name: case for cases in (CONFIGS, WEIGHTS) for name, case in cases.items() if case[1]}
GOOD_ADAPTERS = {name: change for name, (change, words) in ADAPTERS.items() if not words}
BAD_ADAPTERS = {name: case for name, case in ADAPTERS.items() if case[1]}
GOOD_TEXTS = {name: change for name, (change, words) in TEXTS.items() if not words}
BAD_TEXTS = {name: case for name, case in TEXTS.items() if case[1]}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """One for all folders."""
    with a_reader(tmp_path_factory.mktemp("home")) as child:
        yield child


def checked(folder: Path) -> str:
    """What wasn't looked at. Raises: StudioError."""
    check_model(str(folder))
    return look_at_numbers(folder, lambda done, total, words: None)


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_model_is_taken(tmp_path: Path, name: str) -> None:
    folder = sound_model(tmp_path / "model")
    GOOD[name](folder)
    assert checked(folder.path) == ""


@pytest.mark.fault(24)
@pytest.mark.parametrize("name", BAD)
def test_a_model_that_only_seems_good_is_refused_by_file_and_reason(  # S2 S3 S4
    tmp_path: Path, name: str
) -> None:
    change, words = BAD[name]
    folder = sound_model(tmp_path / "model")
    change(folder)

    with pytest.raises(StudioError) as refused:
        checked(folder.path)

    assert str(words) in refused.value.message
    assert str(folder.path) in refused.value.message
    assert len(refused.value.message) < 1000


@pytest.mark.parametrize("name", GOOD_ADAPTERS)
def test_an_odd_adapter_is_taken(tmp_path: Path, name: str) -> None:
    base = sound_model(tmp_path / "model")
    adapter = Adapter(tmp_path / "adapter")
    adapter.write()
    GOOD_ADAPTERS[name](adapter)
    assert len(check_adapter(adapter.path, str(base.path)).target_modules) == 2


@pytest.mark.fault(28)
@pytest.mark.parametrize("name", BAD_ADAPTERS)
def test_an_adapter_that_only_seems_good_is_refused_by_file_and_reason(  # S1 S5
    tmp_path: Path, name: str
) -> None:
    change, words = BAD_ADAPTERS[name]
    base = sound_model(tmp_path / "model")
    adapter = Adapter(tmp_path / "adapter")
    adapter.write()
    change(adapter)

    with pytest.raises(StudioError) as refused:
        check_adapter(adapter.path, str(base.path))

    assert str(words) in refused.value.message
    assert str(adapter.path) in refused.value.message
    assert len(refused.value.message) < 1000


@pytest.mark.fault(26)
@pytest.mark.slow_fault
@pytest.mark.parametrize("name", GOOD_TEXTS)
def test_an_odd_template_or_tokenizer_is_taken(reader: Reader, tmp_path: Path, name: str) -> None:
    folder = sound_model(tmp_path / "model")
    GOOD_TEXTS[name](folder)
    answer, _ = asked(reader, reading.CheckModel(id=1, folder=str(folder.path), numbers=True))
    assert isinstance(answer, reading.ModelChecked)


@pytest.mark.fault(27)
@pytest.mark.slow_fault
@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_template_or_tokenizer_that_harms_is_refused_by_file_and_reason(  # S6 S7
    reader: Reader, tmp_path: Path, name: str
) -> None:
    change, words = BAD_TEXTS[name]
    folder = sound_model(tmp_path / "model")
    change(folder)

    answer, seconds = asked(reader, reading.CheckModel(id=1, folder=str(folder.path), numbers=True))

    assert isinstance(answer, reading.Refused)
    assert str(words) in answer.error.message
    assert str(folder.path) in answer.error.message
    assert seconds < MOST_SECONDS
