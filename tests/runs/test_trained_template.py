"""The template that a run was trained with is found again, and a difference is shown line by line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from qlora_studio.errors import StudioError
from qlora_studio.runs.folder import create_run
from qlora_studio.runs.trained_template import (
    refuse_other_template,
    template_difference,
    trained_template,
)
from tests.runs.example import RECORD

TRAINED = "{% for message in messages %}\n<|{{ message.role }}|>{{ message.content }}\n{% endfor %}\n"
NOW = TRAINED.replace("<|", "[").replace("|>", "]")
SHA256 = hashlib.sha256(TRAINED.encode()).hexdigest()


@pytest.fixture
def run(home):
    return create_run(home / "runs", RECORD, TRAINED)


def test_a_run_keeps_the_template_it_is_trained_with(run):
    assert trained_template(run, SHA256) == TRAINED


def test_of_older_runs_the_one_beside_the_adapter_counts(home):
    run = create_run(home / "runs", RECORD)
    assert trained_template(run, SHA256) is None
    (run / "adapter").mkdir()
    (run / "adapter" / "chat_template.jinja").write_text(TRAINED)
    assert trained_template(run, SHA256) == TRAINED


def test_one_that_was_changed_in_the_run_is_not_taken_for_the_trained_one(run):
    (run / "chat_template.jinja").write_text(NOW)
    assert trained_template(run, SHA256) is None


def test_a_difference_is_written_as_diff_writes_it():
    assert template_difference(TRAINED, NOW).splitlines() == [
        "--- trained with",
        "+++ there now",
        "@@ -1,3 +1,3 @@",
        " {% for message in messages %}",
        "-<|{{ message.role }}|>{{ message.content }}",
        "+[{{ message.role }}]{{ message.content }}",
        " {% endfor %}",
    ]
    assert template_difference(TRAINED, TRAINED) == template_difference(None, NOW) == ""
    assert template_difference("a\n", "a\r\n") == "Only the ends of lines differ."


def test_a_long_difference_is_cut_and_said_to_be():
    lines = template_difference("", "x\n" * 100).splitlines()
    assert len(lines) == 41
    assert lines[-1] == "… 63 more lines"


def test_another_template_is_refused_with_the_difference(run):
    refuse_other_template(run, SHA256, TRAINED, Path("/models/tiny"))
    refuse_other_template(run, "", NOW, Path("/models/tiny"))
    with pytest.raises(StudioError, match="of /models/tiny is another one than in training") as refused:
        refuse_other_template(run, SHA256, NOW, Path("/models/tiny"))
    assert "+[{{ message.role }}]" in refused.value.hint
