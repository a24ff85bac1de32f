"""Records as they stand in sets that many train on: the names and shapes of their columns, our own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qlora_studio.errors import StudioError
from tests.data.formats.outcomes import import_records, outcomes

U = {"role": "user", "content": "q"}
A = {"role": "assistant", "content": "a"}
B = {"role": "assistant", "content": "b"}
HUMAN = {"from": "human", "value": "q", "weight": None}
GPT = {"from": "gpt", "value": "a", "weight": None}
QA = "user: q | assistant: a"
PAIR = f"{QA} | x assistant: b"

SETS: list[tuple[str, dict[str, Any], str, Any]] = [
    ("alpaca", {"instruction": "q", "input": "", "output": "a", "text": "Below is"}, "alpaca", QA),
    ("dolly", {"instruction": "q", "context": "", "response": "a", "category": "open_qa"}, "alpaca", QA),
    ("math-instruct", {"source": "s", "output": "a", "instruction": "q"}, "alpaca", QA),
    ("code", {"instruction": "q", "input": "", "output": "a", "prompt": "Below is"}, "alpaca", QA),
    (
        "open-orca",
        {"id": "1", "system_prompt": "s", "question": "q", "response": "a"},
        "question_answer",
        f"system: s | {QA}",
    ),
    (
        "slim-orca",
        {"conversations": [HUMAN | {"weight": 0.0}, GPT | {"weight": 1.0}]},
        "sharegpt",
        "user: q [weighs 0] | assistant: a [weighs 1]",
    ),
    (
        "hermes",
        {"conversations": [HUMAN, GPT], "system_prompt": None, "source": "s", "views": 1.0},
        "sharegpt",
        QA,
    ),
    (
        "functions",
        {"conversations": [{"from": "system", "value": "s"}, HUMAN, GPT], "tools": "[]", "id": "1"},
        "sharegpt",
        f"system: s | {QA}",
    ),
    ("ultra-chat", {"prompt": "q", "prompt_id": "1", "messages": [U, A]}, "messages", QA),
    ("ultra-chat raw", {"id": "1", "data": ["q", "a"]}, "messages", QA),
    ("lima", {"conversations": ["q", "a"], "source": "s"}, "messages", QA),
    ("smol-talk", {"messages": [U, A], "source": "s"}, "messages", QA),
    (
        "math with messages",
        {"source": "s", "problem": "q", "solution": "a", "messages": [U, A]},
        "messages",
        QA,
    ),
    ("capybara", {"source": "s", "conversation": [{"input": "q", "output": "a"}]}, "messages", QA),
    ("firefly", {"conversation": [{"human": "q", "assistant": "a"}], "category": "c"}, "messages", QA),
    (
        "contents",
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "s"}]},
            "contents": [
                {"role": "user", "parts": [{"text": "q"}]},
                {"role": "model", "parts": [{"text": "a"}]},
            ],
        },
        "messages",
        f"system: s | {QA}",
    ),
    (
        "chatbot",
        {"messages": [{"role": "User", "content": "q"}, {"role": "Chatbot", "content": "a"}]},
        "messages",
        QA,
    ),
    (
        "meta-math",
        {"type": "t", "query": "q", "original_question": "o", "response": "a"},
        "prompt_completion",
        QA,
    ),
    ("gpt4all", {"prompt": "q", "response": "a", "source": "s"}, "prompt_completion", QA),
    ("ratings", {"prompt": "q", "response": "a", "helpfulness": 4, "verbosity": 2}, "prompt_completion", QA),
    ("counselling", {"Context": "q", "Response": "a"}, "prompt_completion", QA),
    ("input and target", {"kind": "k", "input": "q", "target": "a"}, "prompt_completion", QA),
    ("mmlu of the paper", {"subject": "s", "input": "q", "output": "a"}, "prompt_completion", QA),
    (
        "calls",
        {"id": 1, "query": "q", "answers": '[{"name": "f"}]', "tools": '[{"name": "f"}]'},
        "prompt_completion",
        'user: q | assistant: [{"name": "f"}]',
    ),
    ("gsm8k", {"question": "q", "answer": "a"}, "question_answer", QA),
    ("oss-instruct", {"lang": "c", "raw_index": 1, "problem": "q", "solution": "a"}, "question_answer", QA),
    (
        "mmlu",
        {"question": "q", "subject": "s", "choices": ["w", "x"], "answer": 1},
        "question_answer",
        "user: q\nA. w\nB. x | assistant: B",
    ),
    (
        "arc",
        {"id": "1", "question": "q", "choices": {"text": ["w", "x"], "label": ["A", "B"]}, "answerKey": "B"},
        "question_answer",
        "user: q\nA. w\nB. x | assistant: B",
    ),
    (
        "open-book",
        {"question_stem": "q", "choices": {"text": ["w"], "label": ["A"]}, "answerKey": "A"},
        "question_answer",
        "user: q\nA. w | assistant: A",
    ),
    (
        "squad",
        {
            "id": "1",
            "title": "t",
            "context": "c",
            "question": "q",
            "answers": {"text": ["a", "a"], "answer_start": [1, 1]},
        },
        "question_answer",
        "user: c\n\nq | assistant: a",
    ),
    (
        "boolq",
        {"question": "q", "answer": True, "passage": "c"},
        "question_answer",
        "user: c\n\nq | assistant: true",
    ),
    (
        "sciq",
        {"question": "q", "distractor1": "x", "correct_answer": "a", "support": ""},
        "question_answer",
        QA,
    ),
    ("trivia", {"question": "q", "answer": {"aliases": ["b"], "value": "a"}}, "question_answer", QA),
    (
        "truthful",
        {"type": "t", "question": "q", "best_answer": "a", "correct_answers": ["b"]},
        "question_answer",
        QA,
    ),
    (
        "sql",
        {"question": "q", "context": "c", "answer": "a"},
        "question_answer",
        "user: c\n\nq | assistant: a",
    ),
    ("flan", {"inputs": "q", "targets": "a", "task_source": "s", "template_type": "zs"}, "flan", QA),
    (
        "natural instructions",
        {"task_name": "t", "definition": "d", "inputs": "q", "targets": "a"},
        "flan",
        "user: d\n\nq | assistant: a",
    ),
    (
        "p3",
        {"inputs": [1, 2], "inputs_pretokenized": "q", "targets": [3], "targets_pretokenized": "a"},
        "flan",
        QA,
    ),
    ("longform", {"input": "q", "output": "a", "source": "C4", "subset": "train"}, "longform", QA),
    ("chip2", {"text": "<human>: q\n<bot>: a", "metadata": "{}"}, "chip2", QA),
    ("guanaco", {"text": "### Human: q### Assistant: a"}, "oasst", QA),
    (
        "self-instruct",
        {"prompt": "q\nOutput:", "completion": " a<|endoftext|>"},
        "self_instruct",
        "user: q\nOutput: | assistant: a",
    ),
    (
        "seed tasks",
        {
            "id": "s",
            "name": "n",
            "instruction": "q",
            "instances": [{"input": "", "output": "a"}],
            "is_classification": False,
        },
        "self_instruct",
        QA,
    ),
    (
        "hh",
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        "hh_rlhf",
        PAIR,
    ),
    (
        "static",
        {"prompt": "\n\nHuman: q\n\nAssistant:", "response": " a", "chosen": " a", "rejected": " b"},
        "hh_rlhf",
        PAIR,
    ),
    (
        "ultra-feedback",
        {
            "prompt": "q",
            "prompt_id": "1",
            "chosen": [U, A],
            "rejected": [U, B],
            "messages": [U, A],
            "score_chosen": 9.0,
            "score_rejected": 2.0,
        },
        "preference",
        PAIR,
    ),
    ("orca pairs", {"system": "", "question": "q", "chosen": "a", "rejected": "b"}, "preference", PAIR),
    (
        "binarized",
        {
            "instruction": "q",
            "chosen_response": "a",
            "rejected_response": "b",
            "chosen_avg_rating": 5.0,
            "rejected_avg_rating": 1.0,
            "chosen_model": "m",
            "rejected_model": "n",
        },
        "preference",
        PAIR,
    ),
    (
        "reward bench",
        {"prompt": "q", "chosen": "a", "chosen_model": "m", "rejected": "b", "rejected_model": "n"},
        "preference",
        PAIR,
    ),
    (
        "stack exchange",
        {"qid": 1, "question": "q", "date": "d", "metadata": ["u"], "response_j": "a", "response_k": "b"},
        "preference",
        PAIR,
    ),
    (
        "shp",
        {
            "post_id": "1",
            "history": "q",
            "human_ref_A": "b",
            "human_ref_B": "a",
            "labels": 0,
            "score_A": 2,
            "score_B": 9,
        },
        "preference",
        PAIR,
    ),
    (
        "safe",
        {
            "prompt": "q",
            "response_0": "b",
            "response_1": "a",
            "is_response_0_safe": False,
            "better_response_id": 1,
            "safer_response_id": 1,
        },
        "preference",
        PAIR,
    ),
    (
        "arena",
        {
            "model_a": "m",
            "model_b": "n",
            "winner": "model_a",
            "conversation_a": [U, A],
            "conversation_b": [U, B],
            "turn": 1,
        },
        "preference",
        PAIR,
    ),
    ("kto mix", {"prompt": [U], "completion": [A], "label": True}, "kto", f"{QA} | good"),
    ("kto chats", {"messages": [U, A], "label": False}, "kto", f"{QA} | bad"),
    ("pile", {"text": "t", "meta": {"set": "s"}}, "text", "t"),
    ("c4", {"text": "t", "timestamp": "2019", "url": "u"}, "text", "t"),
    ("stack", {"content": "t", "path": "p", "size": 1, "lang": "c"}, "text", "t"),
    ("reviews", {"text": "t", "label": 1}, "text", "t"),
    ("summaries", {"article": "q", "highlights": "a", "id": "1"}, "prompt_completion", QA),
]


@pytest.mark.parametrize(
    ("record", "format", "said"), [case[1:] for case in SETS], ids=[case[0] for case in SETS]
)
def test_a_set_is_read_as_what_it_is(tmp_path: Path, record: dict[str, Any], format: str, said: str) -> None:
    data = import_records(tmp_path, [record, record])

    assert data.report.format == format
    assert outcomes(data, 1) == [[said]]


@pytest.mark.parametrize(
    "record",
    [
        {"question": "q", "human_answers": ["a"], "machine_answers": ["b"]},
        {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": -2},
        {"translation": {"en": "q", "fr": "a"}},
        {"role_1": "r", "topic": "t", "message_1": "q", "message_2": "a"},
    ],
)
def test_a_set_that_nobody_could_guess_is_refused_with_its_columns(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    with pytest.raises(StudioError, match=f"no column of '{next(iter(record))}'") as error:
        import_records(tmp_path, [record, record])

    assert "--map" in error.value.hint
