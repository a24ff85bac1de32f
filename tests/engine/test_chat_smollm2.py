"""Chat and export with real weights: what it says is right, and what is exported says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.engine.exporting import export
from qlora_studio.engine.generation import Chat
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.models.shapes import model_shape
from qlora_studio.protocol.commands import Export, Generate, LoadModel, Sampling
from qlora_studio.protocol.events import ExportFinished, GenerationFinished
from tests.engine.tiny import CPU
from tests.engine.tuned_run import make_tuned_run

QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.slow
def test_smollm2_chats_by_base_and_adapter_and_is_merged(
    tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.engine.tuned_run.STRENGTH", 0.01)
    (encoded,) = load_tokenizer(smollm2).encode_rendered([QUESTION])
    prompt = tuple(encoded.ids.tolist())
    run = make_tuned_run(tmp_path, smollm2, model__compute_dtype="bfloat16", lora__r=8)
    holder = ModelHolder(CPU)
    chat = Chat(holder)
    list(chat.load(LoadModel(id=1, model=str(smollm2), compute_dtype="bfloat16")))

    def reply(adapter: Path | None) -> GenerationFinished:
        command = Generate(
            id=2,
            prompt_ids=prompt,
            adapter=str(adapter) if adapter else None,
            sampling=Sampling(greedy=True, max_tokens=12),
        )
        *_, finished = chat.answer(command, lambda: False)
        assert isinstance(finished, GenerationFinished)
        return finished

    first, tuned, again = reply(None), reply(run / "adapter"), reply(None)
    order = Export(id=3, run=str(run), to="merged", out=str(tmp_path / "out"), prompts=(prompt,))
    *_, exported = export(order, holder, lambda: False)

    assert "Paris" in first.reply
    assert again.reply == first.reply
    assert tuned.tokens
    assert isinstance(exported, ExportFinished)
    assert exported.verified.passed, exported.verified
    merged, base = (model_shape(str(folder)) for folder in (tmp_path / "out", smollm2))
    assert merged.parameters == base.parameters
    assert reply(None).reply == first.reply
