"""A merged model whose linear layers are in NF4 again, as bitsandbytes stores them.

A layer X stands in the file as X.weight, its codes two to a byte, and beside it the scales, the tables that
both are looked up in, and X.weight.quant_state.bitsandbytes__nf4: a JSON object as bytes, here with blanks
behind it, so that its length is known before the layer is quantized.
"""

from __future__ import annotations

import json
from typing import Any

import bitsandbytes.functional as bnb
import torch
from torch import Tensor
from transformers import BitsAndBytesConfig

from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.merging import MergedWeights, is_turned
from qlora_studio.engine.weight_files import Written
from qlora_studio.errors import StudioError

NF4_AGAIN = " and stored in NF4 again"  # what becomes of the weights, in words
BLOCK_SIZE = 64  # numbers that share a scale
_NESTED_BLOCK_SIZE = 256  # scales that share one
_STATE = "quant_state.bitsandbytes__nf4"
_STATE_BYTES = 256  # the longest that bitsandbytes writes has 190
_BLANK = 0x20
_DTYPE_NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}


class Nf4Weights:
    """The tensors of `merged` as the file has them; a layer is quantized when it is asked for."""

    def __init__(self, merged: MergedWeights) -> None:
        """Raises: StudioError where the family stores its weights turned round, as GPT-2."""
        adapted = merged.adapted
        if any(is_turned(adapted.causal_lm.get_submodule(name)) for name in adapted.linears):
            raise StudioError(
                "This family's layers lie in the file turned round; they can't be written in NF4.",
                hint="Export the merged model in 16 bit.",
            )
        self._merged = merged.in_32_bit()  # its rounding to 16 bit would come before that to 4
        self._quantized = {
            f"{name}.weight" for name in adapted.linears if name not in adapted.base.unquantized
        }
        self._double_quant = adapted.base.storage.double_quant
        self._head = _head_name(adapted)
        self._layer = ""
        self._parts: dict[str, Tensor] = {}
        self.dtype = merged.dtype  # of what isn't quantized

    @property
    def tensors(self) -> dict[str, Written]:
        """How each will stand in the file, in the order of the model."""
        written: dict[str, Written] = {}
        for name, shape in self._merged.shapes.items():
            if name in self._quantized:
                written |= self._parts_of(name, shape)
            else:
                written[name] = Written(shape, self.dtype)
        return written

    def tensor(self, name: str) -> Tensor:
        """As the file has it. Parts of a layer are best asked for one after the other."""
        layer = next((own for own in (name, *_shorter(name)) if own in self._quantized), "")
        if not layer:
            return self._merged.tensor(name).to(self.dtype)
        if layer != self._layer:
            self._layer, self._parts = layer, self._quantize(layer)
        return self._parts[name]

    def computed(self, name: str) -> Tensor:
        """float32 [out, in]: the numbers that whoever reads the file multiplies with."""
        merged = self._merged.tensor(name)
        if name not in self._quantized:
            return merged
        codes, state = self._codes(merged)
        numbers: Tensor = bnb.dequantize_4bit(codes, state)
        return numbers

    @property
    def config(self) -> dict[str, Any]:
        """`quantization_config` of config.json."""
        said = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self._double_quant,
            bnb_4bit_compute_dtype=self.dtype,
            llm_int8_skip_modules=[self._head],
        ).to_dict()
        return dict(said)

    def _parts_of(self, name: str, shape: tuple[int, ...]) -> dict[str, Written]:
        numbers = shape[0] * shape[1]
        scales = -(-numbers // BLOCK_SIZE)
        parts = {
            name: Written((-(-numbers // 2), 1), torch.uint8),
            f"{name}.absmax": Written((scales,), torch.uint8 if self._double_quant else torch.float32),
            f"{name}.quant_map": Written((16,), torch.float32),
        }
        if self._double_quant:
            blocks = -(-scales // _NESTED_BLOCK_SIZE)
            parts[f"{name}.nested_absmax"] = Written((blocks,), torch.float32)
            parts[f"{name}.nested_quant_map"] = Written((256,), torch.float32)
        parts[f"{name}.{_STATE}"] = Written((_STATE_BYTES,), torch.uint8)
        return parts

    def _quantize(self, name: str) -> dict[str, Tensor]:
        codes, state = self._codes(self._merged.tensor(name))
        parts = {f"{name}.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}
        said = json.loads(bytes(parts[f"{name}.{_STATE}"].tolist()))
        said["dtype"] = _DTYPE_NAMES[self.dtype]
        text = json.dumps(said).encode().ljust(_STATE_BYTES, bytes([_BLANK]))
        parts[f"{name}.{_STATE}"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        parts[name] = codes
        return parts

    def _codes(self, weight: Tensor) -> tuple[Tensor, bnb.QuantState]:
        codes, state = bnb.quantize_4bit(
            weight, blocksize=BLOCK_SIZE, compress_statistics=self._double_quant, quant_type="nf4"
        )
        return codes, state


def _shorter(name: str) -> tuple[str, ...]:
    """The names that this one may be a part of."""
    ends = [at for at, letter in enumerate(name) if letter == "."]
    return tuple(name[:at] for at in reversed(ends))


def _head_name(adapted: AdaptedModel) -> str:
    head = adapted.causal_lm.get_output_embeddings()
    names: list[str] = [name for name, module in adapted.causal_lm.named_modules() if module is head]
    return names[0]
