"""What the terminal says about base and adapter on the same questions."""

from __future__ import annotations

import json

import msgspec

from qlora_studio.cli.evaluating import SHOWN_CHANGES, comparison_lines
from qlora_studio.cli.main import parse, run_command
from qlora_studio.cli.runs import evaluation_lines
from qlora_studio.protocol.evaluation_report import evaluation_of
from qlora_studio.protocol.events import BaseComparison, EvaluationReport
from qlora_studio.runs.evaluations import EVALUATIONS_FILE, ChangedRow
from tests.ui.example_runs import Example, make_run

COMPARED = BaseComparison(
    questions=400,
    base_right=152,
    adapter_right=165,
    gained=21,
    lost=8,
    low=0.0075,
    high=0.0575,
    p_value=0.0241,
    changed=(ChangedRow(row=12, question="The group\u202e of order 4?", right="A", base="C", adapter="A"),),
)


def test_both_shares_and_how_sure_the_difference_is_are_said():
    assert comparison_lines(COMPARED)[:3] == [
        "base model 38.0%, after training 41.2%: +3.2 points",
        "95% interval +0.8 to +5.8 points (paired bootstrap); "
        "so uneven a split comes by chance in 2.4% of such tests (exact McNemar)",
        "21 questions right only after training, 8 questions only before",
    ]


def test_a_question_that_changed_is_named_with_its_letters():  # S8
    assert comparison_lines(COMPARED)[3] == (
        "  row 13: C became A, A is right. The group<U+202E> of order 4?"
    )


def test_of_many_changes_the_first_are_shown_and_the_others_counted():
    many = msgspec.structs.replace(COMPARED, changed=COMPARED.changed * (SHOWN_CHANGES + 15))
    lines = comparison_lines(many)
    assert len(lines) == 3 + SHOWN_CHANGES + 1
    assert lines[-1] == "  and 15 more; --json has them"


def test_nothing_that_changed_is_no_minus_and_no_certainty():
    same = msgspec.structs.replace(
        COMPARED, adapter_right=152, gained=0, lost=0, low=0.0, high=0.0, p_value=1.0, changed=()
    )
    assert comparison_lines(same)[0].endswith("+0.0 points")
    assert "in 100.0% of such tests" in comparison_lines(same)[1]


REPORT = EvaluationReport(
    id=1,
    step=10,
    loss=1.25,
    perplexity=3.49,
    accuracy=0.4125,
    rows=400,
    learned_tokens=800,
    base_loss=1.75,
    comparison=COMPARED,
)


def test_a_run_shows_before_and_after_with_the_interval():
    head, line = evaluation_lines(
        [evaluation_of(msgspec.structs.replace(REPORT, step=2_250), "/data/mmlu.jsonl")]
    )
    assert " ".join(head.split()) == "evaluated on step rows loss right before after points (95%)"
    assert line.startswith("mmlu.jsonl ")
    assert " ".join(line.split()[1:12]) == "2,250 400 1.750 > 1.250 38.0% 41.2% +3.2 (+0.8 to +5.8)"


def test_of_one_file_and_step_the_last_evaluation_is_shown():
    first = evaluation_of(REPORT, "a.jsonl")
    again = msgspec.structs.replace(first, loss=1.5)
    other = evaluation_of(msgspec.structs.replace(REPORT, step=20), "a.jsonl")
    lines = evaluation_lines([first, again, other])
    assert [line.split()[5] for line in lines[1:]] == ["1.500", "1.250"]


def test_without_a_comparison_only_the_adapter_is_shown():
    alone = msgspec.structs.replace(REPORT, comparison=None, accuracy=None)
    line = evaluation_lines([evaluation_of(alone, "b.jsonl")])[1]
    assert "%" not in line
    assert evaluation_lines([]) == []


def test_evaluations_that_cannot_be_read_are_a_warning_beside_the_run(home, capsys):  # R6
    run = make_run(home / "runs", Example(steps=2, end="finished"))
    (run / EVALUATIONS_FILE).mkdir()
    assert run_command(parse(["runs", str(run)])) == 0
    assert f"warning: {run / EVALUATIONS_FILE} can't be read" in capsys.readouterr().out
    assert run_command(parse(["runs", str(run), "--json"])) == 0
    assert "can't be read" in json.loads(capsys.readouterr().out)["warnings"][0]
