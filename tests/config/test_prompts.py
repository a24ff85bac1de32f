"""The questions that a written file and its adapter are compared on."""

from qlora_studio.config.prompts import CHECK_QUESTIONS, check_prompts


def test_a_runs_own_prompts_come_first_and_none_twice():
    own = ["Why?", CHECK_QUESTIONS[0], "Why?"]
    assert check_prompts(own) == ["Why?", *CHECK_QUESTIONS[:7]]


def test_there_are_no_more_than_asked_for():
    assert check_prompts([], 3) == list(CHECK_QUESTIONS[:3])
    assert check_prompts([str(number) for number in range(20)], 8) == [str(number) for number in range(8)]
