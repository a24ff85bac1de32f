"""What a newcomer sees without a display: the sample model trained on the sample data, before and after."""

from __future__ import annotations

from pathlib import Path

from qlora_studio.cli.chatting import Talk
from qlora_studio.cli.children import Engine, Reader
from qlora_studio.cli.output import Told, print_text
from qlora_studio.cli.training import follow_run, prepare_run
from qlora_studio.config import places
from qlora_studio.config.presets import sample_preset
from qlora_studio.config.run_config import SamplePrompt
from qlora_studio.data.conversation import Message
from qlora_studio.protocol import commands


def first_run() -> int:
    """Trains, then asks base and tuned model the same. Raises: StudioError."""
    config = sample_preset().config
    print_text("Training the bundled sample model on the bundled sample data.")
    with Told() as told, Engine(told) as engine:
        prepared = prepare_run(engine, told, config, "first-run", places.runs_folder(), accept_skipped=False)
        status, finished = follow_run(engine, Path(prepared.run), told, as_json=False)
        if not finished.adapter:
            print_text(f"It goes on with: qlora-studio resume {prepared.run}")
            return status
        before, after = finished.first_evaluation_loss, finished.evaluation_loss
        print_text(f"loss before {_loss(before)}, after {_loss(after)}")
        print_text(f"adapter: {finished.adapter}")
        if status == 0:
            with Reader(told) as reader:
                talk = Talk(engine, reader, config.model)
                talk.load(alone=False)
                for sample in config.samples[:1]:
                    print_text(f"question: {sample.prompt}")
                    print_text(f"base: {_reply(talk, None, sample)}")
                    print_text(f"tuned: {_reply(talk, finished.adapter, sample)}")
    return status


def _reply(talk: Talk, adapter: str | None, sample: SamplePrompt) -> str:
    sampling = commands.Sampling(greedy=True, max_tokens=sample.max_tokens)
    reply = talk.answer([Message("user", sample.prompt)], adapter, sampling).reply
    return " ".join(reply.split())


def _loss(loss: float | None) -> str:
    return "unknown" if loss is None else f"{loss:.3f}"
