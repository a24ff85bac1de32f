"""Rows for the eye: as many as a line of the pipe holds."""

import json

import pytest

from qlora_studio.config.run_config import DataConfig
from qlora_studio.errors import StudioError
from qlora_studio.protocol import reading
from qlora_studio.protocol.lines import ANSWERS
from qlora_studio.reader.jobs import Jobs, Progress
from tests.data.tiny_tokenizer import CHATML, model_folder
from tests.reader.whole_model import chats_file


@pytest.fixture
def jobs():
    return Jobs(lambda answer: None)


def imported(jobs, file):
    return jobs.answer(reading.ImportData(id=1, data=DataConfig(path=str(file)))).dataset


def test_a_page_of_rows_always_fits_a_line(jobs, tmp_path):  # S13
    dataset = imported(jobs, chats_file(tmp_path / "long.jsonl", 9, answer="{i}" + "x" * 300_000))

    shown = jobs.answer(reading.ShowRows(id=2, dataset=dataset, start=0, count=9))

    ANSWERS.encode(shown)
    assert shown.total == 9
    assert len(shown.rows) >= 1
    assert len(shown.rows[0].messages[1].content) == 10_000


def test_rows_are_found_by_their_text(jobs, tmp_path):
    dataset = imported(jobs, chats_file(tmp_path / "chats.jsonl", 20))

    shown = jobs.answer(reading.ShowRows(id=2, dataset=dataset, start=0, count=50, search="ANSWER 7"))

    assert ([row.row for row in shown.rows], shown.total) == ([7], 1)


def test_a_long_row_is_shown_in_pages_of_tokens(jobs, tmp_path):
    model = str(model_folder(tmp_path / "model"))
    dataset = imported(jobs, chats_file(tmp_path / "long.jsonl", 1, answer="x" * 12_000))

    def page(start):
        data = DataConfig(seq_len=100_000)
        return jobs.answer(
            reading.ShowTokens(id=2, dataset=dataset, model=model, data=data, row=0, start=start)
        )

    pages = [page(0), page(5000), page(10000)]

    assert [len(item.tokens) for item in pages] == [5000, 5000, pages[0].total - 10_000]
    assert "".join(token.text for item in pages for token in item.tokens) == pages[0].text


def test_a_row_that_the_template_refuses_says_why(jobs, tmp_path):
    picky = (
        CHATML + "{% if messages[0].content == 'hello 1?' %}{{ raise_exception('Not this one') }}{% endif %}"
    )
    model = str(model_folder(tmp_path / "model", template=picky))
    dataset = imported(jobs, chats_file(tmp_path / "chats.jsonl", 3))

    with pytest.raises(StudioError, match=r"Line 2: .*Not this one"):
        jobs.answer(reading.ShowTokens(id=2, dataset=dataset, model=model, data=DataConfig(), row=1))


def test_a_row_that_is_not_there_is_refused(jobs, tmp_path):
    dataset = imported(jobs, chats_file(tmp_path / "chats.jsonl", 3))

    with pytest.raises(StudioError, match="no row 3"):
        jobs.answer(reading.ShowTokens(id=2, dataset=dataset, model="x", data=DataConfig(), row=3))


def test_lengths_count_what_the_limit_costs(jobs, tmp_path):
    model = str(model_folder(tmp_path / "model"))
    lines = [{"question": "hello", "answer": "x" * n} for n in (10, 100, 200)]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    counted = jobs.answer(
        reading.CountTokens(id=2, dataset=imported(jobs, file), model=model, data=DataConfig(seq_len=100))
    )

    assert (counted.too_long, sum(counted.bins)) == (2, 3)
    assert counted.lengths.learned_tokens == 10 + 100 + 200 + 3


def test_progress_is_said_at_most_ten_times_a_second():
    said = []
    progress = Progress(7, said.append)

    for i in range(1000):
        progress(i, 1000, "Counting")

    assert [(item.id, item.done, item.words) for item in said][:1] == [(7, 0, "Counting")]
    assert len(said) <= 3
