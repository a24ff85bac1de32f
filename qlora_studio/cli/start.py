"""The adapter that a run trains on, as it is named in the terminal."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qlora_studio.cli.children import Reader
from qlora_studio.cli.named_run import run_folder
from qlora_studio.cli.output import Told
from qlora_studio.config.run_config import RunConfig
from qlora_studio.protocol import reading


def with_start_found(config: RunConfig, runs_dir: Path | None = None) -> RunConfig:
    """`lora.start_from` may name a run as it is called. Raises: StudioError where there is nothing of it."""
    named = config.lora.start_from
    if not named or Path(named).exists():
        return config
    lora = msgspec.structs.replace(config.lora, start_from=str(run_folder(Path(named), runs_dir)))
    return msgspec.structs.replace(config, lora=lora)


def with_shape_of_start(config: RunConfig, runs_dir: Path | None = None) -> RunConfig:
    """With the rank and the layers that the run will have. Raises: StudioError where it can't have them."""
    config = with_start_found(config, runs_dir)
    if not config.lora.start_from:
        return config
    with Told(quiet=True) as told, Reader(told) as reader:
        checked = reader.ask(reading.StartChecked, reading.CheckStart, config=config)
    return msgspec.structs.replace(config, lora=checked.lora)
