"""Children are started with libraries that are known to be safe, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest

from qlora_studio.config.machine_check import require_recent
from qlora_studio.errors import StudioError
from qlora_studio.protocol import child


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "Child", None)


def with_version(library: str, version: str) -> Callable[[str], str]:
    real = metadata.version
    return lambda name: version if name == library else real(name)


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("start", "library", "version", "wanted"),
    [
        (child.start_engine, "torch", "2.10.1+cu126", "2.11"),
        (child.start_engine, "transformers", "5.16.9", "5.17"),
        (child.start_reader, "jinja2", "3.1.5", "3.1.6"),
        (child.start_reader, "pyarrow", "25.0", "26"),
    ],
)
def test_a_child_is_not_started_with_a_library_that_is_too_old(  # S14
    monkeypatch: pytest.MonkeyPatch, start: Callable[[], Any], library: str, version: str, wanted: str
) -> None:
    monkeypatch.setattr(metadata, "version", with_version(library, version))

    with pytest.raises(StudioError, match=f"{library} .* is older than {wanted}") as refused:
        start()

    assert f"'{library}>={wanted}'" in refused.value.hint


def test_the_versions_that_the_lock_names_are_recent_enough() -> None:  # S14
    require_recent((*child._ENGINE_LIBRARIES, *child._READER_LIBRARIES))


def test_a_home_that_is_a_file_is_named(tmp_path, monkeypatch):
    file = tmp_path / "rows.csv"
    file.touch()
    monkeypatch.setenv("QLORA_STUDIO_HOME", str(file))
    with pytest.raises(StudioError, match=r"rows\.csv.*Not a directory"):
        child.start_reader()
