"""Requests in OpenAI's format: what we do of it, and what is refused by name."""

from __future__ import annotations

import msgspec
import pytest

from qlora_studio.errors import StudioError
from qlora_studio.protocol.openai import LONGEST_STOP_WORD, MOST_MESSAGES, chat_request

MESSAGES = [{"role": "user", "content": "Why?"}]


def request(**fields):
    return chat_request(msgspec.json.encode({"model": "base", "messages": MESSAGES} | fields))


def test_what_is_left_out_is_as_openai_has_it():
    sampling = request().sampling
    assert (sampling.greedy, sampling.temperature, sampling.top_p, sampling.top_k) == (False, 1.0, 1.0, 0)
    assert request().stop_words == ()


def test_settings_are_taken_as_the_engine_has_them():
    asked = request(
        temperature=0.2, top_p=0.5, seed=-1, max_tokens=7, stop=["\n\n", ""], user="me", presence_penalty=1
    )
    assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.max_tokens) == (0.2, 0.5, 7)
    assert 0 <= asked.sampling.seed < 2**31
    assert asked.stop_words == ("\n\n",)
    assert request(max_completion_tokens=9).sampling.max_tokens == 9
    assert request(stop="END").stop_words == ("END",)
    assert request(stop="x" * LONGEST_STOP_WORD).stop_words == ("x" * LONGEST_STOP_WORD,)


def test_without_a_seed_each_request_draws_its_own_and_a_seed_stays():
    drawn = {request().sampling.seed for _ in range(20)}
    assert len(drawn) > 1
    assert all(0 <= seed < 2**31 for seed in drawn)
    assert {request(seed=seed).sampling.seed for seed in (0, 7, 2**31 + 7)} == {0, 7}


def test_a_temperature_of_zero_is_greedy():
    assert request(temperature=0).sampling.greedy


def test_a_message_in_parts_is_one_text():
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]
    assert request(messages=[{"role": "user", "content": parts}]).messages[0].text == "Why?"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": []}, "messages must be"),
        ({"messages": MESSAGES * (MOST_MESSAGES + 1)}, "messages must be"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "last message must be the user's"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "can't be read"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "can't be read"),
        ({"n": 2}, "n must be 1"),
        ({"tools": [{"type": "function"}]}, "Tools are not called"),
        ({"stop": list("abcde")}, "up to 4"),
        ({"stop": "x" * (LONGEST_STOP_WORD + 1)}, "1,000 characters"),
        ({"stop": ["END", "x" * 900_000]}, "1,000 characters"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 10**9}, "max_tokens"),
        ({"stream": "yes"}, "can't be read"),
    ],
)
def test_what_we_do_not_do_is_refused_by_name(fields, words):
    with pytest.raises(StudioError, match=words):
        request(**fields)


@pytest.mark.parametrize("field", ["metadata", "tools"])
def test_lists_in_lists_without_end_are_refused(field):
    with pytest.raises(StudioError, match="can't be read"):
        chat_request(b'{"%s": %s' % (field.encode(), b"[" * 100_000))


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(StudioError, match="can't be read"):
        chat_request(b'{"model": "\xff"}')
