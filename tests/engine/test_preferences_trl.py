"""Losses of preferences and their gradients against TRL's trainers, on the very batches that these make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from qlora_studio.config.run_config import PreferenceConfig
from qlora_studio.data.packing import collate
from qlora_studio.data.tokenized_row import RowsInMemory, TokenizedRow
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.packed_batch import PackedBatch, on_device
from qlora_studio.engine.preference_loss import PreferredAnswers, answer_log_probabilities, answer_tokens
from tests.engine.plain_stack import gradients
from tests.engine.tiny import CPU, loaded, make_model

BETA = 0.3
PAIRS = {
    "prompt": ["A B C", "D E", "F G H I", "J K L"],
    "chosen": ["M N", "O P Q R", "S", "T U"],
    "rejected": ["V", "W X", "Y Z A B", "C D E"],
}
RATED = {
    "prompt": ["A B C", "D E", "F G H I", "J K L"],
    "completion": ["M N", "O P Q R", "S T U", "V W"],
    "label": [True, False, True, True],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def trainer_of(kind: str, folder: Path, out: Path, rows: dict[str, list[Any]]) -> Any:
    """TRL's trainer of a fresh adapter whose weights are all random: what it adds is no zero."""
    import peft
    import trl
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    configs = {"dpo": trl.DPOConfig, "orpo": ORPOConfig, "kto": trl.KTOConfig}
    trainers = {"dpo": trl.DPOTrainer, "orpo": ORPOTrainer, "kto": trl.KTOTrainer}
    options: dict[str, Any] = {"train_sampling_strategy": "sequential"} if kind == "kto" else {}
    args = configs[kind](
        output_dir=str(out),
        per_device_train_batch_size=4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        beta=BETA,
        report_to=[],
        **options,
    )
    torch.manual_seed(3)
    lora = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return trainers[kind](
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_dict(rows),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
        peft_config=lora,
    )


def adapted_like(trainer: Any, folder: Path, out: Path) -> tuple[AdaptedModel, str]:
    """Our model with the trainer's adapter."""
    trainer.model.save_pretrained(out)
    adapted = AdaptedModel(loaded(load_base(str(folder), Storage("none", False, torch.float32), CPU)))
    return adapted, adapted.add_from(out)


def chat_of(batch: dict[str, torch.Tensor], place: int, before: str = "") -> tuple[list[int], list[float]]:
    kept = batch[f"{before}attention_mask"][place].bool()
    ids = batch[f"{before}input_ids"][place][kept].tolist()
    return ids, batch[f"{before}completion_mask"][place][kept].float().tolist()


def row_of(number: int, first: tuple[list[int], list[float]], second: tuple[list[int], list[float]]) -> Any:
    ids = np.array([*first[0], *second[0]], np.int32)
    return TokenizedRow(number, ids, np.array([*first[1], *second[1]], np.float32), len(first[0]))


def placed(rows: list[TokenizedRow]) -> PackedBatch:
    batch = collate([tuple(range(len(rows)))], RowsInMemory(rows), pad_id=0)
    return on_device(batch, torch.device("cpu"), keep_padding=False, with_chats=True)


def ours(
    method: str, adapted: AdaptedModel, name: str, rows: list[TokenizedRow]
) -> tuple[float, dict[str, Any]]:
    objective = PreferredAnswers(
        method, PreferenceConfig(beta=BETA), lambda on: adapted.use(name if on else None)
    )
    batch = placed(rows)
    model = adapted.causal_lm
    objective.begin(model, [batch])
    loss = objective.loss(model, batch, 0)[0] / len(rows)
    loss.backward()
    found = {key.replace(f".{name}.", "."): weight.grad for key, weight in adapted.trained_parameters(name)}
    return float(loss), found


def assert_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=1e-5)


def test_dpo(folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of("dpo", folder, tmp_path / "out", PAIRS)
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(trainer.model.eval(), batch)
    expected.backward()
    adapted, name = adapted_like(trainer, folder, tmp_path / "adapter")
    rows = [row_of(k, chat_of(batch, k), chat_of(batch, k + 4)) for k in range(4)]

    loss, found = ours("dpo", adapted, name, rows)

    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert_alike(found, gradients(trainer.model))


def test_kto(folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of("kto", folder, tmp_path / "out", RATED)
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(trainer.model.eval(), batch)
    expected.backward()
    adapted, name = adapted_like(trainer, folder, tmp_path / "adapter")
    rows = []
    for k in range(4):
        (ids, weights), foreign = chat_of(batch, k), chat_of(batch, k, "KL_")
        sign = 1.0 if batch["label"][k] else -1.0
        rows.append(row_of(k, (ids, [sign * weight for weight in weights]), foreign))

    loss, found = ours("kto", adapted, name, rows)

    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert_alike(found, gradients(trainer.model))


def test_the_odds_ratio_of_orpo(folder: Path, tmp_path: Path) -> None:
    """TRL adds the loss of the whole better chat; ours that of its answer alone, as in the paper."""
    trainer = trainer_of("orpo", folder, tmp_path / "out", PAIRS)
    adapted, name = adapted_like(trainer, folder, tmp_path / "adapter")
    rows = [
        row_of(k, ([3 + k, 9, 20, 21], [0, 0, 1, 1]), ([3 + k, 9, 30, 31, 32], [0, 0, 1, 1, 1]))
        for k in range(4)
    ]
    batch = placed(rows)
    with torch.no_grad():
        means = answer_log_probabilities(adapted.causal_lm, batch) / answer_tokens(batch)
    ratio = trainer.odds_ratio_loss(means[0::2], means[1::2])[0]

    loss, _ = ours("orpo", adapted, name, rows)

    assert loss == pytest.approx(float((-means[0::2] - ratio).mean()), rel=1e-5)
