"""Runs with a finished adapter that nobody had to train: its weights are drawn by lot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.checkpointing import write_finished_adapter
from qlora_studio.engine.compute_dtype import dtype_of
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.trained_weights import ADAPTER
from qlora_studio.runs.run_record import read_record
from tests.engine.tiny import CPU, loaded, make_run

STRENGTH = 0.1  # standard deviation of the adapter's weights; it changes most replies


def make_tuned_run(home: Path, model: Path, **changes: Any) -> Path:
    """As `make_run`, with an adapter that says something else than its base."""
    run = make_run(home, model, **changes)
    config = read_record(run).record.config
    storage = Storage(
        config.model.quantization, config.model.double_quant, dtype_of(config.model.compute_dtype)
    )
    adapted = AdaptedModel(loaded(load_base(str(model), storage, CPU)))
    adapted.add_new(ADAPTER, config.lora, seed=0)
    torch.manual_seed(1)
    for name, weight in adapted.trained_parameters(ADAPTER):
        if "lora_magnitude_vector" not in name:
            torch.nn.init.normal_(weight, std=STRENGTH)
    (run / "adapter").mkdir()
    write_finished_adapter(run / "adapter", adapted, model)
    return run
