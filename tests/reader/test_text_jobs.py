"""A text made ready for a model's perplexity: every token of it counts, within what the model can read."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_studio.data.prepared import open_prepared
from qlora_studio.errors import StudioError
from qlora_studio.protocol import reading
from tests.reader.whole_model import CONFIG, chats_file


def rows(jobs, model, path, **how):
    request = reading.PrepareText(id=1, model=str(model), path=str(path), **how)
    answer = jobs.answer(request)
    prepared = open_prepared(Path(answer.prepared))
    assert answer.rows == len(prepared.validation)
    return [prepared.validation[place] for place in range(answer.rows)]


def test_every_token_but_the_first_of_a_text_counts(jobs, model, tmp_path):
    (tmp_path / "some.txt").write_text("One paragraph.\n\nAnother one.", "utf-8")
    (row,) = rows(jobs, model, tmp_path / "some.txt")
    assert row.weights.tolist() == [0.0] + [1.0] * (len(row.ids) - 1)


def test_a_long_text_is_read_in_pieces_as_long_as_the_model_can_read(jobs, model, tmp_path):
    (tmp_path / "long.txt").write_text("\n\n".join(f"Paragraph {number}." for number in range(400)), "utf-8")
    pieces = rows(jobs, model, tmp_path / "long.txt", seq_len=4096)
    assert max(len(piece.ids) for piece in pieces) == CONFIG["max_position_embeddings"]
    learned = sum(int((piece.weights > 0).sum()) for piece in pieces)
    assert learned > 5 * CONFIG["max_position_embeddings"]


def test_chats_are_read_in_the_models_template_questions_too(jobs, model, tmp_path):
    first, *_ = rows(jobs, model, chats_file(tmp_path / "chats.jsonl"))
    assert int((first.weights > 0).sum()) == len(first.ids) - 1


def test_a_text_in_another_encoding_is_read_once_that_is_named(jobs, model, tmp_path):
    (tmp_path / "old.txt").write_bytes("Ein schöner Tag.\n\nNoch ein schöner Tag.".encode("windows-1252"))
    with pytest.raises(StudioError, match="UTF-8"):
        rows(jobs, model, tmp_path / "old.txt")
    assert rows(jobs, model, tmp_path / "old.txt", encoding="windows-1252")


def test_an_empty_file_is_refused(jobs, model, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(StudioError, match="empty"):
        rows(jobs, model, tmp_path / "empty.txt")
