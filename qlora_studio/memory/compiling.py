"""Which runs have their layers compiled on a card: the engine does it, and the promise counts with it."""

from __future__ import annotations

from qlora_studio.config.adapter_layers import differs_by_layer
from qlora_studio.config.run_config import PREFERENCES, RunConfig

# Attention that isn't computed over packed rows at once: it bends the scores, or drops some by default.
_OTHER_ATTENTION = {
    "gemma2": "its attention bends the scores",
    "gpt2": "its attention drops some of the scores",
}


def not_compiled_reason(family: str, config: RunConfig) -> str | None:
    """In words for the log; None where settings and architecture allow it."""
    if config.training.compile == "off":
        return "compiling is off"
    if not config.data.packing:
        return "rows that aren't packed come in ever new shapes"
    if config.model.quantization == "int8":
        return "int8 layers can't be compiled"
    if config.trains_all:
        return "all weights learn"  # graphs are made for frozen ones
    if config.training.method in PREFERENCES:
        return "where answers are preferred they also run without the adapter"
    if config.lora.use_dora:
        return "DoRA layers run as peft has them"
    if differs_by_layer(config.lora):
        return "layers of many ranks would each be compiled by themselves"
    return _OTHER_ATTENTION.get(family)
