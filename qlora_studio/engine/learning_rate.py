"""The learning rate of each update: warm-up, then constant, linear to 0 or cosine to 0."""

from __future__ import annotations

import math

from qlora_studio.config.run_config import TrainingConfig


def learning_rate(step: int, total_steps: int, training: TrainingConfig) -> float:
    """Of update `step`, from 1. The last update of the warm-up has the full rate."""
    warmup = min(training.warmup_steps, total_steps)
    if step <= warmup:
        return training.learning_rate * step / warmup
    done = (step - 1 - warmup) / max(1, total_steps - warmup)
    if training.schedule == "linear":
        return training.learning_rate * max(0.0, 1.0 - done)
    if training.schedule == "cosine":
        return training.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return training.learning_rate
