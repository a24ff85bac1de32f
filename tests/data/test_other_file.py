"""Files beside the data: read like it, each in its own encoding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlora_studio.config.data_parts import Fix
from qlora_studio.config.encodings import Encoding
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.data_set import data_set
from qlora_studio.data.dataset import Dataset, open_dataset
from qlora_studio.data.doctor import Asked, diagnose
from qlora_studio.data.other_file import import_alike, import_test
from qlora_studio.errors import StudioError
from tests.data.imported_files import import_path, turns
from tests.data.test_doctor import silent

FRENCH = ("Où est né l'élève ?", "Près de là.")
RUSSIAN = ("Где родился ученик?", "Недалеко отсюда.")


def pairs(file: Path, encoding: str, *rows: tuple[str, str], columns: tuple[str, str] = ("p", "q")) -> Path:
    lines = [json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in rows]
    file.write_text("".join(lines), encoding)
    return file


def held_out(file: Path, chosen: Encoding = "auto", **data: object) -> Dataset:
    how = DataConfig(map={"prompt": "p", "answer": "q"}, **data)  # type: ignore[arg-type]
    return open_dataset(import_alike(str(file), chosen, how, "data.validation_encoding", silent).dataset)


def test_a_file_in_no_encoding_that_is_known_is_refused_by_its_own_setting(tmp_path: Path) -> None:  # D5
    file = pairs(tmp_path / "held.jsonl", "cp1252", FRENCH)

    with pytest.raises(StudioError, match=r"held\.jsonl: line 1 is not UTF-8") as refused:
        held_out(file)

    assert "windows-1252: data.validation_encoding" in refused.value.hint


@pytest.mark.parametrize(
    ("stored", "chosen", "of_the_data"),
    [
        ("cp1252", "windows-1252", "auto"),
        ("cp1251", "windows-1251", "windows-1252"),
        ("utf-8", "auto", "windows-1252"),
        ("utf-16", "auto", "windows-1252"),
        ("cp1251", "auto", "windows-1251"),
    ],
)
def test_its_encoding_is_what_was_chosen_what_it_shows_or_that_of_the_data(
    tmp_path: Path, stored: str, chosen: Encoding, of_the_data: Encoding
) -> None:  # D5
    row = RUSSIAN if stored == "cp1251" else FRENCH
    file = pairs(tmp_path / "held.jsonl", stored, row)

    rows = held_out(file, chosen, encoding=of_the_data)

    assert turns(rows.row(0)) == [("user", row[0]), ("assistant", row[1])]


def test_a_test_file_is_read_by_the_columns_of_the_data_or_by_its_own(tmp_path: Path) -> None:
    data = DataConfig(map={"prompt": "q", "answer": "p"}, format="prompt_completion")
    alike = pairs(tmp_path / "alike.jsonl", "utf-8", FRENCH)
    other = pairs(tmp_path / "other.jsonl", "utf-8", FRENCH, columns=("question", "answer"))

    rows = [open_dataset(import_test(str(file), "auto", data, silent).dataset) for file in (alike, other)]

    assert [turns(one.row(0))[0][1] for one in rows] == [FRENCH[1], FRENCH[0]]


@pytest.mark.parametrize("encoding", ["auto", "windows-1251"])
def test_the_doctor_and_the_recipe_read_a_test_file_in_its_encoding(
    tmp_path: Path, encoding: Encoding
) -> None:
    of_the_data: Encoding = "windows-1251" if encoding == "auto" else "auto"
    stored = "cp1251" if encoding == "auto" else "utf-8"
    file = pairs(tmp_path / "rows.jsonl", stored, RUSSIAN, ("Да?", "Нет."))
    test = pairs(tmp_path / "test.jsonl", "cp1251", RUSSIAN)
    data = DataConfig(path=str(file), encoding=of_the_data, map={"prompt": "p", "answer": "q"})
    rows = open_dataset(data_set(data, silent).dataset)

    asked = Asked(data=data, test=str(test), test_encoding=encoding)
    finding = next(found for found in diagnose(rows, asked, silent) if found.kind == "test_rows")
    assert finding.fix == Fix(kind="test_rows", path=str(test), encoding=encoding)
    mended = DataConfig(path=str(file), encoding=of_the_data, map=data.map, recipe=(finding.fix,))

    assert finding.rows == (0,)
    assert [row.line for row in open_dataset(data_set(mended, silent).dataset)] == [2]


def test_a_held_out_file_is_looked_for_in_its_own_encoding(tmp_path: Path) -> None:
    rows = import_path(pairs(tmp_path / "rows.jsonl", "utf-8", FRENCH, columns=("prompt", "completion")))
    test = pairs(tmp_path / "held.jsonl", "cp1252", FRENCH, columns=("prompt", "completion"))
    data = DataConfig(validation=str(test), validation_encoding="windows-1252")

    kinds = [finding.kind for finding in diagnose(rows, Asked(data=data), silent)]

    assert "validation_rows" in kinds


def test_the_doctor_names_the_setting_of_the_file_it_can_not_read(tmp_path: Path) -> None:  # D5
    rows = import_path(pairs(tmp_path / "rows.jsonl", "utf-8", FRENCH, columns=("prompt", "completion")))
    other = str(pairs(tmp_path / "other.jsonl", "cp1252", FRENCH, columns=("prompt", "completion")))

    with pytest.raises(StudioError) as held:
        diagnose(rows, Asked(data=DataConfig(validation=other)), silent)
    with pytest.raises(StudioError) as tested:
        diagnose(rows, Asked(data=DataConfig(), test=other), silent)

    assert held.value.hint.endswith("(data.validation_encoding).")
    assert "--test-encoding" in tested.value.hint
