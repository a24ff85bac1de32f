"""Which runs have their layers compiled on a card, play them as CUDA graphs, multiply in fp8 and keep weights
dequantized there: the engine does it, the promise counts with it, and the window asks for what has a meaning.
"""

from __future__ import annotations

from collections.abc import Mapping

from qlora_studio.config.adapter_layers import differs_by_layer
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import HOST, PREFERENCES, RunConfig

_NAMED = 3  # layers in a sentence
# transformers looks at the positions to choose between these rotations, up to some version of 5 at longrope
# too, and no recording gets past a look.
_CHOSEN_ROTATIONS = frozenset(("dynamic", "longrope"))
_FP32 = 4  # bytes
_MOST_KEPT = 2**30  # bytes of gradients: what graphs may cost, chosen and not measured
# Attention that isn't computed over packed rows at once: it bends the scores, or drops some by default.
_OTHER_ATTENTION = {
    "gemma2": "its attention bends the scores",
    "gpt2": "its attention drops some of the scores",
}
LAYERS_FOR_WEIGHTS = "layers would have to be recomputed for them"


def not_compiled_reason(family: str, config: RunConfig) -> str | None:
    """In words for the log; None where settings and architecture allow it."""
    if config.training.compile == "off":
        return "compiling is off"
    if not config.data.packing:
        return "rows that aren't packed come in ever new shapes"
    if config.model.quantization == "int8":
        return "int8 layers can't be compiled"
    if config.model.compute_dtype == "float32":
        return "flash attention takes no float32"
    if config.trains_all:
        return "all weights learn"  # graphs are made for frozen ones
    if config.training.method in PREFERENCES:
        return "where answers are preferred they also run without the adapter"
    if config.lora.use_dora:
        return "DoRA layers run as peft has them"
    if differs_by_layer(config.lora):
        return "layers of many ranks would each be compiled by themselves"
    return _OTHER_ATTENTION.get(family)


def uncompiled(reason: str | None) -> str | None:
    """What follows of `not_compiled_reason` for what is done in compiled layers alone."""
    return f"layers aren't compiled ({reason})" if reason is not None else None


def not_graphed_reason(shape: ModelShape, config: RunConfig, trained: int) -> str | None:
    """Why compiled layers aren't played as CUDA graphs; None where model and settings allow it.

    trained: numbers that learn; their gradients stay beside the activations then
    """
    if chosen := shape.rotations & _CHOSEN_ROTATIONS:
        return f"{min(chosen)} rotation looks at the positions"
    if config.training.recompute == HOST:
        return "inputs of layers go to RAM and back"
    if config.lora.dropout or shape.drops:
        return "nobody tried yet whether dropout draws the same there"  # R3
    kept = _FP32 * trained
    return f"{kept / 2**30:.1f} GiB of gradients would stay" if kept > _MOST_KEPT else None


def not_fp8_reason(family: str, config: RunConfig) -> str | None:
    """Why frozen weights are multiplied in 16 bit; None where settings and architecture allow fp8 (a card may
    not: `CardReading.multiplies_in_fp8`).
    """
    if config.model.quantization not in ("nf4", "fp4"):
        return "only 4-bit weights are multiplied in fp8"
    if config.model.compute_dtype in ("float16", "float32"):
        # On Ada torch's products with scales a row come out in bfloat16 alone. Cards where "auto" is another
        # dtype have no fp8.
        return f"beside fp8 all else is computed in bfloat16, not in {config.model.compute_dtype}"
    return uncompiled(not_compiled_reason(family, config))


def not_in_ram_reason(shape: ModelShape, config: RunConfig) -> str | None:
    """Why the embedding stays on a card."""
    if shape.decoder is not None:
        return "it's an encoder-decoder"
    if shape.tied:
        return "it's the head too"
    return "all weights learn" if config.trains_all else None


def embedding_stays(reason: str) -> str:
    """What is said where it was to lie in RAM and doesn't."""
    return f"The embedding stays on the card: {reason}."


def not_kept_dequantized_reason(family: str, config: RunConfig) -> str | None:
    """Why frozen weights don't stay dequantized on a card."""
    if config.model.quantization not in ("nf4", "fp4"):
        return "only 4-bit ones are"
    if config.training.fp8 and not_fp8_reason(family, config) is None:
        return "training.fp8 is on, whose products are made of their codes"
    return uncompiled(not_compiled_reason(family, config))


def keeps_dequantized(family: str, config: RunConfig) -> bool:
    """Whether frozen weights stay dequantized on a card, as asked."""
    return config.training.keep_dequantized and not_kept_dequantized_reason(family, config) is None


def not_kept_dequantized(reason: str) -> str:
    """What is said where weights were to stay dequantized and don't."""
    return f"Weights aren't kept dequantized: {reason}."


def in_16_bit(reason: str) -> str:
    """What is said where fp8 was asked for and isn't so."""
    return f"Products are made in 16 bit, not in fp8: {reason}."


def partly_in_16_bit(count: int, refused: Mapping[str, str]) -> str:
    """The same of some linear layers. count: of those in fp8; refused: name -> why one isn't; not empty"""
    named = ", ".join(f"{name} ({reason})" for name, reason in list(refused.items())[:_NAMED])
    more = f" and {len(refused) - _NAMED:,} more" if len(refused) > _NAMED else ""
    in_fp8 = f"{count:,} linear {'layer' if count == 1 else 'layers'}"
    stay = f"{len(refused):,} {'stays' if len(refused) == 1 else 'stay'} in 16 bit"
    return f"Products are made in fp8 in {in_fp8}; {stay}: {named}{more}."
