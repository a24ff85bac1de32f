"""The same model the usual way: transformers, peft and bitsandbytes alone, a row at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from qlora_studio.config.run_config import LoraConfig
from qlora_studio.data.tokenized_row import TokenizedRow
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.loading import load_base
from tests.engine.tiny import CPU, loaded


def plain_base(folder: Path, storage: Storage) -> Any:
    """As `from_pretrained` quantizes it."""
    extra: dict[str, Any] = {}
    if storage.is_4bit:
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=storage.quantization,
            bnb_4bit_use_double_quant=storage.double_quant,
            bnb_4bit_compute_dtype=storage.compute_dtype,
        )
    if storage.quantization == "int8":
        extra["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=storage.compute_dtype, **extra)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # or evaluation rewrites the weights in place
    return model.eval()


def save_fresh_adapter(model: Path, folder: Path, lora: LoraConfig, storage: Storage, seed: int = 0) -> None:
    """That which a run of this seed begins with."""
    folder.mkdir()
    adapted = AdaptedModel(loaded(load_base(str(model), storage, CPU)))
    adapted.add_new("tuned", lora, seed)
    adapted.save("tuned", folder)


def plain_tuned(folder: Path, adapter: Path, storage: Storage) -> Any:
    """The base with an adapter that peft itself has read, ready to be trained on."""
    return PeftModel.from_pretrained(plain_base(folder, storage), str(adapter), is_trainable=True)


def assert_plain_peft_agrees(model: Path, adapter: Path, storage: Storage, ids: torch.Tensor) -> None:
    """An adapter on the model's own folder: our logits are those of plain peft. ids: int64 [1, t]"""
    adapted = AdaptedModel(loaded(load_base(str(model), storage, CPU)))
    adapted.use(adapted.add_from(adapter))
    with torch.no_grad():
        ours = adapted.causal_lm.eval()(ids).logits
        theirs = plain_tuned(model, adapter, storage).eval()(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def plain_loss(model: Any, rows: list[TokenizedRow]) -> torch.Tensor:
    """Nats per learned token, each row alone, transformers' own attention, head and cross-entropy."""
    learned = sum(row.learned_tokens for row in rows)
    total = torch.zeros((), device=model.device)
    for row in rows:
        ids = torch.tensor(row.ids, dtype=torch.long, device=model.device)[None]
        labels = torch.where(torch.tensor(row.weights, device=model.device)[None] > 0, ids, -100)
        total = total + model(input_ids=ids, labels=labels).loss.float() * row.learned_tokens
    return total / learned


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Of the adapter, by the names of peft's file."""
    return {
        name.replace(".default.", "."): weight.grad
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
