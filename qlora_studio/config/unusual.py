"""Settings that may stand and still spoil a run: said before the start, in the window and in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from qlora_studio.config.run_config import PREFERENCES, RunConfig

USUAL_RATES = "1e-5 to 1e-3"  # of LoRA, with AdamW
HIGHEST_RATE = 5e-3  # above it LoRA is not known to learn
USUAL_PREFERENCE_RATES = "5e-6 to 5e-5"  # the gradient of a whole answer's log-probability is a long one
HIGHEST_USUAL_PREFERENCE_RATE = 5e-5
HIGHEST_PREFERENCE_RATE = 1e-4
USUAL_FULL_RATES = "1e-6 to 5e-5"  # of full finetuning
HIGHEST_FULL_RATE = 1e-4
LORA_OVER_FULL = 10  # best learning rates of adapters over those of all weights: LoRA Without Regret, 2025


def full_rate(rate: float) -> float:
    """The learning rate of all weights where an adapter would have `rate`."""
    return float(f"{rate / LORA_OVER_FULL:.3g}")


def adapter_rate(rate: float) -> float:
    """The learning rate of an adapter where all weights would have `rate`."""
    return float(f"{rate * LORA_OVER_FULL:.3g}")


def unusual_settings(config: RunConfig, updates: int) -> Iterator[tuple[str, str]]:
    """(key, words), where something is far off. updates: of the whole run; 0 where they aren't known."""
    training = config.training
    if config.trains_all and training.learning_rate > HIGHEST_FULL_RATE:
        words = f"A learning rate of {training.learning_rate:g} is high where all weights learn"
        yield "training.learning_rate", f"{words}: {USUAL_FULL_RATES} are usual."
    elif training.learning_rate > HIGHEST_RATE:
        words = f"A learning rate of {training.learning_rate:g} is far above the usual {USUAL_RATES}"
        yield "training.learning_rate", f"{words}: the run will most likely learn nonsense."
    elif training.method in PREFERENCES and training.learning_rate > HIGHEST_PREFERENCE_RATE:
        words = f"A learning rate of {training.learning_rate:g} is high where answers are preferred"
        yield "training.learning_rate", f"{words}: {USUAL_PREFERENCE_RATES} are usual."
    if training.learning_rate == 0:
        yield "training.learning_rate", "With a learning rate of 0 nothing is learned."
    if updates and training.warmup_steps >= updates:
        how_many = "1 update" if updates == 1 else f"{updates:,} updates"
        words = f"The warm-up of {training.warmup_steps:,} updates is no shorter than the run of {how_many}"
        yield "training.warmup_steps", f"{words}: the full learning rate is reached at its end at best."
