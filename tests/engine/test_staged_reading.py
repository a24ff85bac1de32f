"""Piece by piece a tensor comes out as its file has it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch

from qlora_studio.engine.staged_reading import StagedReading
from qlora_studio.errors import StudioError

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("shape", [(3, 50), (7,), (50, 10), ()])
def test_tensors_one_after_the_other_are_those_of_the_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors = [torch.randn(shape).to(torch.bfloat16) for _ in range(5)]
    path, size = tmp_path / "numbers", tensors[0].nbytes
    path.write_bytes(b"head" + b"".join(bytes(tensor.view(-1).view(torch.uint8)) for tensor in tensors))
    staged = StagedReading(DEVICE, piece_bytes=100)
    with path.open("rb") as file, closing(staged):
        found = [staged.read(file, 4 + at * size, size, torch.bfloat16, shape, path) for at in range(5)]

    for tensor, wanted in zip(found, tensors, strict=True):
        torch.testing.assert_close(tensor.cpu(), wanted, rtol=0, atol=0)


def test_several_readers_share_a_piece(tmp_path: Path) -> None:
    tensor, path = torch.randn(1_000_001), tmp_path / "numbers"
    path.write_bytes(bytes(tensor.view(torch.uint8).numpy()))
    staged = StagedReading(DEVICE, piece_bytes=3_000_000)
    with path.open("rb") as file, closing(staged):
        found = staged.read(file, 0, tensor.nbytes, torch.float32, (1_000_001,), path)

    torch.testing.assert_close(found.cpu(), tensor, rtol=0, atol=0)


def test_a_file_that_became_shorter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(150))
    staged = StagedReading(DEVICE, piece_bytes=100)
    with path.open("rb") as file, closing(staged), pytest.raises(StudioError, match="became shorter"):
        staged.read(file, 0, 160, torch.uint8, (160,), path)
