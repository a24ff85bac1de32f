"""QLoRA Studio: finetuning with a 4-bit base on one's own workstation."""

__version__ = "0.1.0"
