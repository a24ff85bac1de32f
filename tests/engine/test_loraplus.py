"""LoRA+: B learns faster than A, as with peft's own optimizer, however the weights lie in memory."""

import copy
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.engine import optimizer as optimizer_module
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.optimizer import OPTIMIZER_FILE, AdapterOptimizer, FlatWeights
from qlora_studio.engine.wish import Wish
from tests.engine.test_resume import RESTLESS, adapter_of, assert_same_bits
from tests.engine.tiny import CPU, events_of, loaded, make_model, make_run

SHAPES = {
    "0.lora_A.weight": (4, 96),
    "0.lora_B.weight": (96, 4),
    "0.lora_magnitude_vector": (96,),
    "1.lora_A.weight": (4, 7),
    "1.lora_B.weight": (8, 4),
}
RATE, RATIO = 1e-3, 16.0


def made(ratio: float = RATIO, **training: Any) -> AdapterOptimizer:
    torch.manual_seed(0)
    weights = [(name, nn.Parameter(torch.randn(shape))) for name, shape in SHAPES.items()]
    changes = {"training.loraplus_ratio": ratio, "training.weight_decay": 0.1}
    changes |= {f"training.{name}": value for name, value in training.items()}
    return AdapterOptimizer(weights, with_changes(RunConfig(), changes).training)


def stepped(optimizer: AdapterOptimizer, first: int, count: int) -> AdapterOptimizer:
    """Gradients are gathered, clipped and given up as an update does."""
    for seed in range(first, first + count):
        torch.manual_seed(seed)
        for weight in optimizer.parameters.values():
            weight.grad = torch.randn_like(weight)
        torch._foreach_mul_(optimizer.gradients(), 0.5)
        optimizer.step(RATE)
        optimizer.forget_gradients()
    return optimizer


def weights_of(optimizer: AdapterOptimizer) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in optimizer.parameters.values()]


@pytest.fixture
def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat tensors, moved by bitsandbytes, which a processor can run too."""
    kinds = {"adamw_32bit": bnb.optim.AdamW32bit, "paged_adamw_8bit": bnb.optim.AdamW8bit}

    def adamw(groups: list[list[nn.Parameter]], training: Any, *, on_card: bool) -> Any:
        given = [{"params": weights} for weights in groups]
        return kinds[training.optimizer](given, lr=RATE, weight_decay=training.weight_decay)

    monkeypatch.setattr(optimizer_module, "_adamw", adamw)
    monkeypatch.setattr(
        optimizer_module, "_lie_flat", lambda weights, training: training.optimizer.endswith("32bit")
    )


@pytest.mark.parametrize("dora", [False, True])
def test_a_model_learns_as_with_pefts_own_optimizer(tmp_path: Path, dora: bool) -> None:
    folder = make_model(tmp_path / "model")
    adapted = AdaptedModel(loaded(load_base(str(folder), Storage("nf4", True, torch.float32), CPU)))
    config = with_changes(RunConfig(), {"lora.r": 4, "lora.use_dora": dora})
    adapted.add_new("tuned", config.lora, seed=0)
    theirs = copy.deepcopy(adapted._peft)
    training = with_changes(config, {"training.loraplus_ratio": RATIO}).training
    ours = AdapterOptimizer(adapted.trained_parameters("tuned"), training)
    plain = create_loraplus_optimizer(
        theirs, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=RATIO, betas=(0.9, 0.999), eps=1e-8
    )
    learned = [weight for weight in theirs.parameters() if weight.requires_grad]

    for seed in range(3):
        torch.manual_seed(seed)
        for weight, same in zip(ours.parameters.values(), learned, strict=True):
            weight.grad = torch.randn_like(weight)
            same.grad = weight.grad.clone()
        ours.step(RATE)
        plain.step()

    for (name, weight), same in zip(ours.parameters.items(), learned, strict=True):
        torch.testing.assert_close(weight, same, atol=1e-6, rtol=1e-5, msg=name)


def test_a_ratio_of_one_is_no_lora_plus() -> None:
    plain, faster = (stepped(made(ratio), 0, 1) for ratio in (1.0, RATIO))
    before, once, faster_once = map(weights_of, (made(), plain, faster))
    for name, start, one, other in zip(SHAPES, before, once, faster_once, strict=True):
        assert float((other - start).norm() / (one - start).norm()) == pytest.approx(
            1 if "lora_A" in name else RATIO, rel=0.01
        ), name
    assert len(plain._groups) == 1


@pytest.mark.usefixtures("as_on_a_card")
def test_flat_tensors_of_each_group_move_as_the_weights_alone_would() -> None:
    flat = stepped(made(optimizer="adamw_32bit"), 0, 5)
    assert [isinstance(group.flat, FlatWeights) for group in flat._groups] == [True, True]
    assert len(flat.gradients()) == 2
    start = made(optimizer="adamw_32bit")
    groups = [{"params": []}, {"params": [], "lr": RATE * RATIO}]
    alone = dict(zip(SHAPES, map(nn.Parameter, weights_of(start)), strict=True))
    for name, weight in alone.items():
        groups["lora_A" not in name]["params"].append(weight)
    plain = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.1)
    for seed in range(5):
        torch.manual_seed(seed)
        for weight in alone.values():
            weight.grad = torch.randn_like(weight) * 0.5
        plain.step()
    for name, weight in flat.parameters.items():
        torch.testing.assert_close(weight, alone[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.usefixtures("as_on_a_card")
@pytest.mark.parametrize("kind", ["adamw_32bit", "paged_adamw_8bit"])
def test_a_saved_state_goes_on_as_if_it_had_never_stopped_and_takes_no_more(
    tmp_path: Path, kind: str
) -> None:
    optimizer = stepped(made(optimizer=kind), 0, 4)
    optimizer.save(tmp_path)
    following = made(optimizer=kind)
    for weight, value in zip(following.parameters.values(), weights_of(optimizer), strict=True):
        weight.data.copy_(value)

    following.put(tmp_path / OPTIMIZER_FILE)

    assert following.state_bytes == optimizer.state_bytes
    plain = stepped(made(1.0, optimizer=kind), 0, 1)
    assert optimizer.state_bytes == plain.state_bytes
    torch.testing.assert_close(
        weights_of(stepped(following, 4, 3)), weights_of(stepped(optimizer, 4, 3)), rtol=0, atol=0
    )


def test_a_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    settings = {**RESTLESS, "training__steps": 4, "training__loraplus_ratio": 8.0}
    unbroken, broken = make_run(tmp_path, model, **settings), make_run(tmp_path, model, **settings)
    plain = make_run(tmp_path, model, **{**settings, "training__loraplus_ratio": 1.0})
    for run in (unbroken, plain):
        events_of(run)

    events_of(broken, Wish.PAUSE, after_step=2)
    events_of(broken)

    assert_same_bits(broken, unbroken)
    other = adapter_of(plain)
    assert any(not torch.equal(weight, other[name]) for name, weight in adapter_of(unbroken).items())
