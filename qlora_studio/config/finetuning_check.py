"""What can't stand beside full finetuning, where the weights themselves learn."""

from __future__ import annotations

from qlora_studio.config.run_config import COMPARES_WITH_BASE, RunConfig
from qlora_studio.errors import StudioError


def check_finetuning(config: RunConfig, where: str) -> None:
    """Raises: StudioError."""
    if not config.trains_all:
        return
    quantization, method = config.model.quantization, config.training.method
    if config.lora.start_from:
        raise StudioError(
            f"{where}: training.finetuning = 'full' trains no adapter, and lora.start_from names one.",
            hint="Leave lora.start_from empty, or set training.finetuning to 'lora'.",
        )
    if quantization != "none":
        raise StudioError(
            f"{where}: training.finetuning = 'full' trains the weights themselves, and "
            f"{quantization} weights can't be trained.",
            hint="Set model.quantization to 'none' (16 bit), or training.finetuning to 'lora'.",
        )
    if method in COMPARES_WITH_BASE:
        raise StudioError(
            f"{where}: training.method = {method!r} compares with the model as it was, and with "
            "training.finetuning = 'full' that isn't kept.",
            hint="Set training.finetuning to 'lora', whose adapter can be switched off, or choose 'orpo'.",
        )
