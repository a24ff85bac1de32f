"""The reader as a process: what it answers, what it survives, and when it is gone."""

import json
import sys
import time
from pathlib import Path

import msgspec
import pytest

from qlora_studio.config.run_config import DataConfig, ModelConfig, RunConfig
from qlora_studio.data.conversation import Message
from qlora_studio.protocol import reading
from qlora_studio.protocol.child import CLEARING_S, start_reader
from qlora_studio.reader import __main__ as main_module
from qlora_studio.runs.folder import open_run
from tests.reader.whole_model import chats_file, whole_model


@pytest.fixture
def reader():
    child = start_reader()
    yield child
    child.kill()
    child.wait()


def ask(reader, request):
    """The final answer; answers that aren't its own would fail here."""
    assert reader.say(request)
    for answer in reader.heard():
        if isinstance(answer, reading.ReaderReady):
            continue
        assert answer.id == request.id
        if not isinstance(answer, reading.Progress):
            return answer
    raise AssertionError(reader.end_in_words() + reader.log.read_text())


def test_from_a_file_to_a_run_without_torch(reader, tmp_path):
    model = str(whole_model(tmp_path / "model"))
    data = DataConfig(path=str(chats_file(tmp_path / "chats.jsonl")), seq_len=128, validation=0.1)
    config = RunConfig(model=ModelConfig(path=model), data=data)

    imported = ask(reader, reading.ImportData(id=1, data=data))
    shown = ask(reader, reading.ShowRows(id=2, dataset=imported.dataset, start=1, count=2))
    counted = ask(reader, reading.CountTokens(id=3, dataset=imported.dataset, model=model, data=data))
    tokens = ask(reader, reading.ShowTokens(id=4, dataset=imported.dataset, model=model, data=data, row=1))
    chat = ask(reader, reading.EncodeChat(id=5, model=model, messages=(Message("user", "hello 1?"),)))
    made = ask(
        reader,
        reading.PrepareRun(id=6, config=config, name="first", runs_dir=str(tmp_path / "runs")),
    )
    ready = ask(reader, reading.CheckResume(id=7, run=made.run))

    assert imported.report.imported == 40
    assert [row.row for row in shown.rows] == [1, 2]
    assert shown.total == sum(counted.bins) == 40
    assert "".join(token.text for token in tokens.tokens) == tokens.text
    assert tokens.text.startswith(chat.text)
    assert (chat.context, made.train_rows, made.validation_rows) == (512, 36, 4)
    assert open_run(tmp_path / "runs" / made.run).record.prepared.steps == made.steps > 0
    assert ready.step == 0
    assert "torch" not in loaded_libraries(reader.pid)  # nor libtorch.so
    assert "pandas" not in loaded_libraries(reader.pid)  # 0.4 s and some 40 MB, for nothing


def loaded_libraries(pid):
    return Path(f"/proc/{pid}/maps").read_text()


def test_a_refusal_names_the_file_and_the_reader_goes_on(reader, tmp_path):
    missing = DataConfig(path=str(tmp_path / "missing.jsonl"))
    good = DataConfig(path=str(chats_file(tmp_path / "chats.jsonl")))

    refused = ask(reader, reading.ImportData(id=1, data=missing))
    imported = ask(reader, reading.ImportData(id=2, data=good))

    assert "missing.jsonl" in refused.error.message
    assert imported.report.imported == 40


def test_a_test_file_that_is_not_utf_8_is_named_as_another_than_the_data(reader, tmp_path):  # D5
    file, test = tmp_path / "rows.jsonl", tmp_path / "test.jsonl"
    file.write_text('{"prompt": "Salut ?", "completion": "Voilà."}\n', "utf-8")
    test.write_text('{"prompt": "Où ?", "completion": "Là."}\n', "cp1252")
    data = DataConfig(path=str(file))
    imported = ask(reader, reading.ImportData(id=1, data=data))

    asked = reading.Diagnose(id=2, dataset=imported.dataset, data=data, test=str(test))
    refused = ask(reader, asked)
    again = ask(reader, msgspec.structs.replace(asked, id=3, test_encoding=refused.likely_encoding))

    assert (refused.likely_encoding, refused.beside) == ("windows-1252", str(test))
    assert isinstance(again, reading.Diagnosed)


def test_a_file_that_is_not_utf_8_is_refused_with_the_likely_encoding(reader, tmp_path):  # D5
    (tmp_path / "chats.csv").write_bytes("question,answer\nOù est le café ?,À côté".encode("cp1252"))
    data = DataConfig(path=str(tmp_path / "chats.csv"))

    refused = ask(reader, reading.ImportData(id=1, data=data))
    again = msgspec.structs.replace(data, encoding=refused.likely_encoding)
    imported = ask(reader, reading.ImportData(id=2, data=again))

    assert refused.likely_encoding == "windows-1252"
    assert imported.report.encoding == "windows-1252"


def test_a_bug_is_told_as_one_and_the_reader_goes_on(capfd):
    class Broken:
        def answer(self, request):
            raise KeyError("tokenizer")

    said = []
    main_module._answer(Broken(), reading.CheckModel(id=7, folder="x"), said.append)

    assert said[0].id == 7
    assert "bug" in said[0].error.hint
    assert "KeyError" not in said[0].error.message
    assert "KeyError: 'tokenizer'" in capfd.readouterr().err


@pytest.mark.fault(29)
def test_a_line_that_is_no_request_ends_the_reader(reader):  # S13
    reader._process.stdin.write(b'{"type": "format_disk"}\n')
    reader._process.stdin.flush()

    assert reader.wait(10) == 1


def test_the_reader_ends_with_its_input(reader):  # R7
    next(reader.heard())

    reader.hang_up()

    assert reader.wait(5) == 0


def test_the_reader_ends_with_its_input_in_the_middle_of_a_job(reader, tmp_path):  # R7
    data = DataConfig(path=str(chats_file(tmp_path / "chats.jsonl", count=200_000)))
    reader.say(reading.ImportData(id=1, data=data))
    next(answer for answer in reader.heard() if isinstance(answer, reading.Progress))

    reader.hang_up()

    assert reader.wait(2) == 0


def test_progress_is_told_about_ten_times_a_second(reader, tmp_path):
    data = DataConfig(path=str(chats_file(tmp_path / "chats.jsonl", count=60_000)))
    start = time.monotonic()
    reader.say(reading.ImportData(id=1, data=data))

    told = 0
    for answer in reader.heard():
        told += isinstance(answer, reading.Progress)
        if isinstance(answer, reading.DataImported):
            break

    assert 1 <= told <= 5 + 12 * (time.monotonic() - start)


@pytest.mark.fault(30)
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is the system's, on Linux alone")
def test_memory_is_limited(reader):  # D1
    next(reader.heard())

    limits = Path(f"/proc/{reader.pid}/limits").read_text().splitlines()
    (line,) = (line for line in limits if line.startswith("Max data size"))
    assert 2 * 2**30 <= int(line.split()[3]) < 4 * 2**30


def test_a_run_that_is_given_up_leaves_nothing_half_made(reader, tmp_path, home):
    model = str(whole_model(tmp_path / "model"))
    lines = "".join(json.dumps({"prompt": f"q {n}", "completion": f"a {n}"}) + "\n" for n in range(300_000))
    file = tmp_path / "many.jsonl"
    file.write_text(lines)
    config = RunConfig(model=ModelConfig(path=model), data=DataConfig(path=str(file)))
    reader.say(reading.PrepareRun(id=1, config=config, name="first", runs_dir=str(tmp_path / "runs")))
    next(said for said in reader.heard() if isinstance(said, reading.Progress) and said.done > 0)

    began = time.monotonic()
    reader.end()
    assert reader.wait(CLEARING_S) == 0
    assert time.monotonic() - began < CLEARING_S
    left = [path.name for path in (home / "cache").rglob(".*")]
    assert left == []
    assert not (tmp_path / "runs").exists()
