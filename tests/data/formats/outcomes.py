"""What becomes of each record of a file, and what is trained of a row."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.dataset import Dataset
from qlora_studio.data.row_encoder import EncodedRow, RowEncoder
from qlora_studio.data.template import find_template
from qlora_studio.data.tokenizer import load_tokenizer
from tests.data.imported_files import import_bytes
from tests.data.tiny_tokenizer import CHATML, model_folder

MERGED = "merged"


def import_records(tmp_path: Path, records: list[Any], **how: Any) -> Dataset:
    """The rows of a file with a record a line."""
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    return import_bytes(tmp_path / "rows.jsonl", lines.encode(), **how)


def outcomes(data: Dataset, records: int) -> list[Any]:
    """Of each line: its rows as text, the reason why it was skipped, or that it was merged."""
    rows = defaultdict(list)
    for row in data:
        rows[row.line].append(in_words(row))
    reasons = {line: problem.reason for problem in data.report.problems for line in problem.lines}
    lines = range(1, records + 1)
    return [rows[line] if line in rows else reasons.get(line, MERGED) for line in lines]


def in_words(row: Row) -> str:
    """The turns of a row in one line; the worse ones behind `x`, what else there is in brackets."""
    parts = [_said(message) for message in row.messages]
    parts += [f"x {_said(message)}" for message in row.rejected[row.shared_turns :]]
    rating = [] if row.label is None else ["good" if row.label else "bad"]
    return " | ".join([*parts, *rating, *([] if row.text is None else [row.text])])


def add_up(data: Dataset) -> tuple[int, int, int, int, int]:
    """Records in the file, imported, skipped and merged, and rows, which must agree with each other."""
    report = data.report
    assert report.rows_in == report.imported + report.skipped + report.merged
    assert report.skipped == sum(problem.count for problem in report.problems)
    assert report.conversations == len(data) == len(list(data))
    return report.rows_in, report.imported, report.skipped, report.merged, report.conversations


def trained(
    tmp_path: Path, row: Row, train_on: str = "answers", template_text: str = CHATML
) -> tuple[str, str]:
    """The exact text of a row, in ChatML unless another template is given, and what of it is learned."""
    folder = model_folder(tmp_path / "model", template=template_text)
    tokenizer = load_tokenizer(folder)
    template = find_template(folder, tokenizer.special.names)
    assert template is not None
    (encoded,) = RowEncoder(tokenizer, template, train_on=train_on).encode([row])
    assert isinstance(encoded, EncodedRow)
    return encoded.text, tokenizer.decode(encoded.ids[encoded.weights > 0].tolist())


def _said(message: Message) -> str:
    extras = [f"calls {call.name}({call.arguments})" for call in message.tool_calls]
    extras += [f"thinks {message.reasoning}"] if message.reasoning else []
    extras += [f"weighs {message.loss_weight:g}"] if message.loss_weight is not None else []
    return f"{message.role}: {message.content}" + "".join(f" [{extra}]" for extra in extras)
