"""Compressed files: what is in them is read as if it lay there unpacked, within limits."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.data import importing, limits, unpacking
from qlora_studio.data.source_file import Feed, SourceFile
from qlora_studio.data.unpacking import compression_of, unpacked
from qlora_studio.errors import StudioError
from tests.data.imported_files import findings, import_bytes, import_path, reasons, turns


def zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return packed


PACKERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": (".gz", gzip.compress),
    "bzip2": (".bz2", bz2.compress),
    "xz": (".xz", lzma.compress),
    "zstd": (".zst", zstd),
}
KINDS = pytest.mark.parametrize("kind", PACKERS)
ROWS = b"".join(b'{"question": "%d?", "answer": "\xc3\xa9 %d"}\n' % (row, row * row) for row in range(5_000))


@KINDS
def test_a_compressed_file_gives_the_rows_it_gives_unpacked(tmp_path: Path, kind: str) -> None:
    suffix, pack = PACKERS[kind]
    plain = import_bytes(tmp_path / "rows.jsonl", ROWS)

    data = import_bytes(tmp_path / f"rows.jsonl{suffix}", pack(ROWS))

    assert list(data) == list(plain)
    assert data.row(4_999, source=True) == plain.row(4_999, source=True)
    assert data.report.findings == ()
    assert data.report.encoding == "utf-8"
    assert data.report.sha256 != plain.report.sha256


@KINDS
def test_several_members_are_one_text(tmp_path: Path, kind: str) -> None:
    suffix, pack = PACKERS[kind]
    half = ROWS.index(b"\n", len(ROWS) // 2) - 7

    data = import_bytes(tmp_path / f"rows.jsonl{suffix}", pack(ROWS[:half]) + pack(b"") + pack(ROWS[half:]))

    assert len(data) == 5_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json.gz", b'[{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]'),
        ("a.csv.gz", b"question,answer\na,b\nc,d\n"),
        ("a.tsv.gz", b"question\tanswer\na\tb\nc\td\n"),
        ("a.txt.gz", b"one\ntwo\n"),
        ("a.md.gz", b"x" * 8_000 + b"\n\n" + b"y" * 8_000),
        ("a.gz", b"\xef\xbb\xbfquestion,answer\na,b\nc,d\n"),
        ("a", '{"question": "a", "answer": "b"}\n{"question": "c", "answer": "d"}'.encode("utf-16")),
    ],
)
def test_every_kind_of_text_may_be_compressed(tmp_path: Path, name: str, content: bytes) -> None:
    plain = import_bytes(tmp_path / name.removesuffix(".gz"), content)

    data = import_bytes(tmp_path / name, gzip.compress(content))

    assert list(data) == list(plain)
    assert len(data) == 2
    assert findings(data) == findings(plain)


def test_the_content_is_told_where_the_name_says_something_else(tmp_path: Path) -> None:  # D7
    line = b'{"question": "a", "answer": "b"}\n'

    packed = import_bytes(tmp_path / "rows.jsonl", gzip.compress(line))
    plain = import_bytes(tmp_path / "rows.jsonl.gz", line)
    other = import_bytes(tmp_path / "rows.csv.gz", gzip.compress(line))

    assert [data.report.findings[0].words for data in (packed, plain, other)] == [
        "The name ends in .jsonl, the content is JSON lines, compressed with gzip.",
        "The name ends in .jsonl.gz, the content is JSON lines, not compressed.",
        "The name ends in .csv.gz, the content is JSON lines, compressed with gzip.",
    ]


@KINDS
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_refused_with_the_place(
    tmp_path: Path, kind: str, kept: float
) -> None:  # D3
    suffix, pack = PACKERS[kind]
    packed = pack(os.urandom(200_000).hex().encode() + b"\n" + ROWS)

    with pytest.raises(
        StudioError, match=rf"is cut off: its {kind} stream ends in the middle, in line [\d,]+ of"
    ):
        import_bytes(tmp_path / f"rows.txt{suffix}", packed[: int(len(packed) * kept)])


@KINDS
def test_a_damaged_file_is_refused_with_the_place(tmp_path: Path, kind: str) -> None:  # D3
    suffix, pack = PACKERS[kind]
    packed = bytearray(pack(ROWS))
    packed[len(packed) // 2 : len(packed) // 2 + 40] = b"\xff" * 40

    with pytest.raises(
        StudioError, match=rf"rows\.jsonl{suffix} is damaged: its {kind} stream breaks in line"
    ):
        import_bytes(tmp_path / f"rows.jsonl{suffix}", bytes(packed))


def test_a_wrong_checksum_is_damage(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(ROWS))
    packed[-8] ^= 1

    with pytest.raises(StudioError, match="is damaged"):
        import_bytes(tmp_path / "rows.jsonl.gz", bytes(packed))


@KINDS
def test_something_behind_the_end_is_damage(tmp_path: Path, kind: str) -> None:  # D3
    suffix, pack = PACKERS[kind]

    with pytest.raises(StudioError, match="is damaged"):
        import_bytes(tmp_path / f"rows.jsonl{suffix}", pack(ROWS) + b"more")


def test_zeros_that_fill_up_a_block_are_no_damage(tmp_path: Path) -> None:
    assert len(import_bytes(tmp_path / "rows.jsonl.gz", gzip.compress(ROWS) + bytes(100_000))) == 5_000


def test_a_frame_to_be_skipped_may_come_first(tmp_path: Path) -> None:
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00pack"

    assert len(import_bytes(tmp_path / "rows.jsonl.zst", skipped + zstd(ROWS))) == 5_000


@KINDS
def test_a_bomb_is_stopped_early(tmp_path: Path, home: Path, kind: str) -> None:  # D6
    suffix, pack = PACKERS[kind]
    bomb = pack(b'{"question": "a", "answer": "b"}\n' * 30_000) * 15

    with pytest.raises(StudioError, match="unpacks to more than 200 times its size"):
        import_bytes(tmp_path / f"rows.jsonl{suffix}", bomb)

    assert list((home / "cache" / "datasets").iterdir()) == []


@KINDS
def test_no_piece_of_a_bomb_is_larger_than_a_megabyte(tmp_path: Path, kind: str) -> None:  # D1 D6
    (tmp_path / "bomb").write_bytes(PACKERS[kind][1](bytes(15_000_000)))
    sizes: list[int] = []

    with SourceFile(tmp_path / "bomb") as source, pytest.raises(StudioError, match="200 times"):
        sizes.extend(len(piece) for piece in unpacked(Feed(source), kind))

    with SourceFile(tmp_path / "bomb") as source:
        pieces = unpacked(Feed(source), kind)
        assert max(len(next(pieces)) for _ in range(10)) <= 1 << 20


def test_a_small_file_of_equal_rows_is_no_bomb(tmp_path: Path) -> None:
    rows = b'{"question": "a", "answer": "b"}\n' * 50_000

    data = import_bytes(tmp_path / "rows.jsonl.gz", gzip.compress(rows))

    assert (len(data), data.report.merged) == (1, 49_999)


def test_more_text_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # D6
    monkeypatch.setattr(unpacking, "MAX_TEXT_BYTES", 100_000)

    with pytest.raises(StudioError, match=r"rows\.jsonl\.gz unpacks to more than 0 GB of text"):
        import_bytes(tmp_path / "rows.jsonl.gz", gzip.compress(ROWS))


def test_the_limit_holds_for_all_files_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # D6
    monkeypatch.setattr(importing, "MAX_TEXT_BYTES", 300_000)
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(ROWS))

    with pytest.raises(StudioError, match="These files unpack to more than"):
        import_path(tmp_path)


def test_a_dictionary_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:  # D1
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    header = lzma.compress(ROWS, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])
    block = bytearray(header)
    block[12 + 2 + 2] = 36  # the code of 1 GiB, in the block's header
    size = (block[12] + 1) * 4
    block[12 + size - 4 : 12 + size] = zlib.crc32(block[12 : 12 + size - 4]).to_bytes(4, "little")

    assert filters[0]["dict_size"] > unpacking._XZ_MEMORY_BYTES
    with pytest.raises(StudioError, match="needs more memory to be unpacked than the 256 MB"):
        import_bytes(tmp_path / "rows.jsonl.xz", bytes(block))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(ROWS), "is compressed twice: gzip, inside of gzip"),
        (b"", "is empty"),
        (bytes(10_000), "is binary, not text"),
        (b"PK\x03\x04" + b"x" * 100, "is a ZIP archive; archives are not unpacked, inside of gzip"),
    ],
)
def test_what_is_no_text_inside_is_named(tmp_path: Path, content: bytes, words: str) -> None:  # S9
    with pytest.raises(StudioError) as error:
        import_bytes(tmp_path / "rows.jsonl.gz", gzip.compress(content))

    assert words in error.value.message


def test_an_archive_inside_is_not_unpacked(tmp_path: Path) -> None:  # S9
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("rows.jsonl"), io.BytesIO())

    with pytest.raises(StudioError, match="is a tar archive; archives are not unpacked"):
        import_bytes(tmp_path / "rows.jsonl.gz", tar.getvalue())


def test_parquet_inside_is_refused_with_what_to_do(tmp_path: Path) -> None:
    written = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"]}), written)

    with pytest.raises(StudioError, match="is Parquet, inside of gzip") as error:
        import_bytes(tmp_path / "rows.parquet.gz", gzip.compress(written.getvalue()))

    assert error.value.hint == "Unpack it first: it is compressed by itself."


def test_lines_and_reasons_are_those_of_the_text(tmp_path: Path) -> None:  # D3
    data = import_bytes(tmp_path / "rows.jsonl.gz", gzip.compress(ROWS + b"{broken\n"))

    assert reasons(data) == {"not valid JSON": [5_001]}


def test_the_equation_holds_far_behind_what_is_kept_of_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "_OUT_BYTES", 1_000)
    plain = import_bytes(tmp_path / "rows.jsonl", ROWS)
    monkeypatch.setattr(importing, "COPIED_BYTES", 2_000)

    data = import_bytes(tmp_path / "rows.jsonl.gz", gzip.compress(ROWS))

    assert list(data) == list(plain)
    assert data.row(0, source=True).source == plain.row(0, source=True).source
    assert data.row(4_999, source=True).source is None
    assert turns(data.row(4_999)) == turns(plain.row(4_999))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=300) | st.just(ROWS[:5_000]),
    kind=st.sampled_from([*PACKERS]),
    at=st.integers(0, 1 << 16),
    change=st.sampled_from(["none", "flip", "cut", "double"]),
)
def test_any_stream_gives_all_of_its_text_or_is_refused(
    tmp_path: Path, content: bytes, kind: str, at: int, change: str
) -> None:  # D3
    packed = PACKERS[kind][1](content)
    at %= len(packed)
    changed = {
        "none": packed,
        "flip": packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :],
        "cut": packed[:at],
        "double": packed + packed,
    }[change]
    (tmp_path / "stream").write_bytes(changed)
    try:
        with SourceFile(tmp_path / "stream") as source:
            text = b"".join(unpacked(Feed(source), kind))
    except StudioError as error:
        assert change in ("flip", "cut")
        assert str(tmp_path / "stream") in error.message
        return
    unnoticed = change == "flip" and kind == "zstd"  # its checksum is optional, and isn't written here
    assert unnoticed or text in (content, content + content) or not changed


def test_each_kind_is_known_by_its_first_bytes() -> None:
    assert [compression_of(pack(b"a")[:6]) for _, pack in PACKERS.values()] == list(PACKERS)
    assert compression_of(b"") == compression_of(b"BZ") == compression_of(b'{"a"') == ""


def test_the_limits_are_those_of_one_place() -> None:  # D6
    assert (limits.MAX_EXPANSION, limits.MAX_TEXT_BYTES) == (200, 20_000_000_000)
