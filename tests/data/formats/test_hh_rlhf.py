"""HH-RLHF: two talks with Human: and Assistant: in them, of which one ends better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.formats.outcomes import MERGED, add_up, import_records, outcomes, trained
from tests.data.imported_files import findings


def talk(*said: str) -> str:
    """Turns in turn, the human's first."""
    return "".join(f"\n\n{('Human', 'Assistant')[at % 2]}: {text}" for at, text in enumerate(said))


def pair(better: Any, worse: Any) -> dict[str, Any]:
    return {"chosen": better, "rejected": worse}


ROWS: list[tuple[Any, Any]] = [
    (pair(talk("a", "b"), talk("a", "c")), ["user: a | assistant: b | x assistant: c"]),
    (pair(talk("a", "b "), talk("a", "c\n")), MERGED),
    (pair(talk("a", "b"), talk("a", "d")), ["user: a | assistant: b | x assistant: d"]),
    (
        pair(talk("a", "b", "c", "d"), talk("a", "b", "c", "e")),
        ["user: a | assistant: b | user: c | assistant: d | x assistant: e"],
    ),
    (
        pair(talk("a", "b", "c", "d"), talk("a", "z", "y", "x")),
        ["user: a | assistant: b | user: c | assistant: d | x assistant: z | x user: y | x assistant: x"],
    ),
    (pair(talk("a", "b").strip(), talk("a", "e").strip()), ["user: a | assistant: b | x assistant: e"]),
    (pair(talk("a", "1.\n\n2.\n\nHumans: 3"), talk("a", "f")),
     ["user: a | assistant: 1.\n\n2.\n\nHumans: 3 | x assistant: f"]),
    (pair(talk("a", "b"), talk("a", "")), ["user: a | assistant: b | x assistant: "]),
    (pair(talk("a", ""), talk("a", "b")), "no answer"),
    (pair(talk("a", "b", "c"), talk("a", "b", "c", "d")),
     ["user: a | assistant: b | user: c | x assistant: d"]),
    (pair(talk("a", "same"), talk("a", "same")), ["user: a | assistant: same"]),
    (pair(talk("a") + talk("b", "c"), talk("a") + talk("b", "d")),
     ["user: a | user: b | assistant: c | x assistant: d"]),
    (pair("Talk:" + talk("a", "b"), "Talk:" + talk("a", "c")),
     ["system: Talk: | user: a | assistant: b | x assistant: c"]),
    (pair("\n\nAssistant: Hi" + talk("a", "b"), "\n\nAssistant: Hi" + talk("a", "c")),
     ["assistant: Hi | user: a | assistant: b | x assistant: c"]),
    (pair(talk("a", "b").replace("\n", "\r\n"), talk("a", "g").replace("\n", "\r\n")),
     ["user: a | assistant: b | x assistant: g"]),
    (pair(talk("a", "b"), "no mark"), "the text has no mark of a speaker"),
    (pair("no mark", talk("a", "b")), "the text has no mark of a speaker"),
    (pair(talk("a", "b"), talk("a")), "no worse answer"),
    (pair(talk("a", "b"), ""), "no text"),
    (pair(talk("a", "b"), None), "'rejected' is null, not text"),
    (pair(None, talk("a", "b")), "'chosen' is null, not text"),
    ({"chosen": talk("a", "b")}, "no column 'rejected'"),
    ({"rejected": talk("a", "b")}, "no column 'chosen'"),
    (pair(talk("", "b"), talk("", "c")), ["user:  | assistant: b | x assistant: c"]),
]  # fmt: skip


def test_each_record_is_converted_or_skipped_for_its_reason(tmp_path: Path) -> None:
    data = import_records(tmp_path, [record for record, _ in ROWS])

    assert data.report.format == "hh_rlhf"
    assert outcomes(data, len(ROWS)) == [expected for _, expected in ROWS]
    assert add_up(data) == (24, 14, 9, 1, 14)
    assert findings(data) == {
        "skipped": 9,
        "duplicates": 1,
        "empty_rejected": 1,
        "open_end": 1,
        "equal_pair": 1,
        "same_speaker": 1,
        "preface": 1,
        "answer_first": 1,
        "empty_prompt": 1,
    }


def test_a_prompt_that_waits_for_its_endings_is_their_beginning(tmp_path: Path) -> None:
    record = {"prompt": talk("a", "b", "c", ""), "chosen": " d", "rejected": " e", "response": " d"}

    others = [record | {"chosen": talk("f", "g")}, record | {"chosen": ""}, record | {"prompt": "p"}]
    data = import_records(tmp_path, [record, record | {"rejected": "h"}, *others])

    assert data.report.format == "hh_rlhf"
    assert outcomes(data, 5) == [
        ["user: a | assistant: b | user: c | assistant: d | x assistant: e"],
        ["user: a | assistant: b | user: c | assistant: d | x assistant: h"],
        ["user: f | assistant: g | x user: a | x assistant: b | x user: c | x assistant: e"],
        "no answer",
        "the text has no mark of a speaker",
    ]


def test_a_talk_with_one_ending_is_a_chat(tmp_path: Path) -> None:
    prompted = import_records(tmp_path, [{"prompt": talk("a", ""), "response": " b"}])
    alone = import_records(tmp_path, [{"text": talk("a", "b")}])

    assert (prompted.report.format, outcomes(prompted, 1)) == ("hh_rlhf", [["user: a | assistant: b"]])
    assert (alone.report.format, outcomes(alone, 1)) == ("hh_rlhf", [["user: a | assistant: b"]])


def test_the_better_answers_are_learned(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [pair(talk("a", "b", "c", "d"), talk("a", "b", "c", "e"))])

    assert trained(tmp_path, row) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nd<|im_end|>\n",
        "bd",
    )


def test_the_whole_better_talk_is_learned_where_everything_is_asked_for(tmp_path: Path) -> None:
    (row,) = import_records(tmp_path, [pair(talk("a", "b"), talk("a", "e"))])

    assert trained(tmp_path, row, train_on="everything")[1] == "user\na\nassistant\nb\n"


def test_of_ranked_answers_to_a_talk_the_best_is_learned(tmp_path: Path) -> None:  # Nectar
    answers = [
        {"answer": "Far.", "model": "small", "rank": 2.0},
        {"answer": "Air scatters blue.", "model": "large", "rank": 1.0},
    ]
    row = {
        "prompt": talk("Hello", "Hi.", "Why blue?", ""),
        "answers": answers,
        "turns": 2,
        "num_responses": 2,
    }
    data = import_records(tmp_path, [row, row | {"prompt": talk("What for?", "")}])

    assert data.report.format == "hh_rlhf"
    assert outcomes(data, 2) == [
        ["user: Hello | assistant: Hi. | user: Why blue? | assistant: Air scatters blue."],
        ["user: What for? | assistant: Air scatters blue."],
    ]
