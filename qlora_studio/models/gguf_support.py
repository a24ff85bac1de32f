"""Which families can be written as GGUF, and in which number formats."""

from __future__ import annotations

from qlora_studio.errors import StudioError

F16, Q8_0 = "f16", "q8_0"
QUANTS = (Q8_0, F16)  # the one to suggest first

# transformers' model_type -> GGUF's architecture. A family is here once its file was read back and compared.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}

_BITS = {F16: 16.0, Q8_0: 8.5}  # Q8_0: 32 numbers in 8 bits each share a scale in 16
_SMALL = 16 * 1024**2  # bytes: vocabulary, template, the vectors that stay in 32 bit


def gguf_bytes(parameters: int, quant: str) -> int:
    """What the file takes, about."""
    return int(parameters * _BITS[quant] / 8) + _SMALL


def check_family(family: str) -> None:
    """Raises: StudioError where no GGUF can be made of models of this `model_type`."""
    if family not in ARCHITECTURES:
        raise StudioError(
            f"A {family} model can't be written as GGUF here; {', '.join(ARCHITECTURES)} can.",
            hint="Export the merged model: llama.cpp's own converter may know the family.",
        )
