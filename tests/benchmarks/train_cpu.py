"""Training on a processor: the `train` command against transformers' Trainer + peft + bitsandbytes.

    python -m tests.benchmarks.train_cpu --rows 96

The bundled model learns one epoch of the bundled questions, which are of unequal length: NF4 + DQ, r = 8 on
all linear layers. Trainer pads the rows of a batch to the longest one, four rows a batch; ours packs them
into rows of 256 tokens, two a batch, so both make about the same number of updates. Loading isn't counted.
Both adapters are measured on the same rows held out. Run it on a machine that does nothing else; the sides
take turns, as a machine shared with others is not equally fast all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GOAL = 0.7  # of the plain stack's time
RATE = 1e-3


def main() -> None:
    arguments = _arguments()
    if arguments.run:
        print(json.dumps(plain(Path(arguments.run), arguments.model)))
        return
    sides = [_both_sides(arguments) for _ in range(arguments.rounds)]
    ours, theirs = (min(side, key=lambda one: one["seconds"]) for side in zip(*sides, strict=True))
    print(f"\n{ours['device']}, {ours['dtype']}; {ours['rows']} rows, {ours['tokens']:,} tokens, one epoch")
    print(f"{'':42} {'seconds':>8} {'updates':>8} {'tokens/s':>9} {'loss held out':>14}")
    for name, side in (("transformers Trainer + peft + bitsandbytes", theirs), ("qlora-studio train", ours)):
        speed = ours["tokens"] / side["seconds"]
        print(f"{name:42} {side['seconds']:8.1f} {side['updates']:8} {speed:9.0f} {side['loss']:14.3f}")
    share = ours["seconds"] / theirs["seconds"]
    print(f"loss held out before training: {ours['loss_before']:.3f}")
    print(f"ours takes {share:.2f} of the time; the goal is at most {GOAL}")


def _both_sides(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours and theirs, one after the other, on the same rows."""
    ours = train_command(Path(tempfile.mkdtemp(prefix="train-cpu-")), arguments)
    return ours, _in_child(ours["run"], arguments.model)


def train_command(home: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The command as a person gives it; seconds of its updates."""
    lines = _sample_file().read_text("utf-8").splitlines()[: arguments.rows]
    data = home / "rows.jsonl"
    data.write_text("\n".join(lines), "utf-8")
    settings = home / "run.toml"
    settings.write_text(
        f"[model]\npath = {json.dumps(arguments.model)}\n[data]\npath = {json.dumps(str(data))}\n"
        f"seq_len = 256\nvalidation = 0.1\n[lora]\nr = 8\n"
        "[training]\nbatch_size = 2\ngradient_accumulation = 1\n"
        f"learning_rate = {RATE}\nrecompute = 'none'\n"
        "[checkpoints]\nevery_steps = 1000\nevaluate_every_steps = 0\n",
        "utf-8",
    )
    command = [sys.executable, "-m", "qlora_studio", "train", str(settings), "--json"]
    environment = os.environ | {"QLORA_STUDIO_HOME": str(home / "home")}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    events = [json.loads(line) for line in finished.stdout.splitlines()]
    if not events or events[-1].get("type") != "run_finished":
        raise SystemExit(f"train failed: {finished.stdout[-1000:]}{finished.stderr[-1000:]}")
    steps = [event for event in events if event["type"] == "step_finished"]
    loaded = next(event for event in events if event["type"] == "model_loaded")
    return {
        "run": events[-1]["run"],
        "device": loaded["device_name"],
        "dtype": loaded["compute_dtype"],
        "rows": sum(len(step["rows"]) for step in steps),
        "tokens": sum(step["tokens"] for step in steps),
        "updates": len(steps),
        "seconds": sum(step["tokens"] / step["tokens_per_second"] for step in steps),
        "loss": events[-1]["evaluation_loss"],
        "loss_before": events[-1]["first_evaluation_loss"],
    }


def plain(run: Path, model_folder: str) -> dict[str, Any]:
    """The usual way, on the rows that the run was prepared from."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments

    from qlora_studio.data.prepared import open_prepared
    from qlora_studio.engine.compute_dtype import resolve_compute_dtype
    from qlora_studio.engine.device import find_device
    from qlora_studio.runs.run_record import read_record

    rows = open_prepared(Path(read_record(run).record.prepared.folder))
    dtype = resolve_compute_dtype("auto", find_device())
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_folder, quantization_config=quantization, dtype=dtype)
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # or the measurement below changes the weights
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                use_cpu=True,
                per_device_train_batch_size=4,
                num_train_epochs=1,
                learning_rate=RATE,
                lr_scheduler_type="constant",
                max_grad_norm=0.3,
                optim="adamw_torch",
                weight_decay=0.0,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                remove_unused_columns=False,
            ),
            train_dataset=[_as_trainer_takes_it(rows.train[i]) for i in range(len(rows.train))],
            data_collator=lambda batch: _padded(batch, rows.info.pad_id),
        )
        start = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - start
    held_out = [_as_trainer_takes_it(rows.validation[i]) for i in range(len(rows.validation))]
    return {"seconds": seconds, "updates": trainer.state.global_step, "loss": _loss(model, held_out)}


def _as_trainer_takes_it(row: Any) -> dict[str, list[int]]:
    labels = [int(token) if weight else -100 for token, weight in zip(row.ids, row.weights, strict=True)]
    return {"input_ids": [int(token) for token in row.ids], "labels": labels}


def _padded(batch: list[dict[str, list[int]]], pad_id: int) -> dict[str, Any]:
    import torch

    longest = max(len(row["input_ids"]) for row in batch)

    def column(name: str, filler: int) -> Any:
        return torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in batch])

    mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in batch]
    return {
        "input_ids": column("input_ids", pad_id),
        "labels": column("labels", -100),
        "attention_mask": torch.tensor(mask),
    }


def _loss(model: Any, rows: list[dict[str, list[int]]]) -> float:
    """Nats per learned token."""
    import torch

    nats, learned = 0.0, 0
    model.eval()
    for row in rows:
        count = sum(label != -100 for label in row["labels"])
        with torch.no_grad():
            output = model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]]))
        nats, learned = nats + float(output.loss) * count, learned + count
    return nats / learned


def _in_child(run: str, model: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.train_cpu", "--run", run, "--model", model]
    environment = os.environ | {"GOMP_SPINCOUNT": "20000"}  # as our engine sets it for itself
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(finished.stderr[-3000:])
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return result


def _sample_file() -> Path:
    return Path(__file__).parents[2] / "resources" / "sample" / "gsm8k-sample.jsonl"


def _arguments() -> argparse.Namespace:
    from qlora_studio.config.places import sample_model_folder

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2, help="each side's fastest round counts")
    parser.add_argument("--model", default=str(sample_model_folder()), help="a folder; the sample model")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
