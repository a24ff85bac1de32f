"""The bundled questions are whole, and come with their source and licence."""

from __future__ import annotations

import json

from qlora_studio.config.places import sample_data_file


def test_the_bundled_data_is_300_different_questions_with_answers() -> None:
    lines = sample_data_file().read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]

    assert len(set(lines)) == 300
    assert all(row.keys() == {"question", "answer"} for row in rows)
    assert all("\n#### " in row["answer"] for row in rows)


def test_the_bundled_data_names_its_source_and_licence() -> None:
    folder = sample_data_file().parent

    assert "github.com/openai/grade-school-math" in (folder / "SOURCE.md").read_text("utf-8")
    assert (folder / "LICENSE-GSM8K").read_text("utf-8").startswith("MIT License")
