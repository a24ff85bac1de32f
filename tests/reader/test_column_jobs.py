"""A file whose columns say nothing: what they are called, and how its records look."""

import pytest

from qlora_studio.config.places import cache_folder
from qlora_studio.errors import StudioError
from qlora_studio.protocol import reading
from qlora_studio.protocol.lines import ANSWERS
from qlora_studio.reader.jobs import Jobs


def columns(file):
    return Jobs(lambda answer: None).answer(reading.ShowColumns(id=1, path=str(file)))


def test_columns_are_named_in_their_order_with_the_first_records(tmp_path):
    file = tmp_path / "german.csv"
    file.write_text("frage,antwort,quelle\nWas?,Das.,a\nWie?,So.,b\nWo?,Da.,c\nWann?,Nie.,d\n")

    shown = columns(file)

    assert shown.columns == ("frage", "antwort", "quelle")
    assert shown.records[0] == '{"frage": "Was?", "antwort": "Das.", "quelle": "a"}'
    assert len(shown.records) == 3


def test_records_are_cut_so_that_they_fit_a_line(tmp_path):
    file = tmp_path / "long.jsonl"
    file.write_text('{"a": "' + "x" * 3_000_000 + '"}\n')

    ANSWERS.encode(columns(file))


def test_a_file_in_utf_16_leaves_no_copy_behind(tmp_path):
    file = tmp_path / "wide.csv"
    file.write_text("frage,antwort\nWas?,Das.\n", "utf-16")

    assert columns(file).columns == ("frage", "antwort")
    assert list(cache_folder().iterdir()) == []


def test_a_file_without_records_is_refused(tmp_path):
    file = tmp_path / "empty.jsonl"
    file.write_text("")

    with pytest.raises(StudioError, match=r"empty\.jsonl"):
        columns(file)
