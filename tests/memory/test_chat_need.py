"""What a chat takes: weights as they are stored and one text, nothing of training."""

from __future__ import annotations

import pytest

from qlora_studio.config.run_config import ModelConfig
from qlora_studio.memory.chat_need import chat_bytes, need_words
from qlora_studio.models.shapes import known_shape

GIB = 2**30


@pytest.mark.parametrize(
    ("quantization", "low", "high"), [("nf4", 5.0, 7.0), ("int8", 8.0, 10.5), ("none", 15.0, 17.5)]
)
def test_an_8b_model_takes_its_weights_and_a_little(quantization, low, high):
    needed = chat_bytes(known_shape("llama-3.1-8b"), ModelConfig(quantization=quantization), "cuda", 80 * GIB)
    assert low < needed / GIB < high


def test_a_processor_with_little_room_keeps_no_dequantized_copies():
    shape = known_shape("smollm2-135m")
    roomy, tight = (chat_bytes(shape, ModelConfig(), "cpu", free) for free in (8 * GIB, GIB // 4))
    assert tight < roomy


def test_need_and_room_are_said_in_gib():
    assert need_words(int(6.25 * GIB), GIB // 2) == "needs about 6.2 GiB; 0.5 GiB are free"
