"""What a run's settings mean for the kind of model that was chosen: causal, or an encoder with a decoder."""

from __future__ import annotations

import msgspec

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import DataConfig, RunConfig
from qlora_studio.errors import StudioError

LAST_ANSWER = "An encoder-decoder learns a chat's last answer, its target; all before it is the source."
NOT_PACKED = "Its rows aren't packed: those of like length stand together, padded."


def as_trained(config: RunConfig, shape: ModelShape) -> RunConfig:
    """Rows of an encoder-decoder aren't packed, whatever the settings say."""
    if shape.decoder is None or not config.data.packing:
        return config
    return msgspec.structs.replace(config, data=msgspec.structs.replace(config.data, packing=False))


def require_trainable(config: RunConfig, shape: ModelShape) -> None:
    """Raises: StudioError where an encoder-decoder is to be trained in a way that isn't built for it."""
    if shape.decoder is not None and config.trains_all:
        raise StudioError(
            "Of an encoder-decoder only adapters are trained here, not all weights.",
            hint="Set training.finetuning to 'lora', or choose a causal model.",
        )


def row_limit(data: DataConfig, shape: ModelShape) -> int:
    """Tokens that a row may have; of an encoder-decoder source, the decoder's first token, and target."""
    return data.seq_len if shape.decoder is None else data.seq_len + 1 + data.target_len
