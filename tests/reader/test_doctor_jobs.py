"""The doctor's findings and a saved copy, asked over the pipe."""

import pytest

from qlora_studio.config.data_parts import Fix
from qlora_studio.config.run_config import DataConfig
from qlora_studio.errors import StudioError
from qlora_studio.protocol import reading
from qlora_studio.protocol.lines import ANSWERS, REQUESTS
from qlora_studio.reader.jobs import Jobs
from tests.data.tiny_tokenizer import CHATML
from tests.reader.whole_model import chats_file, whole_model


@pytest.fixture
def heard():
    return []


@pytest.fixture
def jobs(heard):
    return Jobs(heard.append)


def imported(jobs, file, **how):
    return jobs.answer(reading.ImportData(id=1, data=DataConfig(path=str(file), **how)))


def test_findings_come_over_the_pipe_and_their_rows_can_be_shown(jobs, tmp_path):
    file = chats_file(tmp_path / "chats.jsonl", 3, answer="I'm sorry, but I can't help with that. {i}")
    data = DataConfig(path=str(file))
    dataset = imported(jobs, file).dataset
    request = reading.Diagnose(id=2, dataset=dataset, data=data)

    answer = jobs.answer(REQUESTS.decode(REQUESTS.encode(request)))
    (finding,) = ANSWERS.decode(ANSWERS.encode(answer)).findings
    shown = jobs.answer(reading.ShowRows(id=3, dataset=dataset, start=1, count=9, only=finding.rows))

    assert (answer.rows, finding.kind, finding.fix) == (3, "refusals", Fix(kind="refusals"))
    assert ([row.row for row in shown.rows], shown.total) == ([1, 2], 3)


def test_with_a_model_rows_without_anything_to_learn_are_told(jobs, tmp_path):
    model = whole_model(tmp_path / "tiny", CHATML)
    file = chats_file(tmp_path / "chats.jsonl", 3, answer="a" * 300 + "{i}")
    data = DataConfig(path=str(file), seq_len=64)

    answer = jobs.answer(
        reading.Diagnose(id=2, dataset=imported(jobs, file).dataset, data=data, model=str(model))
    )

    assert [finding.kind for finding in answer.findings] == ["too_long"]


def test_every_kind_with_many_rows_fits_a_line(jobs, tmp_path):  # S13
    texts = "I'm sorry, but I can't help. jane@gmail.com AKIAQ7RT2MNOPX5WZ3LB â€™ {i}"
    dataset = imported(
        jobs, chats_file(tmp_path / "chats.jsonl", 3000, question="hello?", answer=texts)
    ).dataset

    answer = jobs.answer(reading.Diagnose(id=2, dataset=dataset, data=DataConfig()))

    assert max(len(finding.rows) for finding in answer.findings) == 1000
    assert len(ANSWERS.encode(answer)) < 500_000


def test_a_long_look_tells_how_far_it_is(jobs, heard, tmp_path):
    dataset = imported(jobs, chats_file(tmp_path / "chats.jsonl", 50)).dataset
    heard.clear()

    jobs.answer(reading.Diagnose(id=2, dataset=dataset, data=DataConfig()))

    assert {"Reading words", "Reading texts"} <= {progress.words for progress in heard}


def test_a_copy_is_saved_once(jobs, tmp_path):
    recipe = (Fix(kind="rows", rows=(0,)),)
    dataset = imported(jobs, chats_file(tmp_path / "chats.jsonl", 3), recipe=recipe).dataset
    request = reading.SaveCopy(id=2, dataset=dataset, path=str(tmp_path / "copy.jsonl"))

    saved = jobs.answer(request)

    assert (saved.rows, saved.path) == (2, str(tmp_path / "copy.jsonl"))
    assert imported(jobs, tmp_path / "copy.jsonl").report.sha256 == saved.sha256
    with pytest.raises(StudioError, match="there already"):
        jobs.answer(request)
