"""The bytes of what a run writes: checkpoints, the adapter or the model, a merged model (R9)."""

from __future__ import annotations

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import RunConfig
from qlora_studio.memory.parts import adapter_parameters, optimizer_bytes, trained_parameters

_FP32 = 4
_SMALL_FILES = 1024**2  # of a checkpoint: trainer state, configs, manifest
_TOKENIZER = 40 * 1024**2  # the largest in use, Gemma's, beside an adapter
_SPARE = 2 * 10**9  # R9


def adapter_bytes(shape: ModelShape, config: RunConfig) -> int:
    """The finished adapter: its weights in fp32, with the tokenizer."""
    return _FP32 * adapter_parameters(shape, config.lora) + _TOKENIZER


def result_bytes(shape: ModelShape, config: RunConfig) -> int:
    """What a finished run leaves: the adapter, or all weights in 16 bit."""
    return merged_bytes(shape) if config.trains_all else adapter_bytes(shape, config)


def checkpoint_bytes(shape: ModelShape, config: RunConfig, device: str) -> int:
    """One checkpoint: trained weights in fp32, and optimizer state."""
    trained = trained_parameters(shape, config)
    return _FP32 * trained + optimizer_bytes(config, trained, device) + _SMALL_FILES


def merged_bytes(shape: ModelShape, number_bytes: int = 2) -> int:
    """The model with the adapter merged in, in 16 bit unless said otherwise."""
    return shape.parameters * number_bytes + _TOKENIZER


def merged_nf4_bytes(shape: ModelShape) -> int:
    """The same with its linear layers in NF4: 4 bit a number and, without double quantization, a scale in 32
    bit for each 64."""
    linear = sum(stack.layers * out * inner for stack in shape.stacks for _, out, inner in stack.quantized)
    return (shape.parameters - linear) * 2 + int(linear * (0.5 + _FP32 / 64)) + _TOKENIZER


def run_bytes(shape: ModelShape, config: RunConfig, device: str) -> int:
    """Room to have before a run starts: checkpoints kept, the best, one in writing, the result, 2 GB; and
    the adapter that it trains on, which it keeps.
    """
    checkpoints = (config.checkpoints.keep + 2) * checkpoint_bytes(shape, config, device)
    start = _FP32 * adapter_parameters(shape, config.lora) if config.lora.start_from else 0
    return checkpoints + result_bytes(shape, config) + start + _SPARE
