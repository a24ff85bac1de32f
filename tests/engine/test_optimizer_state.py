"""A state in 32 bit put into the 8-bit optimizer: bitsandbytes' own, which a processor can run, too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

from qlora_studio.config.run_config import TrainingConfig
from qlora_studio.engine import optimizer as optimizer_module
from qlora_studio.engine.optimizer import OPTIMIZER_FILE, AdapterOptimizer
from qlora_studio.errors import StudioError

SHAPES = {"large": (96, 128), "small": (8, 9)}  # below 4,096 numbers it stays in 32 bit


def bitsandbytes_one(monkeypatch: pytest.MonkeyPatch, kind: Callable[..., Any]) -> AdapterOptimizer:
    monkeypatch.setattr(optimizer_module, "_adamw", lambda groups, *_, **__: kind(groups[0], lr=1e-2))
    torch.manual_seed(0)
    weights = [(name, nn.Parameter(torch.randn(shape))) for name, shape in SHAPES.items()]
    return AdapterOptimizer(weights, TrainingConfig())


def put_gradients(optimizer: AdapterOptimizer, seed: int) -> None:
    torch.manual_seed(seed)
    for weight in optimizer.parameters.values():
        weight.grad = torch.randn_like(weight) * 1e-3


def stepped(optimizer: AdapterOptimizer, first: int, count: int) -> AdapterOptimizer:
    for seed in range(first, first + count):
        put_gradients(optimizer, seed)
        optimizer.step(1e-2)
    return optimizer


@pytest.mark.parametrize("kind", [bnb.optim.AdamW32bit, bnb.optim.AdamW8bit])
def test_bitsandbytes_kernel_scales_gradients_as_if_they_had_been_scaled_before(
    monkeypatch: pytest.MonkeyPatch, kind: Callable[..., Any]
) -> None:
    ours, plain = (bitsandbytes_one(monkeypatch, partial(kind, weight_decay=0.1)) for _ in range(2))
    for seed in range(4):
        for optimizer in (ours, plain):
            put_gradients(optimizer, seed)
        before = [gradient.clone() for gradient in ours.gradients()]
        ours.step(1e-2, 0.3)
        torch._foreach_mul_(plain.gradients(), 0.3)
        plain._optimizer.step()
        if seed > 0:  # the first step is bitsandbytes' own
            torch.testing.assert_close(ours.gradients(), before, rtol=0, atol=0)

    for name, weight in ours.parameters.items():
        same = plain.parameters[name]
        assert torch.equal(weight, same), name
        wanted = plain._optimizer.state[same]
        for key, value in ours._optimizer.state[weight].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(wanted[key])), (name, key)


def test_torchs_optimizer_has_its_gradients_scaled_first() -> None:
    weight, same = (nn.Parameter(torch.ones(3)) for _ in range(2))
    ours, plain = (AdapterOptimizer([("w", one)], TrainingConfig()) for one in (weight, same))
    for step in range(1, 4):
        weight.grad = torch.tensor([0.1, -0.2, 0.3]) * step
        same.grad = weight.grad * 0.3
        ours.step(1e-2, 0.3)
        plain.step(1e-2)
    assert torch.equal(weight, same)
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.tensor([0.1, -0.2, 0.3]) * 3 * 0.3)


def test_a_state_in_32_bit_goes_on_in_8_bit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full = stepped(bitsandbytes_one(monkeypatch, bnb.optim.AdamW32bit), 0, 20)
    full.save(tmp_path)
    before = [weight.detach().clone() for weight in full.parameters.values()]

    small = bitsandbytes_one(monkeypatch, bnb.optim.AdamW8bit)
    for weight, value in zip(small.parameters.values(), before, strict=True):
        weight.data.copy_(value)
    small.put(tmp_path / OPTIMIZER_FILE)

    kept = small._optimizer.state[small.parameters["large"]]
    assert kept["state1"].dtype == torch.uint8
    assert small._optimizer.state[small.parameters["small"]]["state1"].dtype == torch.float32
    assert small.state_bytes < 0.3 * full.state_bytes
    stepped(full, 20, 5)
    stepped(small, 20, 5)
    for start, ours, exact in zip(before, small.parameters.values(), full.parameters.values(), strict=True):
        moved, wanted = ours - start, exact - start
        assert (moved - wanted).norm() < 0.05 * wanted.norm()


def paged_one(monkeypatch: pytest.MonkeyPatch) -> AdapterOptimizer:
    optimizer = bitsandbytes_one(monkeypatch, bnb.optim.PagedAdamW8bit)
    optimizer.paged = True  # as on a card
    return optimizer


def paged_state(optimizer: AdapterOptimizer) -> list[torch.Tensor]:
    """Of one weight, as bitsandbytes makes it on a card: its scales aren't paged."""
    first, _ = optimizer.parameters.values()
    state: dict[str, Any] = {name: torch.zeros(1) for name in ("state1", "state2", "absmax1")}
    paged = [state["state1"], state["state2"]]
    for tensor in paged:
        tensor.is_paged = True
    optimizer._optimizer.state[first] = state | {"step": 1}
    return paged


def test_a_checkpoint_before_the_first_update_leaves_nothing_to_fetch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fetched: list[Any] = []
    monkeypatch.setattr(optimizer_module, "bring_to_card", lambda tensors, _: fetched.extend(tensors))
    optimizer = paged_one(monkeypatch)
    optimizer.save(tmp_path)
    optimizer.prefetch()
    assert not fetched
    paged = paged_state(optimizer)
    optimizer.prefetch()
    assert [id(tensor) for tensor in fetched] == [id(tensor) for tensor in paged]


@pytest.mark.parametrize(
    "refusal", [RuntimeError("CUDA error: invalid device ordinal"), OSError("no driver")]
)
def test_a_driver_that_fetches_nothing_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusal: Exception
) -> None:
    asked = []

    def refuse(*_: object) -> None:
        asked.append(1)
        raise refusal

    monkeypatch.setattr(optimizer_module, "bring_to_card", refuse)
    optimizer = paged_one(monkeypatch)
    paged_state(optimizer)
    optimizer.prefetch()
    optimizer.prefetch()
    assert len(asked) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"The optimizer's state comes to the card when it is asked for: {refusal}"
    ]


@pytest.mark.parametrize("refusal", [None, RuntimeError("CUDA error: unknown error")], ids=str)
def test_at_the_end_a_paged_state_is_given_back_and_known_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusal: Exception | None
) -> None:
    given: list[int] = []

    def give_back(tensors: list[torch.Tensor]) -> None:
        given.extend(map(id, tensors))
        if refusal is not None:
            raise refusal

    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(optimizer_module, "give_back", give_back)
    optimizer = paged_one(monkeypatch)
    paged, of_another = paged_state(optimizer), torch.zeros(1)
    pages = optimizer._optimizer.page_mng
    monkeypatch.setattr(pages, "paged_tensors", [*paged, of_another])

    optimizer.close()
    optimizer.close()

    assert given == list(map(id, paged))
    assert [id(tensor) for tensor in pages.paged_tensors] == [id(of_another)]
    assert optimizer.state_bytes == 0
    assert len(caplog.records) == (refusal is not None)


def test_an_8_bit_state_does_not_go_into_the_32_bit_optimizer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stepped(bitsandbytes_one(monkeypatch, bnb.optim.AdamW8bit), 0, 1).save(tmp_path)
    with pytest.raises(StudioError, match="another kind of optimizer"):
        bitsandbytes_one(monkeypatch, bnb.optim.AdamW32bit).put(tmp_path / OPTIMIZER_FILE)
