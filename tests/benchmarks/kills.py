"""Training killed at random moments: what our engine and transformers' Trainer leave on the disk.

    python -m tests.benchmarks.kills --kills 25

Both train a tiny Llama with LoRA on a processor, save after every update and keep the newest two checkpoints.
A child trains on from the newest checkpoint and is killed at a random moment after its first save;
then its newest checkpoint is looked at: whether all of it can be read again, as a resume would.
Where that one is broken it is deleted, as a person would have to.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

STEPS = 100_000  # never reached
LONGEST_S = 1.5  # from a sitting's first checkpoint to the kill
_FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--side", choices=("ours", "theirs", "both"), default="both")
    arguments = parser.parse_args()
    import torch
    import transformers

    from tests.engine.tiny import make_model, make_run

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        model = make_model(Path(home) / "model")
        run = make_run(
            Path(home),
            model,
            training__steps=STEPS,
            training__gradient_accumulation=1,
            checkpoints__every_steps=1,
            checkpoints__evaluate_every_steps=0,
        )
        out = Path(home) / "trainer"
        out.mkdir()
        sides: tuple[
            tuple[str, Callable[[], None], Callable[[], Path | None], Callable[[Path], str]], ...
        ] = (
            ("qlora-studio", lambda: _train_ours(run), lambda: _newest_of_ours(run), _broken_of_ours),
            (
                f"transformers {transformers.__version__} Trainer",
                lambda: _train_theirs(model, out),
                lambda: _newest_of_theirs(out),
                _broken_of_theirs,
            ),
        )
        for name, train, newest, broken in {"ours": sides[:1], "theirs": sides[1:], "both": sides}[
            arguments.side
        ]:
            found = _killed(train, newest, broken, arguments.kills, Random(arguments.seed))
            print(f"{name}: {len(found)} of {arguments.kills} kills left a broken newest checkpoint")
            for reason in found:
                print(f"  {reason}")


def _killed(
    train: Callable[[], None],
    newest: Callable[[], Path | None],
    broken: Callable[[Path], str],
    kills: int,
    random: Random,
) -> list[str]:
    """What was wrong with the newest checkpoint, of each kill that broke it."""
    found = []
    for _ in range(kills):
        before = newest()
        child = multiprocessing.get_context("fork").Process(target=train)
        child.start()
        while newest() == before:
            if child.exitcode is not None:
                raise SystemExit(f"training ended by itself with {child.exitcode}")
            time.sleep(0.01)
        time.sleep(random.uniform(0, LONGEST_S))
        child.kill()
        child.join()
        left = newest()
        assert left is not None
        if reason := broken(left):
            found.append(f"{left.name}: {reason}")
            shutil.rmtree(left)
    return found


def _train_ours(run: Path) -> None:
    from tests.engine.tiny import events_of

    _quiet()
    events_of(run)


def _newest_of_ours(run: Path) -> Path | None:
    from qlora_studio.runs.checkpoints import checkpoints

    found = checkpoints(run)
    return found[-1].path if found else None


def _broken_of_ours(checkpoint: Path) -> str:
    from qlora_studio.runs.manifest import verify_checkpoint

    return verify_checkpoint(checkpoint).reason


def _train_theirs(model_folder: Path, out: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    from tests.engine.tiny import make_rows

    _quiet()
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), lora)
    rows: list[dict[str, list[int]]] = [
        {"input_ids": row.ids.tolist(), "labels": row.ids.tolist()} for row in make_rows(24)
    ]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out),
            use_cpu=True,
            per_device_train_batch_size=1,
            max_steps=STEPS,
            save_steps=1,
            save_total_limit=2,
            report_to=[],
            logging_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=rows,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(out)))


def _newest_of_theirs(out: Path) -> Path | None:
    from transformers.trainer_utils import get_last_checkpoint

    found = get_last_checkpoint(str(out))  # what resume_from_checkpoint=True takes
    return Path(found) if found else None


def _broken_of_theirs(checkpoint: Path) -> str:
    import torch
    from safetensors.torch import load_file

    for name in _FILES:
        path = checkpoint / name
        if not path.exists():
            return f"{name} is missing"
        try:
            _read(path, load_file, torch.load)
        except Exception as error:  # noqa: BLE001 - whatever a resume would end with
            return f"{name} can't be read: {str(error).splitlines()[0][:80]}"
    return ""


def _read(path: Path, load_file: Callable[[str], Any], load: Callable[..., Any]) -> None:
    if path.suffix == ".safetensors":
        load_file(str(path))
    elif path.suffix == ".json":
        json.loads(path.read_text("utf-8"))
    else:
        load(path, weights_only=False)  # our own: the child wrote it


def _quiet() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


if __name__ == "__main__":
    main()
