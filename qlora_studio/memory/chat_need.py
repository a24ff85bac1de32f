"""What a model takes that is loaded for a chat: said beside a run, and refused where it can't fit."""

from __future__ import annotations

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import LoraConfig, ModelConfig, RunConfig
from qlora_studio.memory.parts import never_estimated
from qlora_studio.memory.promise import GIB, promise

_SMALL = LoraConfig(r=8)  # what adapter will answer isn't known when the base is loaded


def chat_bytes(shape: ModelShape, model: ModelConfig, device: str, free_bytes: int) -> int:
    """Weights, a text as long as a row and its work; not the engine itself, or its context on a card.

    device:     "cuda" | "cpu"
    free_bytes: of it; a processor keeps dequantized copies only where there is room
    """
    config = RunConfig(model=model, lora=_SMALL)
    phases = promise(shape, config, device=device, free_bytes=free_bytes, ways=False).phases
    return phases["chat"] - never_estimated(device)


def need_words(needed: int, free_bytes: int) -> str:
    """For a person; a full stop is theirs to add."""
    return f"needs about {needed / GIB:.1f} GiB; {free_bytes / GIB:.1f} GiB are free"
