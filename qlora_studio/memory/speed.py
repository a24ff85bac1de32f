"""How fast runs like one that is planned were here."""

from __future__ import annotations

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import RunConfig
from qlora_studio.memory.compiling import not_fp8_reason
from qlora_studio.memory.correction import is_graphed
from qlora_studio.memory.measured import measured_speed


def speed_here(
    device_name: str, shape: ModelShape, config: RunConfig, *, device: str, card_multiplies_in_fp8: bool
) -> float | None:
    """Tokens a second, as of `measured_speed`, of the newest run that was computed as this one will be.

    device: "cuda" | "cpu"
    """
    may = card_multiplies_in_fp8 and not_fp8_reason(shape.family, config) is None
    return measured_speed(
        device_name,
        shape,
        config.model.quantization,
        fp8=config.training.fp8 and may,
        graphed=is_graphed(shape, config, device),
    )
