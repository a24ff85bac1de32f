"""Data files that are odd but good, and some that only seem to be good.

Each by its file name: its bytes, and what must come of it: how many rows are imported and skipped, or words
of the refusal.
"""

from __future__ import annotations

import bz2
import decimal
import gzip
import io
import json
import lzma
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Made = Callable[[], bytes]
Counts = tuple[int, int]  # imported, skipped

ROW = {"question": "What is a quartz?", "answer": "A mineral."}
OTHER = {"question": "What is a vixen?", "answer": "A fox."}
_LINE = json.dumps(ROW).encode()
_OTHER = json.dumps(OTHER).encode()
_CSV = b"question,answer\nWhat is a quartz?,A mineral.\nWhat is a vixen?,A fox.\n"
_CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}

_OTHER_CHAT = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]
_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_MESSAGE_OF_BYTES = pa.struct([("role", pa.binary()), ("content", pa.binary())])


def lines(*items: bytes | dict[str, Any], end: bytes = b"\n") -> bytes:
    """Objects or bytes, one a line."""
    return b"".join((item if isinstance(item, bytes) else json.dumps(item).encode()) + end for item in items)


def parquet(columns: Mapping[str, Any], **options: Any) -> bytes:
    """A table in one Parquet file."""
    sink = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), sink, **options)
    return sink.getvalue()


def arrow(columns: Mapping[str, Any], stream: bool = True) -> bytes:
    """A table as an Arrow stream or file."""
    table, sink = pa.table(dict(columns)), pa.BufferOutputStream()
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _texts(kind: pa.DataType | None = None) -> dict[str, pa.Array]:
    return {key: pa.array([ROW[key], OTHER[key]], kind or pa.string()) for key in ROW}


def _coded() -> dict[str, pa.Array]:
    return {key: array.dictionary_encode() for key, array in _texts().items()}


ODD: Mapping[str, tuple[Made, Counts | str]] = {
    # JSON lines
    "plain.jsonl": (lambda: lines(ROW, OTHER), (2, 0)),
    "no_last_end.jsonl": (lambda: _LINE + b"\n" + _OTHER, (2, 0)),
    "mark.jsonl": (lambda: b"\xef\xbb\xbf" + lines(ROW, OTHER), (2, 0)),
    "crlf.jsonl": (lambda: lines(ROW, OTHER, end=b"\r\n"), (2, 0)),
    "cr.jsonl": (lambda: lines(ROW, OTHER, end=b"\r"), (2, 0)),
    "mixed_ends.jsonl": (lambda: _LINE + b"\r\n" + _OTHER + b"\r", (2, 0)),
    "blank_lines.jsonl": (lambda: b"\n\n" + _LINE + b"\n \t\n\n" + _OTHER + b"\n\n", (2, 0)),
    "spaces_around.jsonl": (lambda: b"  " + _LINE + b"  \n\t" + _OTHER + b"\t\n", (2, 0)),
    "utf_16_le.jsonl": (lambda: b"\xff\xfe" + lines(ROW, OTHER).decode().encode("utf-16-le"), (2, 0)),
    "utf_16_be.jsonl": (lambda: b"\xfe\xff" + lines(ROW, OTHER).decode().encode("utf-16-be"), (2, 0)),
    "line_separators.jsonl": (
        lambda: lines(
            json.dumps({**ROW, "answer": "a\u2028b\u2029c\x85d"}, ensure_ascii=False).encode(), OTHER
        ),
        (2, 0),
    ),
    "escaped_nul.jsonl": (lambda: lines({**ROW, "answer": "a\0b"}, OTHER), (2, 0)),
    "emoji_pair.jsonl": (lambda: lines(b'{"question": "\\ud83d\\ude00?", "answer": "yes"}', OTHER), (2, 0)),
    "other_keys.jsonl": (
        lambda: lines({**ROW, "id": 10**30, "score": 1e308, "tags": [{}, None]}, OTHER),
        (2, 0),
    ),
    "keys_in_other_order.jsonl": (lambda: lines(ROW, dict(reversed(OTHER.items()))), (2, 0)),
    "numbers_as_answers.jsonl": (lambda: lines(ROW, {**OTHER, "answer": 17}), (2, 0)),
    "one_row.jsonl": (lambda: _LINE, (1, 0)),
    "long_answer.jsonl": (lambda: lines({**ROW, "answer": "x y " * 900_000}, OTHER), (2, 0)),
    "deep_beside.jsonl": (
        lambda: lines(_LINE[:-1] + b', "x": ' + b"[" * 60 + b"]" * 60 + b"}", OTHER),
        (2, 0),
    ),
    "named_json.json": (lambda: lines(ROW, OTHER), (2, 0)),
    "named_txt.txt": (lambda: lines(ROW, OTHER), (2, 0)),
    "no_name_ending": (lambda: lines(ROW, OTHER), (2, 0)),
    "two_endings.jsonl.json": (lambda: lines(ROW, OTHER), (2, 0)),
    "one_bad_line.jsonl": (lambda: lines(ROW, b"{", OTHER), (2, 1)),
    "cut.jsonl": (lambda: lines(ROW, OTHER) + _LINE[:20], (2, 1)),
    "key_twice.jsonl": (
        lambda: lines(ROW, b'{"question": "a", "question": "b", "answer": "c"}', OTHER),
        (2, 1),
    ),
    "nan.jsonl": (lambda: lines(ROW, b'{"question": "a", "answer": NaN}', OTHER), (2, 1)),
    "half_pair.jsonl": (lambda: lines(ROW, b'{"question": "\\ud800", "answer": "b"}', OTHER), (2, 1)),
    "raw_nul.jsonl": (lambda: lines(ROW, b'{"question": "a\0", "answer": "b"}', OTHER), "is binary"),
    "comment.jsonl": (lambda: lines(ROW, b"// a comment", OTHER), (2, 1)),
    "trailing_comma.jsonl": (lambda: lines(ROW, _LINE[:-1] + b",}", OTHER), (2, 1)),
    "single_quotes.jsonl": (lambda: lines(ROW, b"{'question': 'a', 'answer': 'b'}", OTHER), (2, 1)),
    "a_list.jsonl": (lambda: lines(ROW, b"[1, 2]", OTHER), (2, 1)),
    "a_number.jsonl": (lambda: lines(ROW, b"17", OTHER), (2, 1)),
    "null_answer.jsonl": (lambda: lines(ROW, {**ROW, "answer": None}, OTHER), (2, 1)),
    "empty_answer.jsonl": (lambda: lines(ROW, {**ROW, "answer": "  "}, OTHER), (2, 1)),
    "object_answer.jsonl": (lambda: lines(ROW, {"question": "q", "answer": {"a": 1}}, OTHER), (2, 1)),
    "empty_object.jsonl": (lambda: lines(ROW, {}, OTHER), (2, 1)),
    "digits_5000.jsonl": (lambda: lines(_LINE[:-1] + b', "n": ' + b"9" * 5000 + b"}", OTHER), (2, 0)),
    "not_utf_8.jsonl": (lambda: lines(ROW, b'{"question": "\xe9t\xe9", "answer": "b"}', OTHER), "line 2"),
    "utf_32.jsonl": (lambda: lines(ROW).decode().encode("utf-32"), "UTF-32"),
    "all_bad.jsonl": (lambda: b"{\n" * 50, "all_bad.jsonl"),
    "all_empty.jsonl": (lambda: lines(*[{**ROW, "answer": ""}] * 5), "all_empty.jsonl"),
    "nothing.jsonl": (lambda: b"", "is empty"),
    "only_a_mark.jsonl": (lambda: b"\xef\xbb\xbf", "is empty"),
    # JSON
    "list.json": (lambda: json.dumps([ROW, OTHER]).encode(), (2, 0)),
    "list_indented.json": (lambda: json.dumps([ROW, OTHER], indent=2).encode(), (2, 0)),
    "list_crlf_mark.json": (
        lambda: b"\xef\xbb\xbf" + json.dumps([ROW, OTHER], indent=1).replace("\n", "\r\n").encode(),
        (2, 0),
    ),
    "wrapped.json": (lambda: json.dumps({"version": 1, "data": [ROW, OTHER]}).encode(), (2, 0)),
    "objects_after_each_other.json": (lambda: _LINE + _OTHER, (2, 0)),
    "indented_objects.json": (
        lambda: json.dumps(ROW, indent=2).encode() + b"\n" + json.dumps(OTHER, indent=2).encode(),
        (2, 0),
    ),
    "list_of_one.json": (lambda: json.dumps([ROW]).encode(), (1, 0)),
    "list_of_null.json": (lambda: json.dumps([ROW, None, 7, "x", [], OTHER]).encode(), (2, 4)),
    "chat.json": (lambda: json.dumps([_CHAT, _CHAT | {"id": 2}]).encode(), (1, 0)),
    "lists_by_line.jsonl": (
        lambda: lines(json.dumps(_CHAT["messages"]).encode(), json.dumps(_OTHER_CHAT).encode()),
        (2, 0),
    ),
    "list_of_lists.json": (lambda: json.dumps([_CHAT["messages"], _OTHER_CHAT]).encode(), (2, 0)),
    "pandas_table.json": (
        lambda: json.dumps(
            {"schema": {"fields": [{"name": "question"}], "primaryKey": ["index"]}, "data": [ROW, OTHER]}
        ).encode(),
        (2, 0),
    ),
    "more_behind.json": (
        lambda: json.dumps({"data": [ROW, OTHER], "info": {"by": ["me"]}, "tags": [1]}).encode(),
        (2, 0),
    ),
    "lmflow.json": (
        lambda: json.dumps({"type": "text2text", "instances": [{"input": "a", "output": "b"}]}).encode(),
        (1, 0),
    ),
    "csv_by_no_name.json": (lambda: _CSV, (2, 0)),
    "json_by_no_name.parquet": (lambda: lines(ROW, OTHER), (2, 0)),
    "json_by_no_name.arrow": (lambda: json.dumps([ROW, OTHER]).encode(), (2, 0)),
    "two_lists.json": (
        lambda: json.dumps({"train": [ROW], "validation": [OTHER]}).encode(),
        "'validation' is the second",
    ),
    "by_columns.json": (
        lambda: json.dumps({key: [ROW[key], OTHER[key]] for key in ROW}).encode(),
        "by column",
    ),
    "pandas_columns.json": (
        lambda: json.dumps({key: {"0": ROW[key], "1": OTHER[key]} for key in ROW}).encode(),
        "column by column",
    ),
    "list_cut.json": (lambda: json.dumps([ROW, OTHER]).encode()[:-30], "ends in the middle"),
    "list_empty.json": (lambda: b"[]", "list_empty.json"),
    "object_empty.json": (lambda: b"{}", "object_empty.json"),
    "null.json": (lambda: b"null", "no rows"),
    "html.json": (lambda: b"<!DOCTYPE html><html></html>", "is not JSON"),
    # CSV
    "plain.csv": (lambda: _CSV, (2, 0)),
    "mark.csv": (lambda: b"\xef\xbb\xbf" + _CSV, (2, 0)),
    "crlf.csv": (lambda: _CSV.replace(b"\n", b"\r\n"), (2, 0)),
    "utf_16.csv": (lambda: _CSV.decode().encode("utf-16"), (2, 0)),
    "semicolons.csv": (lambda: _CSV.replace(b",", b";"), (2, 0)),
    "tabs.tsv": (lambda: _CSV.replace(b",", b"\t"), (2, 0)),
    "tabs.csv": (lambda: _CSV.replace(b",", b"\t"), (2, 0)),
    "lines_inside.csv": (lambda: b'question,answer\n"a\nb?","c\r\nd"\nq,"say ""yes"""\n', (2, 0)),
    "all_quoted.csv": (lambda: b'"question","answer"\n"a","b"\n"c","d"\n', (2, 0)),
    "names_upper.csv": (lambda: _CSV.replace(b"question,answer", b"Question,ANSWER"), (2, 0)),
    "names_spaced.csv": (lambda: _CSV.replace(b"question,answer", b" question , answer "), (2, 0)),
    "names_of_many.csv": (lambda: _CSV.replace(b"question,answer", b"Questions,Answers"), (2, 0)),
    "blank_lines.csv": (lambda: _CSV.replace(b"\nWhat", b"\n\nWhat"), (2, 0)),
    "typed_texts.csv": (lambda: b"question,answer\n00123,NA\n1e5,null\n", (2, 0)),
    "pandas_index.csv": (lambda: b",question,answer\n0,a,b\n1,c,d\n", (2, 0)),
    "too_many_cells.csv": (lambda: _CSV + b"a,b,c\n", (2, 1)),
    "too_few_cells.csv": (lambda: _CSV + b"a\n", (2, 1)),
    "sep_told.csv": (lambda: b"sep=;\r\n" + _CSV.replace(b",", b";"), (2, 0)),
    "sep_told_quoted.csv": (lambda: b'\xef\xbb\xbf"sep=,"\n' + _CSV, (2, 0)),
    "empty_columns.csv": (lambda: b"question,answer,,\na,b,,\nc,d,,\n", (2, 0)),
    "empty_cells_behind.csv": (lambda: b"question,answer\na,b,\nc,d,,\n", (2, 0)),
    "header_alone.csv": (lambda: b"question,answer\n", "header_alone.csv"),
    "open_quote.csv": (lambda: _CSV + b'"a,b\n', (2, 1)),
    "nul.csv": (lambda: _CSV + b"a\0,b\n", "nul.csv"),
    "names_twice.csv": (lambda: b"question,question,answer\na,b,c\n", "names_twice.csv"),
    # text
    "plain.txt": (lambda: b"One line.\nAnother line.\n", (2, 0)),
    "paragraphs.txt": (lambda: b"One\nparagraph.\n\nAnother\none.\n", (1, 0)),
    "notes.md": (lambda: b"# Title\n\nText of it.\n", (1, 0)),
    "latin_1.txt": (lambda: "Où est l'été ?\nIci.\n".encode("latin-1"), "UTF-8"),
    "picture.txt": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(200), "picture.txt"),
    "program.txt": (lambda: b"\x7fELF" + bytes(500), "program.txt"),
    # compressed
    "plain.jsonl.gz": (lambda: gzip.compress(lines(ROW, OTHER)), (2, 0)),
    "two_streams.jsonl.gz": (lambda: gzip.compress(lines(ROW)) + gzip.compress(lines(OTHER)), (2, 0)),
    "padded.jsonl.gz": (lambda: gzip.compress(lines(ROW, OTHER)) + bytes(512), (2, 0)),
    "plain.csv.gz": (lambda: gzip.compress(_CSV), (2, 0)),
    "plain.jsonl.bz2": (lambda: bz2.compress(lines(ROW, OTHER)), (2, 0)),
    "plain.jsonl.xz": (lambda: lzma.compress(lines(ROW, OTHER)), (2, 0)),
    "plain.jsonl.zst": (lambda: pa.compress(lines(ROW, OTHER), codec="zstd", asbytes=True), (2, 0)),
    "packed_by_no_name.jsonl": (lambda: gzip.compress(lines(ROW, OTHER)), (2, 0)),
    "named_packed.jsonl.gz": (lambda: lines(ROW, OTHER), (2, 0)),
    "garbage_behind.jsonl.gz": (lambda: gzip.compress(lines(ROW, OTHER)) + b"garbage", "garbage_behind"),
    "cut.jsonl.gz": (lambda: gzip.compress(lines(ROW, OTHER))[:-6], "cut off"),
    "changed.jsonl.gz": (lambda: gzip.compress(lines(ROW, OTHER))[:-8] + b"\0" * 8, "changed.jsonl.gz"),
    "zip.jsonl": (lambda: b"PK\3\4" + bytes(100), "zip.jsonl"),
    "packed_twice.jsonl.gz": (lambda: gzip.compress(gzip.compress(lines(ROW, OTHER))), "packed_twice"),
    # Parquet and Arrow
    "plain.parquet": (lambda: parquet(_texts()), (2, 0)),
    "large_text.parquet": (lambda: parquet(_texts(pa.large_string())), (2, 0)),
    "coded.parquet": (lambda: parquet(_coded()), (2, 0)),
    "views.parquet": (lambda: parquet(_texts(pa.string_view())), (2, 0)),
    "brotli.parquet": (lambda: parquet(_texts(), compression="brotli"), (2, 0)),
    "one_row_groups.parquet": (lambda: parquet(_texts(), row_group_size=1), (2, 0)),
    "no_statistics.parquet": (lambda: parquet(_texts(), write_statistics=False, version="1.0"), (2, 0)),
    "other_types_beside.parquet": (
        lambda: parquet(
            _texts()
            | {
                "price": pa.array([decimal.Decimal("1.50")] * 2),
                "when": pa.array([0, 1], pa.timestamp("ns", tz="UTC")),
                "image": pa.array([{"bytes": b"\x89PNG", "path": "/etc/passwd"}] * 2),
                "span": pa.array([1, 2], pa.duration("s")),
                "nothing": pa.nulls(2),
                "map": pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64())),
            }
        ),
        (2, 0),
    ),
    "chats.parquet": (lambda: parquet({"messages": pa.array([_CHAT["messages"]])}), (1, 0)),
    "nulls.parquet": (lambda: parquet(_texts() | {"answer": pa.array(["A mineral.", None])}), (1, 1)),
    "bytes.parquet": (lambda: parquet(_texts(pa.binary())), (2, 0)),
    "bytes_in_chats.parquet": (
        lambda: parquet({"messages": pa.array([_CHAT["messages"]], pa.list_(_MESSAGE_OF_BYTES))}),
        (1, 0),
    ),
    "json_type.parquet": (
        lambda: parquet({"messages": pa.array([json.dumps(_CHAT["messages"])], pa.json_())}),
        (1, 0),
    ),
    "list_views.arrow": (
        lambda: arrow({"messages": pa.array([_CHAT["messages"]], pa.list_view(_MESSAGE))}),
        (1, 0),
    ),
    "plain.arrow": (lambda: arrow(_texts()), (2, 0)),
    "file.arrow": (lambda: arrow(_texts(), stream=False), (2, 0)),
    "no_rows.parquet": (
        lambda: parquet({key: array.slice(0, 0) for key, array in _texts().items()}),
        "no_rows",
    ),
    "no_columns.parquet": (lambda: parquet({}), "no_columns"),
    "cut.parquet": (lambda: parquet(_texts())[:-9], "cut off"),
    "cut_inside.parquet": (lambda: b"PAR1" + parquet(_texts())[-200:], "cut_inside.parquet"),
    "zeros_inside.parquet": (lambda: b"PAR1" + bytes(300) + b"PAR1", "zeros_inside.parquet"),
    "footer_lies.parquet": (lambda: parquet(_texts())[:-8] + b"\xff\xff\xff\x7fPAR1", "footer_lies.parquet"),
    "cut.arrow": (lambda: arrow(_texts())[:-200], "cut.arrow"),
}
