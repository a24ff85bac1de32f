from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qlora_studio.engine.weight_scan import scan_weights
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import ScanWeights
from qlora_studio.protocol.events import LoadingProgress, WeightsScanned
from tests.engine.tiny import make_model


def scanned(model: Path) -> WeightsScanned:
    first, *_, last = scan_weights(ScanWeights(id=3, model=str(model)), lambda: False)
    assert isinstance(first, LoadingProgress)
    assert isinstance(last, WeightsScanned)
    assert first.total == last.tensors
    return last


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_with_numbers_that_are_none_are_named(tmp_path: Path, dtype: torch.dtype) -> None:
    file = make_model(tmp_path / "model") / "model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    tensors["model.norm.weight"][-1] = torch.nan
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = -torch.inf
    save_file(tensors, file, metadata={"format": "pt"})

    found = scanned(file.parent)

    assert found.tensors == len(tensors)
    assert set(found.bad) == {"model.norm.weight", "model.layers.1.mlp.down_proj.weight"}


def test_sound_weights_have_none(tmp_path: Path) -> None:
    assert scanned(make_model(tmp_path / "model")).bad == ()


def test_a_scan_that_nobody_waits_for_ends(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="stopped"):
        list(scan_weights(ScanWeights(id=1, model=str(make_model(tmp_path / "m"))), lambda: True))
