"""Encodings: UTF-8 and marked UTF-16 are found, any other is chosen, and no letter is ever replaced."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.config.encodings import ENCODINGS
from qlora_studio.data import text_file
from qlora_studio.data.encodings import _CODECS, OtherEncodingError, likely_encoding
from qlora_studio.errors import StudioError
from tests.data.imported_files import findings, import_bytes, turns

TEXTS = {
    "utf-8": "vier é 数 😀",
    "utf-16-le": "vier é 数 😀",
    "utf-16-be": "vier é 数 😀",
    "windows-1252": "Où est passé l’été ? Le café est fermé, à bientôt. “Déjà vu” – très bien.",
    "latin-1": "Où est passé l'été ? Le café est fermé, à bientôt.",
    "iso-8859-15": "Où est le café à 3 € ?",
    "windows-1250": "Příliš žluťoučký kůň úpěl ďábelské ódy. Zażółć gęślą jaźń, pójdź kińże tę chmurność.",
    "windows-1251": "Съешь же ещё этих мягких французских булок, да выпей чаю. Как дела сегодня?",
    "koi8-r": "Съешь же ещё этих мягких французских булок, да выпей чаю. Как дела сегодня?",
    "windows-1253": "Αυτό είναι ένα ελληνικό κείμενο για δοκιμή κωδικοποίησης.",
    "windows-1254": "Bu Türkçe bir cümledir, şimdi ışık söndü ve ağaç gölgesi düştü.",
    "shift_jis": "これは日本語の文章です。文字コードを調べています。①",
    "euc-jp": "これは日本語の文章です。文字コードを調べています。",
    "gb18030": "这是一个中文句子,用来检查编码是否正确。今天天气很好。",
    "big5": "這是一個中文句子,用來檢查編碼是否正確。今天天氣很好。",
    "euc-kr": "이것은 한국어 문장입니다. 오늘 날씨가 좋습니다.",
}
GUESSED = [name for name in TEXTS if not name.startswith("utf-") and name not in ("latin-1", "iso-8859-15")]


def in_encoding(text: str, name: str) -> bytes:
    return text.encode(_CODECS.get(name, name))


def test_every_encoding_that_can_be_chosen_is_tried_here() -> None:
    assert {"auto", *TEXTS} == set(ENCODINGS)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt", ".jsonl.gz"])
def test_a_file_in_a_chosen_encoding_is_read_to_the_letter(
    tmp_path: Path, name: str, suffix: str
) -> None:  # D4 D5
    text = TEXTS[name]
    row = {".csv": f'question,answer\nq,"{text}"\n', ".txt": text}.get(
        suffix, f'{{"question": "q", "answer": "{text}"}}\n'
    )
    content = in_encoding(row, name)

    data = import_bytes(
        tmp_path / f"rows{suffix}",
        gzip.compress(content) if suffix.endswith(".gz") else content,
        encoding=name,
    )

    (row_,) = list(data)
    assert (row_.text or row_.messages[1].content) == text
    assert data.report.encoding == name
    assert data.row(0, source=True).source in (row.strip(), f'q,"{text}"')


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ["utf-16-le", "shift_jis", "gb18030"])
def test_letters_may_be_cut_by_the_pieces_they_are_read_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, chunk: int
) -> None:
    monkeypatch.setattr(text_file, "_PIECE_BYTES", chunk)

    data = import_bytes(tmp_path / "rows.txt", in_encoding(TEXTS[name], name), encoding=name)

    assert data.row(0).text == TEXTS[name]


@pytest.mark.parametrize("name", GUESSED)
def test_a_file_that_is_not_utf_8_is_refused_with_the_likely_encoding(
    tmp_path: Path, name: str
) -> None:  # D5
    content = b'{"question": "a", "answer": "b"}\n' * 3 + in_encoding(
        f'{{"question": "q", "answer": "{TEXTS[name]}"}}\n' * 3, name
    )

    with pytest.raises(OtherEncodingError, match=r"rows\.jsonl: line 4 is not UTF-8") as error:
        import_bytes(tmp_path / "rows.jsonl", content)

    same_in_1252 = name in ("windows-1254", "latin-1")
    assert error.value.likely in (name, "windows-1252" if same_in_1252 else name)
    assert error.value.likely in error.value.hint


@pytest.mark.parametrize("encoding", ["cp1252", "cp1250", "latin-1"])
def test_what_reads_alike_in_the_most_common_encoding_is_called_that(encoding: str) -> None:
    assert likely_encoding("Wie groß ist Müllers Fuß? Ähnlich.".encode(encoding)) == "windows-1252"


def test_without_anything_to_go_by_the_most_common_encoding_is_named() -> None:
    assert likely_encoding(b"\x81") in ENCODINGS
    assert likely_encoding(b"") == "windows-1252"


@pytest.mark.parametrize("order", ["le", "be"])
def test_utf_16_without_its_mark_is_named_and_read_when_chosen(tmp_path: Path, order: str) -> None:  # D5
    content = '{"question": "q", "answer": "é"}\n'.encode(f"utf-16-{order}")

    with pytest.raises(OtherEncodingError, match="looks like UTF-16 without a byte order mark") as error:
        import_bytes(tmp_path / "rows.jsonl", content)
    data = import_bytes(tmp_path / "rows.jsonl", content, encoding=error.value.likely)

    assert turns(data.row(0)) == [("user", "q"), ("assistant", "é")]


def test_the_wrong_choice_is_refused_with_its_line(tmp_path: Path) -> None:  # D5: never U+FFFD
    content = 'question,answer\na,b\nc,"é\u0081"\n'.encode("latin-1")

    with pytest.raises(StudioError, match=r"rows\.csv: line 3 is not windows-1252") as error:
        import_bytes(tmp_path / "rows.csv", content, encoding="windows-1252")

    assert error.value.hint


def test_a_letter_cut_off_at_the_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="line 1 is not shift_jis"):
        import_bytes(tmp_path / "rows.txt", in_encoding("日本", "shift_jis")[:-1], encoding="shift_jis")


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_a_mark_wins_over_another_choice(tmp_path: Path, mark: str) -> None:
    with pytest.raises(StudioError, match=r"begins with the mark of UTF-.*, so it isn't koi8-r"):
        import_bytes(tmp_path / "rows.txt", "text".encode(mark), encoding="koi8-r")


@pytest.mark.parametrize(("mark", "name"), [("utf-8-sig", "utf-8"), ("utf-16", "utf-16-le")])
def test_a_mark_that_says_the_same_is_left_out(tmp_path: Path, mark: str, name: str) -> None:
    assert import_bytes(tmp_path / "rows.txt", "text".encode(mark), encoding=name).row(0).text == "text"


def test_a_choice_is_told_among_the_findings(tmp_path: Path) -> None:
    data = import_bytes(tmp_path / "rows.txt", "é".encode("latin-1"), encoding="latin-1")

    assert findings(data) == {"encoding": 1}
    assert data.report.findings[0].words == "Read as LATIN-1, as you chose"


def test_another_encoding_reads_anew(tmp_path: Path) -> None:
    content = in_encoding(TEXTS["koi8-r"], "koi8-r")

    first = import_bytes(tmp_path / "rows.txt", content, encoding="windows-1251")

    assert first.row(0).text != import_bytes(tmp_path / "rows.txt", content, encoding="koi8-r").row(0).text


def test_binary_content_is_refused_in_any_encoding(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="is binary, not text"):
        import_bytes(tmp_path / "rows.txt", bytes(range(256)), encoding="latin-1")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(content=st.binary(min_size=1, max_size=60), name=st.sampled_from(ENCODINGS))
def test_any_bytes_in_any_encoding_are_read_whole_or_refused(
    tmp_path: Path, content: bytes, name: str
) -> None:
    file = tmp_path / "rows.txt"
    try:
        data = import_bytes(file, b"text\n" + content, encoding=name)
    except StudioError as error:
        assert str(file) in error.message
        return
    assert "\ufffd" not in "".join(row.text or "" for row in data)


def test_a_choice_for_a_file_that_is_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="is valid UTF-8; it isn't read as latin-1"):
        import_bytes(tmp_path / "rows.txt", "café au lait".encode(), encoding="latin-1")


def test_a_file_of_ascii_letters_is_the_same_in_any(tmp_path: Path) -> None:
    assert import_bytes(tmp_path / "rows.txt", b"text", encoding="koi8-r").row(0).text == "text"
