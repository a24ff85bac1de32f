"""Which of the settings of `[lora]` can stand with those of the others."""

from __future__ import annotations

from collections.abc import Iterator

from qlora_studio.config.adapter_layers import is_layers_text
from qlora_studio.config.run_config import COMPARES_WITH_BASE, SHAPE_PREFIX, RunConfig
from qlora_studio.errors import StudioError


def check_lora(config: RunConfig, where: str) -> None:
    """Raises: StudioError naming the key and what it can't stand with."""
    if not is_layers_text(config.lora.layers):
        raise StudioError(
            f"{where}: lora.layers is {config.lora.layers!r}; it must be all, or numbers and ranges.",
            hint="Such as 8-23, or 0, 4, 8-11: the numbers of the model's layers, counted from 0.",
        )
    for problem in _problems_of_init(config):
        raise StudioError(f"{where}: {problem}", hint="Leave lora.init at 'default', or change the other.")


def _problems_of_init(config: RunConfig) -> Iterator[str]:
    if config.lora.init != "loftq" or config.lora.start_from or config.trains_all:
        return
    model, method = config.model, config.training.method
    if model.quantization not in ("nf4", "fp4"):
        yield (
            "lora.init = 'loftq' makes good what 4 bits lose; with model.quantization = "
            f"{model.quantization!r} there is nothing that it could."
        )
    if config.lora.use_dora:
        yield "lora.init = 'loftq' and lora.use_dora can't stand together: DoRA's lengths are the base's own."
    if model.path.startswith(SHAPE_PREFIX):
        yield f"lora.init = 'loftq' needs the weights before they were quantized; {model.path} has none."
    if method in COMPARES_WITH_BASE:
        yield (
            f"lora.init = 'loftq': {method.upper()} compares with the base model alone, and such an adapter "
            "is another model from the first step."
        )
