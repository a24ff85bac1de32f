"""All that the bytes of a run depend on."""

from __future__ import annotations

from dataclasses import dataclass

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import HOST, RunConfig
from qlora_studio.memory.compiling import keeps_dequantized

_FP32 = 4  # bytes


@dataclass(frozen=True)
class Setting:
    """A model, a run's settings, and what they are computed on.

    compiled: whether the engine's layers run as compiled graphs, which keep less
    tokens:   computed at once: rows times their length
    room:     bytes free, where known
    factor:   what the estimated bytes (activations, logits, workspace) are multiplied by, see `held_to`
    auto_dtype: what the compute dtype "auto" was here before; "": not known
    """

    shape: ModelShape
    config: RunConfig
    device: str  # "cuda" | "cpu"
    compiled: bool
    tokens: int
    room: int | None
    factor: float = 1.0
    auto_dtype: str = ""

    @property
    def dtype_bytes(self) -> int:
        """Of a number in the compute dtype."""
        return _FP32 if self._compute_dtype == "float32" else 2

    @property
    def unquantized_bytes(self) -> int:
        """Of a number of a linear layer that is never quantized, see `Storage.unquantized_dtype`."""
        return 2 if self._compute_dtype == "bfloat16" else _FP32

    @property
    def _compute_dtype(self) -> str:
        """Where `auto` isn't known, a CPU's may be float32, the larger."""
        asked: str = self.config.model.compute_dtype
        if asked == "auto":
            return self.auto_dtype or ("bfloat16" if self.device == "cuda" else "float32")
        return asked

    @property
    def weight_bytes(self) -> int:
        """Of a weight that isn't quantized. Trained ones that may be in either take most in 16 bit, with a
        copy in fp32 beside."""
        known = self.config.model.compute_dtype != "auto" or self.auto_dtype
        return 2 if self.config.trains_all and not known else self.dtype_bytes

    @property
    def computes_in_fp32(self) -> bool:
        """Whether it is known to."""
        asked: str = self.config.model.compute_dtype
        return "float32" in (asked, self.auto_dtype if asked == "auto" else "")

    @property
    def fused(self) -> bool:
        """Whether base and adapter of a linear layer are one product; else peft's own forward runs."""
        return self.is_4bit and not self.config.lora.use_dora

    @property
    def inputs_in_ram(self) -> bool:
        """Whether a card holds the inputs of a few recomputed layers only."""
        return self.device == "cuda" and self.config.training.recompute == HOST and self.shape.decoder is None

    @property
    def keeps_dequantized(self) -> bool:
        """Whether frozen weights stay dequantized on a card, as asked."""
        may = self.device == "cuda" and self.compiled
        return may and keeps_dequantized(self.shape.family, self.config)

    @property
    def is_4bit(self) -> bool:
        """Whether the frozen weights are NF4 or FP4."""
        return self.config.model.quantization in ("nf4", "fp4")
