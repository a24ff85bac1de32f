"""Arrow files: as `datasets` saves them, and with an index at their end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_studio.data import column_records
from qlora_studio.errors import StudioError
from tests.data.imported_files import findings, import_bytes, import_path, reasons, turns

WRITERS = {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}
BOTH = pytest.mark.parametrize("kind", WRITERS)
CHAT = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]


def arrow(columns: dict[str, Any], kind: str = "stream", rows: int = 1_000, **options: Any) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with WRITERS[kind](sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, rows)
    written: bytes = sink.getvalue().to_pybytes()
    return written


@BOTH
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_both_kinds_are_read(tmp_path: Path, kind: str, compression: str | None) -> None:
    columns = {"question": [f"{row}?" for row in range(300)], "answer": [f"é {row}" for row in range(300)]}

    data = import_bytes(tmp_path / "rows.arrow", arrow(columns, kind, rows=70, compression=compression))

    assert [turns(row) for row in data] == [
        [("user", f"{row}?"), ("assistant", f"é {row}")] for row in range(300)
    ]
    assert (data.report.encoding, findings(data)) == ("binary", {})
    assert (data.row(299).line, data.row(299, source=True).source) == (300, None)


@BOTH
def test_lists_of_structs_are_chats(tmp_path: Path, kind: str) -> None:
    data = import_bytes(tmp_path / "rows.arrow", arrow({"messages": [CHAT, None]}, kind))

    assert turns(data.row(0)) == [("user", "2 + 2?"), ("assistant", "4")]
    assert reasons(data) == {"the turns are null, not a list": [2]}


def test_what_is_no_text_number_list_or_struct_is_left_alone(tmp_path: Path) -> None:  # D10
    columns = {
        "question": pa.array(["a", "b"]).dictionary_encode(),
        "answer": ["c", "d"],
        "image": [{"bytes": b"\x89PNG", "path": "/etc/passwd"}] * 2,
        "known": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)] * 2, pa.binary(16))),
    }

    data = import_bytes(tmp_path / "rows.arrow", arrow(columns))

    assert data.report.columns == ("question", "answer")
    assert turns(data.row(1)) == [("user", "b"), ("assistant", "d")]


def test_content_wins_over_the_name(tmp_path: Path) -> None:  # D7
    assert findings(import_bytes(tmp_path / "rows.csv", arrow({"text": ["a"]}))) == {"name": 1}


def test_a_name_alone_makes_no_arrow_file(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match=r"rows\.arrow is not Arrow, though its name says so"):
        import_bytes(tmp_path / "rows.arrow", b'text: "a"\n')


@BOTH
@pytest.mark.parametrize("kept", [9, 300, -8, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, kind: str, kept: int) -> None:  # D3
    whole = arrow({"text": [f"text {row}" for row in range(3_000)]}, kind, rows=100)

    with pytest.raises(StudioError, match=r"rows\.arrow (begins as Arrow but is cut off|is broken Arrow)"):
        import_bytes(tmp_path / "rows.arrow", whole[:kept])


def test_places_of_texts_that_lie_outside_are_refused(tmp_path: Path) -> None:  # D1
    whole = bytearray(arrow({"text": ["aaaa", "bbbb"]}))
    places = (0).to_bytes(4, "little") + (4).to_bytes(4, "little") + (8).to_bytes(4, "little")
    at = whole.index(places)
    whole[at + 8 : at + 12] = (1 << 30).to_bytes(4, "little")

    with pytest.raises(StudioError, match="is broken Arrow"):
        import_bytes(tmp_path / "rows.arrow", bytes(whole))


def test_texts_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:  # D5
    whole = arrow({"text": ["aaaa", "bbbb"]}).replace(b"aaaabbbb", b"aa\xffabbbb")

    with pytest.raises(StudioError, match="is broken Arrow"):
        import_bytes(tmp_path / "rows.arrow", whole)


def test_a_small_file_that_holds_very_much_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # D6
    monkeypatch.setattr(column_records, "_SMALL_BYTES", 1_000)
    columns = {"text": ["x" * 50_000] * 400, "id": list(range(400))}

    with pytest.raises(StudioError, match="more than 200 times its size"):
        import_bytes(tmp_path / "rows.arrow", arrow(columns, compression="zstd"))


def test_what_datasets_saves_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"messages": [CHAT] * 2, "id": [1, 2]}).save_to_disk(str(tmp_path / "saved"))

    data = import_path(next((tmp_path / "saved").glob("*.arrow")))

    assert (turns(data.row(0)), data.report.merged) == ([("user", "2 + 2?"), ("assistant", "4")], 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(at=st.integers(0, 1 << 14), byte=st.integers(0, 255), kind=st.sampled_from([*WRITERS]))
def test_any_changed_byte_is_read_or_refused(tmp_path: Path, at: int, byte: int, kind: str) -> None:  # D1
    whole = bytearray(
        arrow(
            {"messages": [CHAT] * 3, "n": [1, 2, None], "d": pa.array(["x", "y", "x"]).dictionary_encode()},
            kind,
        )
    )
    whole[at % len(whole)] = byte
    file = tmp_path / "rows.arrow"
    try:
        data = import_bytes(file, bytes(whole))
    except StudioError as error:
        assert str(file) in error.message
        return
    assert data.report.rows_in == data.report.imported + data.report.skipped + data.report.merged


def test_rows_behind_an_end_are_not_lost_quietly(tmp_path: Path) -> None:  # D3
    whole = arrow({"text": ["a"]}) + arrow({"text": ["b"]})

    with pytest.raises(StudioError, match="is broken Arrow: something follows the end of its stream"):
        import_bytes(tmp_path / "rows.arrow", whole)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["x" * 1_000]).dictionary_encode(),
        pa.array(["x" * 1_000], pa.string_view()),
        pa.array([[{"text": "x" * 1_000}]]),
        pa.array([["x" * 1_000]], pa.list_(pa.string(), 1)),
    ],
    ids=["dictionary", "view", "struct in list", "fixed list"],
)
def test_a_text_counts_as_often_as_it_is_named(column: Any) -> None:  # D6
    rows = pa.concat_arrays([column] * 50)

    assert 50_000 <= column_records._expanded_bytes(rows) < 52_000
    assert 10_000 <= column_records._expanded_bytes(rows.slice(20, 10)) < 11_000
