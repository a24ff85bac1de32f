"""What goes over the pipe: one object a line, known types, never too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlora_studio.config.run_config import DataConfig, RunConfig
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.lines import ANSWERS, COMMANDS, EVENTS, REQUESTS, BrokenLineError


def test_a_message_comes_back_as_it_was_said():
    request = reading.PrepareRun(id=7, config=RunConfig(), name="first", runs_dir="/runs")
    command = commands.Generate(id=1, prompt_ids=(1, 2, 3), sampling=commands.Sampling(greedy=True))

    assert REQUESTS.decode(REQUESTS.encode(request)) == request
    assert COMMANDS.decode(COMMANDS.encode(command)) == command


def test_a_message_carries_its_type_by_the_name_that_scripts_rely_on():
    line = EVENTS.encode(events.CheckpointSaved(step=3, path="p", time=0.0))

    assert line == b'{"type":"checkpoint_saved","step":3,"path":"p","time":0.0}\n'


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b'{"type":"nothing_known"}',
        b'{"type":"saving","step":"three"}',
        b'{"type":"saving"}',
        b"[" * 100_000,
        b'{"type":"saving","step":1}' + b" " * 1_000_000,
        b"\xff",
        b'{"type":"engine_ready","device_name":"\xe1("}',
        b'{"type":"\xff"}',
    ],
)
def test_a_line_that_is_no_message_is_named_as_such(line: bytes):  # S13
    with pytest.raises(BrokenLineError):
        EVENTS.decode(line)


@pytest.mark.parametrize("path", ["a\udcff\udc80.jsonl", "\ud800", "\udfff\U0001f600 "])
def test_names_that_are_no_utf_8_arrive_as_they_are(path: str):  # D11 S13
    request = reading.ImportData(id=1, data=DataConfig(path=path, map={path: "a"}))
    assert REQUESTS.decode(REQUESTS.encode(request)) == request


def test_a_message_too_long_to_be_read_is_not_sent():  # S13
    with pytest.raises(BrokenLineError):
        COMMANDS.encode(commands.Train(run="r" * 1_000_001))


@pytest.mark.fault(29)
@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_of_lines_fail_otherwise(line: bytes):  # S13
    try:
        ANSWERS.decode(line)
    except BrokenLineError:
        return
