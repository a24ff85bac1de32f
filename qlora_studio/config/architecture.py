"""What a run's settings mean for the kind of model that was chosen: causal, or an encoder with a decoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True)
class NotBuilt:
    """A setting that an encoder-decoder can't be trained by here. instead: what it can be"""

    key: str
    words: str
    instead: str

    @property
    def error(self) -> StudioError:
        """For whoever asked for it."""
        setting = f"{self.key} to '{self.instead}' (--set {self.key}={self.instead})"
        return StudioError(self.words, f"Set {setting}, or choose a causal model.")


def not_built(*, method: str, train_on: str, finetuning: str = "lora") -> Iterator[NotBuilt]:
    """What of these settings isn't built for encoder-decoders."""
    if method != "sft":
        words = f"An encoder-decoder can't be trained by {method} here: only from sources with their targets."
        yield NotBuilt("training.method", words, "sft")
    if finetuning != "lora":
        words = "Of an encoder-decoder only adapters are trained here, not all weights."
        yield NotBuilt("training.finetuning", words, "lora")
    if train_on == "everything":
        words = "An encoder-decoder learns its targets alone, not every token."
        yield NotBuilt("data.train_on", words, "answers")


def not_built_of(config: RunConfig) -> Iterator[NotBuilt]:
    """As `not_built`, of all settings of a run."""
    training = config.training
    return not_built(method=training.method, train_on=config.data.train_on, finetuning=training.finetuning)


def require_trainable(config: RunConfig, shape: ModelShape) -> None:
    """Raises: StudioError where an encoder-decoder is to be trained in a way that isn't built for it."""
    if shape.decoder is not None and (first := next(not_built_of(config), None)):
        raise first.error


def row_limit(data: DataConfig, shape: ModelShape) -> int:
    """Tokens that a row may have; of an encoder-decoder source, the decoder's first token, and target."""
    return data.seq_len if shape.decoder is None else data.seq_len + 1 + data.target_len
