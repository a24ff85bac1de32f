"""Which families can be written as GGUF, and in which number formats."""

from __future__ import annotations

import importlib.util
import itertools

from qlora_studio.errors import StudioError

F16, Q8_0 = "f16", "q8_0"
Q6_K, Q5_K_M, Q4_K_M = "q6_k", "q5_k_m", "q4_k_m"
K_QUANTS = (Q6_K, Q5_K_M, Q4_K_M)
QUANTS = (Q8_0, F16, *K_QUANTS)  # the one to suggest first
QUANTIZER = "xllamacpp"  # the package whose library makes K-quants

# transformers' model_type -> GGUF's architecture. A family is here once its file was read back and compared.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}

# A number, about. Q8_0: 32 in 8 bits each share a scale in 16. The others mix formats, tensor by tensor; what
# is no multiple of 256 wide can't be stored in them, and takes the format beside.
_BITS = {F16: 16.0, Q8_0: 8.5, Q6_K: 6.6, Q5_K_M: 5.8, Q4_K_M: 5.0}
_BITS_OF_ODD_WIDTHS = {F16: 16.0, Q8_0: 8.5, Q6_K: 8.5, Q5_K_M: 6.9, Q4_K_M: 6.5}
_BLOCK = 256
_SMALL = 16 * 1024**2  # bytes: vocabulary, template, the vectors that stay in 32 bit


def gguf_bytes(parameters: int, quant: str, width: int = _BLOCK) -> int:
    """What the file takes, about. width: of most layers, the model's hidden size."""
    bits = _BITS_OF_ODD_WIDTHS if width % _BLOCK else _BITS
    return int(parameters * bits[quant] / 8) + _SMALL


def closer_quant(quant: str) -> str:
    """The next larger format, which holds more of what was trained; empty where there is none."""
    from_smallest = (Q4_K_M, Q5_K_M, Q6_K, Q8_0, F16)
    return dict(itertools.pairwise(from_smallest)).get(quant, "")


def quant_problem(quant: str) -> str:
    """Why no file of this format can be made here, in a sentence; empty where one can."""
    if quant in K_QUANTS and importlib.util.find_spec(QUANTIZER) is None:
        return f"{quant.upper()} is made with llama.cpp's own library, and {QUANTIZER} is not installed."
    return ""


def check_family(family: str) -> None:
    """Raises: StudioError where no GGUF can be made of models of this `model_type`."""
    if family not in ARCHITECTURES:
        raise StudioError(
            f"A {family} model can't be written as GGUF here; {', '.join(ARCHITECTURES)} can.",
            hint="Export the merged model: llama.cpp's own converter may know the family.",
        )
