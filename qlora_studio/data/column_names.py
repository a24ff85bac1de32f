"""What the columns of each format are usually called."""

from __future__ import annotations

from collections.abc import Mapping

Names = dict[str, str]  # field -> the names its column has, the usual ones first, with blanks between

CHAT_COLUMNS = (
    *("messages", "conversations", "conversation", "dialogue", "dialog", "dialogs", "turns", "chat", "chats"),
    *("items", "data", "utterances", "thread"),
)
_BESIDE: Names = {
    "system": "system system_prompt system_message system_instruction systeminstruction",
    "tools": "tools functions",
    "media": "images image videos video audios audio",
}
_BEFORE: Names = _BESIDE | {"history": "history"}

_ANSWERS = (
    "answer answers response output completion correct_answer best_answer answerkey answer_key answer_text "
    "correct solution target"
)
SUMMARIES = ("summary", "highlights")  # no instruction asks for them: what they mean is a guess
PLAIN_TEXT = "plain_text"  # a file of this column alone holds texts as they are, whatever stands in them
_TEXTS = (
    "text content document body raw_content raw_text article story passage markdown code source_code "
    f"{PLAIN_TEXT}"
)

# What a format must have, a line a shape; what a person maps by hand is completed by these names
SHAPES: Mapping[str, tuple[Names, ...]] = {
    "messages": ({"messages": " ".join(CHAT_COLUMNS)},),
    "sharegpt": ({"messages": "conversations conversation items messages"},),
    "alpaca": ({"prompt": "instruction instructions", "answer": "output response completion answer target"},),
    "question_answer": (
        {"prompt": "question questions question_text question_stem", "answer": _ANSWERS},
        {"prompt": "problem", "answer": "solution answer response output"},
        {"prompt": "title", "answer": "answers"},
    ),
    "flan": (
        {"prompt": "inputs", "answer": "targets"},
        {"prompt": "inputs_pretokenized", "answer": "targets_pretokenized"},
    ),
    "longform": ({"prompt": "input", "answer": "output", "source": "source", "subset": "subset"},),
    "prompt_completion": (
        {"prompt": "prompt", "answer": "completion response answer output target reply answers"},
        {"prompt": "input inputs", "answer": "output outputs target targets response"},
        {"prompt": "query", "answer": "response answer answers output"},
        {"prompt": "user human", "answer": "assistant gpt bot"},
        {"prompt": "source", "answer": "target"},
        {"prompt": "context", "answer": "response"},
        {"prompt": "document article dialogue text", "answer": " ".join(SUMMARIES)},
    ),
    "self_instruct": (
        {"prompt": "instruction", "instances": "instances"},
        {"prompt": "prompt", "answer": "completion"},
    ),
    "unnatural_instructions": ({"instances": "instances"},),
    "oasst": (
        {"id": "message_id", "parent": "parent_id", "text": "text", "role": "role"},
        {"tree": "prompt"},
        {"text": "text"},
    ),
    "chip2": ({"text": "text"},),
    "hh_rlhf": (
        {"chosen": "chosen", "rejected": "rejected"},
        {"prompt": "prompt", "answer": "response completion answer output answers"},
        {"text": "text transcript"},
    ),
    "preference": (
        {"chosen": "chosen", "rejected": "rejected"},
        {"first": "", "second": "", "better": ""},
        {"first": "", "second": "", "first_score": "", "second_score": ""},
    ),
    "kto": (
        {
            "prompt": "prompt instruction question input query",
            "answer": "completion response answer output",
            "label": "label kto_tag",
        },
        {"messages": "messages conversations conversation", "label": "label kto_tag"},
    ),
    "text": ({"text": _TEXTS},),
}
OPTIONAL: Mapping[str, Names] = {
    "messages": _BESIDE,
    "sharegpt": _BESIDE,
    "alpaca": {"input": "input context"} | _BEFORE,
    "question_answer": {
        "context": "context passage support paragraph evidence background",
        "choices": "choices options",
        "input": "selftext",
        **_BEFORE,
    },
    "flan": {"context": "definition"},
    "prompt_completion": _BEFORE,
    "unnatural_instructions": {"prompt": "instruction", "reformulations": "reformulations"},
    "oasst": {"rank": "rank", "deleted": "deleted", "review": "review_result", "state": "tree_state"},
    "hh_rlhf": {"prompt": "prompt"},
    "preference": {
        "prompt": "prompt instruction question query input context post history problem user",
        "input": "input",
        "messages": "conversations messages conversation",
        **_BEFORE,
    },
    "kto": {"input": "input context"} | _BEFORE,
}
_ALL_NAMES = (*(names for shapes in SHAPES.values() for names in shapes), *OPTIONAL.values())
FIELDS = tuple(dict.fromkeys(field for names in _ALL_NAMES for field in names))
