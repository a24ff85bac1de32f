"""Where files lie: runs, cache, logs and the window's settings.

`QLORA_STUDIO_HOME` moves all of them, `QLORA_STUDIO_CACHE` the cache alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import platformdirs

_APP = "qlora-studio"
_CACHE = "QLORA_STUDIO_CACHE"  # an environment variable, so that children follow


def runs_folder() -> Path:
    """Where run folders are made unless the person chose another place."""
    return _home("runs") or Path(platformdirs.user_data_dir(_APP, appauthor=False)) / "runs"


def models_folder() -> Path:
    """Where models that were added or downloaded lie."""
    return _home("models") or Path(platformdirs.user_data_dir(_APP, appauthor=False)) / "models"


def conversations_folder() -> Path:
    """What was said on the Chat page."""
    return _home("conversations") or Path(platformdirs.user_data_dir(_APP, appauthor=False)) / "conversations"


def arenas_folder() -> Path:
    """Blind comparisons of the window."""
    return _home("arenas") or Path(platformdirs.user_data_dir(_APP, appauthor=False)) / "arenas"


def sweeps_folder() -> Path:
    """Comparisons of runs that the window made, a folder each."""
    return _home("sweeps") or Path(platformdirs.user_data_dir(_APP, appauthor=False)) / "sweeps"


def good_answers_file() -> Path:
    """The data file of answers that were found good on the Chat page."""
    data = _home("data") or Path(platformdirs.user_data_dir(_APP, appauthor=False)) / "data"
    return data / "good_answers.jsonl"


def cache_folder() -> Path:
    """What can be made again: imported rows, tokens, the sample model, quantized weights, kernels."""
    chosen = os.environ.get(_CACHE)
    if chosen:
        return Path(chosen).absolute()
    return _home("cache") or Path(platformdirs.user_cache_dir(_APP, appauthor=False))


def use_cache_folder(folder: str) -> None:
    """For this process and the children it starts from now on; empty: the usual place."""
    if folder:
        os.environ[_CACHE] = folder
    else:
        os.environ.pop(_CACHE, None)


def settings_folder() -> Path:
    """The window's own settings, and what was measured on this machine."""
    return _home("settings") or Path(platformdirs.user_config_dir(_APP, appauthor=False))


def log_folder() -> Path:
    """Logs of children that belong to no run."""
    return _home("logs") or Path(platformdirs.user_log_dir(_APP, appauthor=False))


def sample_model_folder() -> Path:
    """The bundled model, once it has been turned into an ordinary folder."""
    return cache_folder() / "models" / "SmolLM2-135M-Instruct"


def compiled_folder() -> Path:
    """Kernels that were compiled for this machine's card."""
    return cache_folder() / "compiled"


def resources_folder() -> Path:
    """Icons, fonts, presets and the sample data that come with the application."""
    frozen = getattr(sys, "_MEIPASS", None)
    return (Path(frozen) if frozen else Path(__file__).parents[2]) / "resources"


def sample_data_file() -> Path:
    """The bundled data."""
    return resources_folder() / "sample" / "gsm8k-sample.jsonl"


def general_questions_file() -> Path:
    """The bundled questions that show what a run has forgotten."""
    return resources_folder() / "general" / "general-questions.jsonl"


def _home(name: str) -> Path | None:
    home = os.environ.get("QLORA_STUDIO_HOME")
    return Path(home).absolute() / name if home else None
