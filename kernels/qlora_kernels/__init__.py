"""QLoRA's weights, products and loss: plain torch that runs anywhere, faster twins where there is a card."""

import qlora_kernels.triton  # noqa: F401  (registers what runs on a card)
from qlora_kernels.adapted import adapted_4bit
from qlora_kernels.cached_attention import cached_attention
from qlora_kernels.cross_entropy import learned_cross_entropy, learned_token_losses
from qlora_kernels.cuda.few_rows import MOST_ROWS, MOST_WEIGHTS
from qlora_kernels.dequantize import dequantize_4bit
from qlora_kernels.linear import linear_4bit, linears_4bit, low_rank_product
from qlora_kernels.one_token import gated_silu, keep_token, rms_norm, rotate
from qlora_kernels.packed_attention import packed_attention
from qlora_kernels.quantized import NestedAbsmax, Quantized4bit, quantize_4bit
from qlora_kernels.replacement import ReplacedReport, disable_cpu_repacking, replace_forwards

__all__ = [
    "MOST_ROWS",
    "MOST_WEIGHTS",
    "NestedAbsmax",
    "Quantized4bit",
    "ReplacedReport",
    "adapted_4bit",
    "cached_attention",
    "dequantize_4bit",
    "disable_cpu_repacking",
    "gated_silu",
    "keep_token",
    "learned_cross_entropy",
    "learned_token_losses",
    "linear_4bit",
    "linears_4bit",
    "low_rank_product",
    "packed_attention",
    "quantize_4bit",
    "replace_forwards",
    "rms_norm",
    "rotate",
]
