from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qlora_studio.engine.weight_files import INDEX_FILE, Written, write_weights
from qlora_studio.models.weights_index import read_weights_index

TENSORS = {
    "a": torch.randn(3, 5),
    "b": torch.randn(7),
    "c": torch.randn(4, 4),
}
SHAPES = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}


def written_as(dtype: torch.dtype) -> dict[str, Written]:
    return {name: Written(shape, dtype) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_is_written_is_read_by_the_library(tmp_path: Path, dtype: torch.dtype) -> None:
    told = list(write_weights(tmp_path, written_as(dtype), lambda name: TENSORS[name].to(dtype)))
    read = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(read[name], tensor.to(dtype)) for name, tensor in TENSORS.items())
    assert told == [size * dtype.itemsize for size in (15, 22, 38)]


def test_large_models_are_split_and_their_index_finds_every_tensor(tmp_path: Path) -> None:
    list(write_weights(tmp_path, written_as(torch.float32), TENSORS.__getitem__, shard_bytes=90))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        INDEX_FILE,
    ]
    index = read_weights_index(tmp_path)
    assert {name: tensor.shape for name, tensor in index.tensors.items()} == SHAPES
    assert index.tensors["c"].file == names[1]


def test_one_tensor_at_a_time_is_asked_for(tmp_path: Path) -> None:
    asked: list[str] = []

    def tensor(name: str) -> torch.Tensor:
        asked.append(name)
        return TENSORS[name]

    writing = write_weights(tmp_path, written_as(torch.float32), tensor)
    next(writing)
    assert asked == ["a"]
    writing.close()  # type: ignore[attr-defined]
