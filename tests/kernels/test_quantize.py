"""4-bit quantizing on a CPU against bitsandbytes' own, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from qlora_kernels.codebooks import four_bit_code
from qlora_kernels.quantize import quantize_4bit, use_on_cpu
from torch import Tensor

# In a Python of its own, where nothing has taken the place of its kernel.
BITSANDBYTES = """
import sys, torch, bitsandbytes
weights = torch.load(sys.argv[1])
quantize = torch.ops.bitsandbytes.quantize_4bit.default
answers = [quantize(weight, 64, kind, torch.uint8) for weight in weights for kind in ("nf4", "fp4")]
torch.save(answers, sys.argv[2])
"""


def weights() -> list[Tensor]:
    """Of every float type, and where a rounding could go either way."""
    random = torch.Generator().manual_seed(7)
    codes = torch.cat([four_bit_code(kind, torch.device("cpu")).sort().values for kind in ("nf4", "fp4")])
    bounds = (codes[:-1] + codes[1:]) / 2
    beside = torch.stack([bounds, bounds.nextafter(torch.tensor(2.0)), bounds.nextafter(torch.tensor(-2.0))])
    on_the_edge = torch.cat([torch.ones(1), beside.flatten(), torch.zeros(64)])[:128]
    whole = torch.randn(96, 128, generator=random)
    return [
        whole,
        whole.bfloat16(),
        whole.half() * 1e-4,
        torch.randn(3, 43, generator=random),  # neither whole blocks nor an even number
        on_the_edge,
        torch.cat([torch.zeros(64), torch.full((64,), 1e-42), torch.full((64,), 3e38)]),
    ]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Tensor, Tensor]]:
    folder = tmp_path_factory.mktemp("quantized")
    given, answer = folder / "given.pt", folder / "answer.pt"
    torch.save(weights(), given)
    subprocess.run([sys.executable, "-P", "-c", BITSANDBYTES, given, answer], check=True, cwd=Path.cwd())
    return torch.load(answer)


def test_codes_and_scales_are_those_of_bitsandbytes(theirs: list[tuple[Tensor, Tensor]]) -> None:
    ours = [quantize_4bit(weight, 64, kind, torch.uint8) for weight in weights() for kind in ("nf4", "fp4")]
    assert len(ours) == len(theirs)
    for (codes, largest), (their_codes, their_largest) in zip(ours, theirs, strict=True):
        assert codes.shape == their_codes.shape
        assert torch.equal(codes, their_codes)
        assert torch.equal(largest, their_largest)


def test_bitsandbytes_quantizes_by_it_once_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    use_on_cpu()
    weight = torch.randn(64, 64)
    parameter = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4").to("cpu")
    assert torch.equal(parameter.data, quantize_4bit(weight, 64, "nf4", torch.uint8)[0])
    assert torch._C._dispatch_has_kernel_for_dispatch_key("bitsandbytes::quantize_4bit", "CPU")
