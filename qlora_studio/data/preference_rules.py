"""How pairs of answers and rated answers are known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from qlora_studio.data.chats import turns_of
from qlora_studio.data.column_names import OPTIONAL
from qlora_studio.data.pairs import are_turns
from qlora_studio.data.preferences import NEITHER_PREFERRED, preferred, rating
from qlora_studio.data.record import RecordError, named, nested
from qlora_studio.data.sampled_rows import Candidate, SampledRows
from qlora_studio.data.transcripts import MARKS, is_transcript

# What the better answer is called, and what then the worse one
_BETTER_WORSE = (
    *(("chosen", "rejected"), ("preferred", "dispreferred"), ("preferred", "non_preferred")),
    *(("preferred", "rejected"), ("accepted", "rejected"), ("better", "worse"), ("winning", "losing")),
    *(("winner", "loser"), ("response_j", "response_k")),
)
_NO_ANSWER = re.compile(r"(^|_)(model|score|rating|id|ids|logps?|rank|name|source|index|type|length)(_|$)")
_SIDE = re.compile(
    r"((?:response|answer|completion|output|conversation|summary|human_ref|reply|candidate|text)_?)([ab012])"
)
_OTHER = {"a": "b", "0": "1", "1": "2"}
_VERDICTS = (
    *("preference", "preferred", "winner", "better", "better_response_id", "better_response", "better_id"),
    *("chosen", "choice", "label", "labels", "preferred_response", "preferred_answer", "vote", "annotation"),
    "human_preference",
)
_FEW = 0.1
_RATINGS = (
    *("kto_tag", "label", "desirable", "is_desirable", "thumbs", "thumbs_up", "feedback", "is_good"),
    "binary_label",
)


def pairs_of_answers(rows: SampledRows) -> Iterator[Candidate]:
    """A column for the better answer and one for the worse."""
    found = next(_better_and_worse(rows), None)
    if found is None:
        return
    chosen, rejected = found["chosen"], found["rejected"]
    reason = f"{named(chosen)} and {named(rejected)} are a better and a worse answer."
    prompt = rows.by_name.get("prompt")
    if rows.mostly(chosen, lambda value: is_transcript(value, "hh_rlhf")):
        yield Candidate("hh_rlhf", found, f"{reason} They are talks with Human: and Assistant: in them.")
    elif prompt and rows.mostly(prompt, waits_for_assistant):
        yield Candidate("hh_rlhf", {"prompt": prompt, **found}, reason)
    yield Candidate("preference", _with_prompt(rows, found), reason)


def two_sides(rows: SampledRows) -> Iterator[Candidate]:
    """Two answers, and a column that says which is better, or a score for each."""
    for name, first in rows.by_name.items():
        side = _SIDE.fullmatch(name)
        other = _OTHER.get(side[2], "") if side else ""
        second = rows.by_name.get(f"{side[1]}{other}") if side and other else None
        if side is None or second is None or not (_hold_answers(rows, first) and _hold_answers(rows, second)):
            continue
        found = {"first": first, "second": second}
        words = f"{named(first)} and {named(second)} are two answers"
        verdicts = (rows.by_name[verdict] for verdict in _VERDICTS if verdict in rows.by_name)
        better = next((column for column in verdicts if _are_verdicts(rows, column, first, second)), None)
        scores = rows.find({"first_score": f"score_{side[2]}", "second_score": f"score_{other}"})
        if better:
            reason = f"{words}, and {named(better)} says which is better."
            yield Candidate("preference", _with_prompt(rows, {**found, "better": better}), reason)
        elif len(scores) == 2:
            reason = f"{words}; the one with the higher score is better."
            yield Candidate("preference", _with_prompt(rows, found | scores), reason)


def rated(rows: SampledRows, answers: Iterator[Candidate]) -> Iterator[Candidate]:
    """answers: how the rows can be read without their rating."""
    ratings = [rows.by_name[name] for name in _RATINGS if name in rows.by_name]
    label = next((column for column in ratings if _are_ratings(rows, column)), None)
    if label is None:
        return
    for found in answers:
        if label not in found.map.values():
            sure = label.lower() == "kto_tag" or found.map.get("prompt", "").lower() == "prompt"
            reason = f"{named(label)} rates each answer: true or 1 is good."
            yield Candidate("kto", {**found.map, "label": label}, reason, sure)


def waits_for_assistant(value: Any) -> bool:
    """Whether it is a talk up to an answer that isn't there."""
    ends = isinstance(value, str) and value.rstrip().endswith("Assistant:")
    return ends and MARKS["hh_rlhf"].match(value) is not None


def _better_and_worse(rows: SampledRows) -> Iterator[dict[str, str]]:
    for better, worse in _BETTER_WORSE:
        names = [name for name in rows.by_name if better in name and not _NO_ANSWER.search(name)]
        for name in sorted(names, key=lambda name: name != better):
            chosen, rejected = rows.by_name[name], rows.by_name.get(name.replace(better, worse))
            if rejected and _hold_answers(rows, chosen) and _hold_answers(rows, rejected):
                yield {"chosen": chosen, "rejected": rejected}


def _hold_answers(rows: SampledRows, column: str) -> bool:
    return rows.mostly(column, _is_answer)


def _is_answer(value: Any) -> bool:
    value = nested(value)
    return isinstance(value, str | dict) or are_turns(value)


def _with_prompt(rows: SampledRows, found: dict[str, str]) -> dict[str, str]:
    """Turns before the answers stand in a list or in a prompt, not in both."""
    beside = rows.find(OPTIONAL["preference"], found.values())
    turns = beside.pop("messages", None)
    if turns and "prompt" not in beside and not _are_whole_chats(rows, found):
        beside = {field: column for field, column in beside.items() if field not in ("input", "history")}
        beside["messages"] = turns
    return found | beside


def _are_whole_chats(rows: SampledRows, found: Mapping[str, str]) -> bool:
    def has_turns(value: Any) -> bool:
        turns = turns_of(value)
        return isinstance(turns, list) and len(turns) > 1

    return rows.mostly(found.get("chosen") or found["first"], has_turns)


def _are_verdicts(rows: SampledRows, column: str, first: str, second: str) -> bool:
    """Whether nearly each value names one of the two answers, or neither.

    Where many don't, those that do may mean something else: 1 of 0 and 1 isn't the first of 1 and 2.
    """
    said = [_verdict(value, first, second) for value in rows.values(column)]
    return "one" in said and said.count("") <= _FEW * len(said)


def _verdict(value: Any, first: str, second: str) -> str:
    try:
        preferred(value, first, second)
    except RecordError as error:
        return "neither" if str(error) == NEITHER_PREFERRED else ""
    return "one"


def _are_ratings(rows: SampledRows, column: str) -> bool:
    words = {str(value).strip().lower() for value in rows.values(column)}
    three_kinds = words & {"0", "0.0"} and words & {"-1", "-1.0"}  # bad, neutral and good
    return not three_kinds and rows.mostly(column, lambda value: rating(value) is not None)
