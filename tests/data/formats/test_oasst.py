"""OASST: trees of messages, whole or a message a row, and the Guanaco set's talks in one text."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from qlora_studio.data import message_trees
from qlora_studio.errors import StudioError
from tests.data.formats.outcomes import MERGED, add_up, import_records, in_words, outcomes, trained
from tests.data.imported_files import findings, import_bytes, reasons


def message(
    identity: str, parent: str | None, text: Any, rank: float | None = None, **beside: Any
) -> dict[str, Any]:
    """`p...` asks, anything else answers."""
    role = "prompter" if identity.startswith("p") else "assistant"
    return {
        "message_id": identity,
        "parent_id": parent,
        "message_tree_id": "t",
        "text": text,
        "role": role,
        "rank": rank,
        "deleted": False,
        "review_result": True,
        "tree_state": "ready_for_export",
        "lang": "en",
    } | beside


BEST = "on a branch that isn't taken: another reply ranks higher or stands first"
BELOW = "a reply to a message that is left out"
MESSAGES: list[tuple[dict[str, Any], Any]] = [
    (message("p1", None, "q"), ["user: q | assistant: best | user: more? | assistant: yes"]),
    (message("a1", "p1", "worse", 1), BEST),
    (message("a2", "p1", "best", 0), MERGED),
    (message("a3", "p1", "unranked"), BEST),
    (message("p2", "a2", "more?"), MERGED),
    (message("p3", "a2", "silence"), "a prompt that nobody answered"),
    (message("a4", "p2", "yes", 0.0), MERGED),
    (message("p4", "a4", "thanks"), "a prompt that nobody answered"),
    (message("a5", "p2", "gone", 0, deleted=True), "deleted"),
    (message("p5", "a5", "after"), BELOW),
    (message("a6", "p2", "bad", 0, review_result=False), "didn't pass review"),
    (message("a7", "p2", "unreviewed", 1, review_result=None), BEST),
    (message("p6", "a1", "on the side"), BEST),
    (message("a8", "p6", "there"), BEST),
    (message("p10", None, "r", tree_state="growing"), "its tree isn't ready: 'growing'"),
    (message("a10", "p10", "s", tree_state="growing"), "its tree isn't ready: 'growing'"),
    (message("p11", None, "nobody"), "a prompt that nobody answered"),
    (message("a12", "p12", "parent is further down", 3.0), MERGED),
    (message("p12", None, "order"), ["user: order | assistant: parent is further down"]),
    (message("p13", "lost", "x"), "a reply to a message that isn't in the file"),
    (message("a13", "p13", "y"), "a reply to a message that can't be used"),
    (message("p1", None, "twice"), "another message has the same id"),
    (message("p14", "a14", "circle"), "it replies to itself, over others"),
    (message("a14", "p14", "circle"), "it replies to itself, over others"),
    (message("", None, "no id"), "no message id"),
    (message("p15", None, "", None), "no text"),
    (message("p16", None, None), "the text is null, not text"),
    (message("p17", None, "z", role="narrator"), "unknown role 'narrator'"),
    (message("p18", None, "q2"), ["user: q2 | assistant: only"]),
    (message("a18", "p18", "only"), MERGED),
    (message("p19", None, "q2"), MERGED),
    (message("a19", "p19", "only"), MERGED),
]  # fmt: skip


def test_the_best_path_of_each_tree_is_a_row_and_each_message_counts(tmp_path: Path) -> None:
    data = import_records(tmp_path, [record for record, _ in MESSAGES])

    assert data.report.format == "oasst"
    assert outcomes(data, len(MESSAGES)) == [expected for _, expected in MESSAGES]
    assert add_up(data) == (32, 3, 22, 7, 3)
    assert findings(data) == {"skipped": 22, "folded": 6, "duplicates": 1}


def test_what_the_format_leaves_out_is_told_from_faults(tmp_path: Path) -> None:
    report = import_records(tmp_path, [record for record, _ in MESSAGES]).report

    faults = {problem.reason for problem in report.problems if not problem.by_design}
    assert (report.left_out, report.unusable) == (13, 9)
    assert faults == {
        "a reply to a message that isn't in the file",
        "a reply to a message that can't be used",
        "another message has the same id",
        "it replies to itself, over others",
        "no message id",
        "no text",
        "the text is null, not text",
        "unknown role 'narrator'",
    }


def test_each_path_is_a_row_where_all_are_asked_for(tmp_path: Path) -> None:
    data = import_records(tmp_path, [record for record, _ in MESSAGES[:14]], alternatives="all")

    assert outcomes(data, 1) == [
        [
            "user: q | assistant: unranked",
            "user: q | assistant: worse | user: on the side | assistant: there",
            "user: q | assistant: best | user: more? | assistant: yes",
            "user: q | assistant: best | user: more? | assistant: unreviewed",
        ]
    ]
    assert add_up(data) == (14, 4, 5, 5, 4)


def test_the_order_of_the_messages_in_the_file_does_not_matter(tmp_path: Path) -> None:
    records = [record for record, _ in MESSAGES[:14]]
    straight = import_records(tmp_path, records)
    random.Random(5).shuffle(records)

    shuffled = import_records(tmp_path, records)

    assert [in_words(row) for row in shuffled] == [in_words(row) for row in straight]
    assert add_up(shuffled) == add_up(straight)


def tree(first: dict[str, Any], *replies: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return {
        "message_tree_id": "t",
        "tree_state": "ready_for_export",
        "prompt": first | {"replies": list(replies)},
    } | beside


def reply(identity: str, text: Any, *replies: Any, **beside: Any) -> dict[str, Any]:
    return {
        "message_id": identity,
        "text": text,
        "role": "prompter" if identity.startswith("p") else "assistant",
        "replies": list(replies),
    } | beside


def test_whole_trees_are_read_and_their_messages_are_the_records(tmp_path: Path) -> None:
    trees = [
        tree(
            reply("p1", "q"),
            reply("a1", "worse", rank=1),
            reply("a2", "best", reply("p2", "more?", reply("a3", "yes")), reply("p3", "silence"), rank=0),
        ),
        tree(reply("p4", "r"), reply("a4", "gone", deleted=True)),
        tree(reply("p5", "s"), reply("a5", "t"), tree_state="halted_by_moderator"),
        tree(reply("p6", "u"), reply("a6", "v", replies=None), "no object", reply("a7", "w", replies="none")),
        {"message_tree_id": "t", "prompt": "a text"},
        {"message_tree_id": "t"},
    ]

    data = import_records(tmp_path, trees)

    assert data.report.format == "oasst"
    assert [in_words(row) for row in data] == [
        "user: q | assistant: best | user: more? | assistant: yes",
        "user: u | assistant: v",
    ]
    assert add_up(data) == (16, 2, 10, 4, 2)
    assert reasons(data) == {
        BEST: [1],
        "a prompt that nobody answered": [1, 2],
        "deleted": [2],
        "its tree isn't ready: 'halted_by_moderator'": [3, 3],
        "no role": [4, 5],
        "the replies are text, not a list": [4],
        "no column 'prompt'": [6],
    }


def test_the_set_as_a_table_has_its_words_for_true_and_nothing(tmp_path: Path) -> None:
    table = (
        "message_id,parent_id,text,role,rank,deleted,review_result,tree_state\n"
        "p1,,q,prompter,,False,True,ready_for_export\n"
        "a1,p1,worse,assistant,1.0,False,True,ready_for_export\n"
        "a2,p1,best,assistant,0.0,False,,ready_for_export\n"
        "a3,p1,gone,assistant,,True,True,ready_for_export\n"
    )

    data = import_bytes(tmp_path / "rows.csv", table.encode())

    assert [in_words(row) for row in data] == ["user: q | assistant: best"]
    assert add_up(data) == (4, 1, 2, 1, 1)


def test_talks_of_the_guanaco_set_are_read_from_their_text(tmp_path: Path) -> None:
    rows = [
        ("### Human: a### Assistant: b", ["user: a | assistant: b"]),
        ("### Human: a\n### Assistant: b\n### Human: c### Assistant: d",
         ["user: a | assistant: b | user: c | assistant: d"]),
        ("### Human: ### 1. a### Assistant: e\n\n### f", ["user: ### 1. a | assistant: e\n\n### f"]),
        ("### Human: a", "no answer"),
        ("plain", "the text has no mark of a speaker"),
    ]  # fmt: skip

    data = import_records(tmp_path, [{"text": text} for text, _ in rows])

    assert data.report.format == "oasst"
    assert outcomes(data, len(rows)) == [expected for _, expected in rows]


def test_trees_that_need_too_much_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_trees, "MOST_GATHERED", 5000)

    with pytest.raises(StudioError, match=r"rows\.jsonl: its messages are more than"):
        import_records(tmp_path, [record for record, _ in MESSAGES])


def test_a_tree_whose_paths_would_fill_the_disk_is_refused(tmp_path: Path) -> None:
    answers = [reply(f"a{number}", "a") for number in range(300)]

    with pytest.raises(StudioError, match="the paths of a tree hold more than 200 times its text"):
        import_records(tmp_path, [tree(reply("p1", "q" * 10_000), *answers)], alternatives="all")


def test_the_answers_and_their_ends_are_learned(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [message("p1", None, "q"), message("a1", "p1", "b", 0)])

    assert trained(tmp_path, row) == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
        "b",
    )
