"""The bundled general questions are whole, balanced, and come with their source and licence."""

from __future__ import annotations

import json
import re
from collections import Counter

from qlora_studio.config.places import general_questions_file


def test_the_bundled_questions_are_100_different_ones_with_each_letter_as_often() -> None:
    rows = [json.loads(line) for line in general_questions_file().read_text("utf-8").splitlines()]

    assert len({row["question"] for row in rows}) == 100
    assert Counter(row["answer"] for row in rows) == {"A": 25, "B": 25, "C": 25, "D": 25}
    for row in rows:
        choices = re.findall(r"^([A-D])\. (.+)$", row["question"], re.MULTILINE)
        assert [letter for letter, _ in choices] == list("ABCD")
        assert len({words for _, words in choices}) == 4


def test_the_bundled_questions_name_their_source_and_licence() -> None:
    words = (general_questions_file().parent / "SOURCE.md").read_text("utf-8")

    assert "**Licence:** Apache-2.0" in words
