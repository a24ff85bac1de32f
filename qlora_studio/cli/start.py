"""The adapter that a run trains on, as it is named in the terminal."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qlora_studio.cli.children import Reader
from qlora_studio.cli.output import Told
from qlora_studio.config.run_config import RunConfig
from qlora_studio.protocol import reading
from qlora_studio.runs.named_run import with_start_found


def with_shape_of_start(config: RunConfig, runs_dir: Path | None = None) -> RunConfig:
    """With the rank and the layers that the run will have. Raises: StudioError where it can't have them."""
    config = with_start_found(config, runs_dir)
    if not config.lora.start_from:
        return config
    with Told(quiet=True) as told, Reader(told) as reader:
        checked = reader.ask(reading.StartChecked, reading.CheckStart, config=config)
    return msgspec.structs.replace(config, lora=checked.lora)
