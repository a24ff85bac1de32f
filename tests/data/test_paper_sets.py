"""The QLoRA paper's eight data sets, in sample files of our own: found by content, and trained as it says.

source, target: what the official code (artidoro/qlora) makes of a row, without the frame that it puts round
                Alpaca's instructions
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_studio.data.dataset import Dataset
from tests.data.formats.outcomes import add_up, trained
from tests.data.imported_files import import_path

FOLDER = Path(__file__).parent / "paper_sets"
Pair = tuple[str, str]  # source and target


def alpaca(row: dict[str, Any]) -> Pair:
    return "\n\n".join(filter(None, (row["instruction"], row["input"]))), row["output"]


def self_instruct(row: dict[str, Any]) -> Pair:
    return row["prompt"], row["completion"].removesuffix("<|endoftext|>").strip()  # the template has its own


def unnatural_instructions(row: dict[str, Any]) -> Pair:
    (instance,) = row["instances"]
    return instance["instruction_with_input"], instance["output"]


def chip2(row: dict[str, Any]) -> Pair:
    asked, answered = row["text"].split("\n<bot>: ")
    return asked.replace("<human>: ", ""), answered


PAIRS: dict[str, tuple[str, Callable[[dict[str, Any]], Pair]]] = {
    "alpaca": ("alpaca", alpaca),
    "self_instruct": ("self_instruct", self_instruct),
    "unnatural_instructions": ("unnatural_instructions", unnatural_instructions),
    "flan_v2": ("flan", lambda row: (row["inputs"], row["targets"])),
    "chip2": ("chip2", chip2),
    "longform": ("longform", lambda row: (row["input"], row["output"])),
}
TALKS = {"oasst1": "oasst", "guanaco": "oasst", "hh_rlhf": "hh_rlhf"}


def records(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()]


def imported(name: str) -> Dataset:
    return import_path(FOLDER / f"{name}.jsonl")


def chatml(*turns: Pair) -> str:
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


@pytest.mark.parametrize("name", [*PAIRS, *TALKS])
def test_a_set_is_found_by_its_content_and_every_record_is_accounted_for(name):
    data = imported(name)
    rows_in, _, _, _, conversations = add_up(data)
    assert data.report.format == (PAIRS[name][0] if name in PAIRS else TALKS[name])
    assert rows_in == len(records(name)) >= 20
    assert conversations == 22


@pytest.mark.parametrize("name", PAIRS)
def test_source_and_target_of_every_row_are_those_of_the_official_code(tmp_path, name):
    turn = PAIRS[name][1]
    for row, record in zip(imported(name), records(name), strict=True):
        source, target = turn(record)
        text, learned = trained(tmp_path, row)
        assert text == chatml(("user", source), ("assistant", target))
        assert learned == target


def talk(number: int) -> tuple[str, str]:
    """What is asked and answered in the files of talks."""
    asked, _, answered = records("chip2")[number]["text"].partition("\n<bot>: ")
    return asked.removeprefix("<human>: "), answered


@pytest.mark.parametrize("name", ["oasst1", "guanaco"])
def test_of_oasst_the_best_reply_at_each_level_is_a_row_as_in_the_guanaco_set(tmp_path, name):
    for number, row in enumerate(imported(name)):
        asked, answered = talk(number)
        sure = f"Yes, {answered.removeprefix('It is ')}"
        whole = chatml(
            ("user", asked), ("assistant", answered), ("user", "Are you sure?"), ("assistant", sure)
        )
        assert trained(tmp_path, row) == (whole, answered + sure)
        text, learned = trained(tmp_path, row, train_on="everything")
        assert text == whole
        assert f"{asked}" in learned  # the whole text is the target there
        assert answered in learned


def test_of_hh_rlhf_the_chosen_talk_is_learned(tmp_path):
    for number, row in enumerate(imported("hh_rlhf")):
        asked, answered = talk(number)
        text, learned = trained(tmp_path, row)
        assert text == chatml(
            ("user", asked),
            ("assistant", answered),
            ("user", "Thank you."),
            ("assistant", "You are welcome."),
        )
        assert learned == f"{answered}You are welcome."
        assert "Ask somebody else" not in text
        assert [message.content for message in row.rejected][-1] == "Ask somebody else."


def test_reworded_instructions_are_rows_where_all_alternatives_are_asked_for():
    reworded = sum(bool(record["reformulations"]) for record in records("unnatural_instructions"))
    path = FOLDER / "unnatural_instructions.jsonl"
    assert len(import_path(path, alternatives="all")) == 22 + reworded
