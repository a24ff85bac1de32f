"""What every Python process of ours is started with: our own folder, no foreign code, libraries offline."""

from __future__ import annotations

import os
from pathlib import Path

APP_FOLDER = Path(__file__).parents[2]  # -m imports from the working folder: it must be ours (S1)


def child_environment() -> dict[str, str]:
    """Ours, less what could load foreign code, plus what keeps libraries offline and quiet (S1, S10)."""
    dropped = ("PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",  # a token in the person's folder is no business of ours (S11)
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "TQDM_DISABLE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
    }
