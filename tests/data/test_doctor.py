"""What the doctor finds, in rows that show one thing each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlora_studio.config.data_parts import Fix
from qlora_studio.config.run_config import DataConfig
from qlora_studio.data import doctor
from qlora_studio.data.dataset import Dataset
from qlora_studio.data.doctor import Asked, diagnose
from qlora_studio.data.report import Finding
from qlora_studio.errors import StudioError
from tests.data.imported_files import import_path
from tests.data.test_preparing import encoder_of, settings

RIVER = "The Rhine flows from the Alps to the North Sea and passes many old towns with castles on its hills"


def silent(done: int, total: int, words: str) -> None:
    return None


def chat(question: str, answer: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def rows_of(folder: Path, *records: dict[str, object], name: str = "rows.jsonl") -> Dataset:
    file = folder / name
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return import_path(file)


def found(dataset: Dataset, **asked: object) -> dict[str, Finding]:
    data = DataConfig(path=dataset.report.path)
    return {
        finding.kind: finding
        for finding in diagnose(dataset, Asked(**({"data": data} | asked)), silent)  # type: ignore[arg-type]
    }


def test_plain_good_rows_give_no_finding(tmp_path: Path) -> None:
    assert found(rows_of(tmp_path, chat("Hello?", "Hello."), chat("What is red?", "A colour."))) == {}


def test_the_sample_data_shows_nothing_that_is_to_be_mended() -> None:
    findings = found(import_path("sample"))

    assert [finding.kind for finding in findings.values() if finding.fix] == []


def test_a_nearly_equal_row_is_found_with_the_one_it_is_like(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        chat("Tell me about the Rhine", RIVER),
        chat("What is red?", "A colour."),
        chat("Tell me about the Rhine", RIVER.replace("many", "some")),
    )

    finding = found(rows)["near_duplicates"]

    assert (finding.count, finding.rows, finding.groups) == (1, (2,), ((0, 2),))
    assert finding.fix == Fix(kind="near_duplicates")
    assert (finding.words, finding.fix_words) == (
        "1 row is nearly equal to an earlier one",
        "Leave out 1 copy",
    )


def test_rows_that_were_equal_are_told_as_merged_at_import(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, chat("a", "b"), chat("a", "b"))

    assert list(found(rows)) == ["duplicates"]


def test_rows_of_a_test_file_are_found_by_their_question_or_nearly(tmp_path: Path) -> None:
    test = rows_of(
        tmp_path, chat("Who built Rome?", "Romulus"), chat("And the Rhine?", RIVER), name="test.jsonl"
    )
    rows = rows_of(
        tmp_path,
        chat("Who built  rome?", "Another answer"),
        chat("And the Rhine?", RIVER.replace("many", "some")),
        chat("Oh the Rhine?", RIVER.replace("many", "some")),
        chat("What is red?", "A colour."),
    )

    finding = found(rows, test=test.report.path)["test_rows"]

    assert (finding.tone, finding.rows) == ("bad", (0, 1, 2))
    assert finding.fix == Fix(kind="test_rows", path=test.report.path)
    assert finding.words == "3 rows stand in test.jsonl too (2 with the same question, 1 nearly)"


def test_rows_of_the_validation_file_are_found_without_being_asked_for(tmp_path: Path) -> None:
    held_out = rows_of(tmp_path, chat("Who built Rome?", "Romulus"), name="held.jsonl")
    rows = rows_of(tmp_path, chat("Who built Rome?", "Romulus"), chat("What is red?", "A colour."))

    data = DataConfig(path=rows.report.path, validation=held_out.report.path)

    assert found(rows, data=data)["validation_rows"].rows == (0,)


def test_a_test_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, chat("a", "b"))

    with pytest.raises(StudioError, match=r"gone\.jsonl"):
        found(rows, test=str(tmp_path / "gone.jsonl"))


def test_one_question_with_different_answers_is_a_group(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        chat("2 + 2?", "4"),
        chat("Is it?", "Yes."),
        chat("2 + 2?", "5"),
        chat("is it?", "yes"),
        chat("And the Rhine?", RIVER),
        chat("And the Rhine?", RIVER.replace("many", "some")),
    )

    finding = found(rows)["contradictions"]

    assert (finding.count, finding.groups) == (1, ((0, 2),))


def test_an_answer_rated_both_ways_is_a_contradiction_and_two_answers_are_not(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        *(
            {"prompt": "2 + 2?", "completion": answer, "label": label}
            for answer, label in (("4", True), ("5", False), ("4", False))
        ),
    )

    assert found(rows)["contradictions"].groups == ((0, 2),)


def test_pairs_of_answers_to_one_question_are_no_contradiction(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"prompt": "2 + 2?", "chosen": "Four", "rejected": "6"},
    )

    assert "contradictions" not in found(rows)


def test_an_empty_answer_among_others_is_found(tmp_path: Path) -> None:
    turns = [("user", "a"), ("assistant", " "), ("user", "b"), ("assistant", "c")]
    talk = {"messages": [{"role": role, "content": content} for role, content in turns]}

    finding = found(rows_of(tmp_path, chat("x", "y"), talk))["empty_answer"]

    assert (finding.rows, finding.fix) == ((1,), Fix(kind="empty_answers"))


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("refusals", "I'm sorry, but I can't help with that."),
        ("cut_sentences", "The house by the river is old. " * 9 + "Then they went down into the"),
        ("broken_encoding", "It doesnâ€™t work."),
        ("secrets", "Use AKIAQ7RT2MNOPX5WZ3LB for it."),
        ("addresses", "Ask jane.smith@gmail.com for it."),
        ("template_marks", "<|im_start|>user\nWhy?<|im_end|>"),
    ],
)
def test_what_an_answer_gives_away_is_found(tmp_path: Path, kind: str, answer: str) -> None:
    finding = found(rows_of(tmp_path, chat("a", "b"), chat("c", answer)))[kind]

    assert (finding.count, finding.rows) == (1, (1,))
    assert answer not in finding.words + finding.why + finding.fix_words  # R16


def test_raw_texts_are_looked_through_too(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, {"text": "It doesnâ€™t work."}, {"text": "Fine."})

    assert found(rows)["broken_encoding"].rows == (0,)


def test_many_more_good_ratings_than_bad_ones_are_told(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        *({"prompt": f"p{i}", "completion": f"c{i}", "label": i > 0} for i in range(5)),
    )

    finding = found(rows)["ratings"]

    assert finding.words == "4 answers are rated good, 1 bad"
    assert "each bad answer should count 4.0 times" in finding.why


def test_rows_over_the_limit_and_without_anything_to_learn_are_counted_in_tokens(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, chat("hello", "a" * 200), chat("hello", "b"))
    config = settings()
    data = DataConfig(path=rows.report.path, seq_len=100)

    findings = found(rows, data=data, encoder=encoder_of(tmp_path, config))

    assert findings["too_long"].rows == (0,)
    assert "longer than 100 tokens and left out" in findings["too_long"].words


def test_findings_are_kept_until_something_that_they_depend_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(tmp_path, chat("2 + 2?", "4"), chat("2 + 2?", "5"))
    first = found(rows)
    monkeypatch.setattr(doctor, "marked_rows", None)

    assert found(rows) == first
    with pytest.raises(TypeError):
        found(rows, threshold=0.8)


def test_bad_findings_come_first(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, chat("a", "Ask jane.smith@gmail.com"), chat("b", "AKIAQ7RT2MNOPX5WZ3LB"))

    assert [finding.tone for finding in found(rows).values()] == ["bad", "info"]


def test_a_few_rows_in_another_script_are_told(tmp_path: Path) -> None:
    plain = [chat(f"question {i}", f"It is number {i}, déjà vu") for i in range(30)]
    rows = rows_of(
        tmp_path, *plain, chat("What?", "Это река Рейн"), chat("Why?", "これは川です"), chat("3?", "3")
    )

    finding = found(rows)["scripts"]

    assert finding.rows == (30, 31)
    assert finding.words == "2 rows are written in another script than most: 1 in Cyrillic, 1 in Japanese"


def test_rows_in_two_scripts_of_like_number_are_meant(tmp_path: Path) -> None:
    talks = [chat(f"question {i}", text) for i, text in enumerate(["It is a river", "Это река Рейн"] * 5)]

    assert "scripts" not in found(rows_of(tmp_path, *talks))
