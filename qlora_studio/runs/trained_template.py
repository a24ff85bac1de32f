"""The chat template that a run was trained with: kept in its folder, and compared with what is there now."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path

from qlora_studio.config.places import resources_folder
from qlora_studio.errors import StudioError
from qlora_studio.plain_text import visible_line
from qlora_studio.runs.durable import read_file
from qlora_studio.runs.standing import ADAPTER_FOLDER, MODEL_FOLDER

TEMPLATE_FILE = "chat_template.jinja"
PUT_BACK = "Put back the one that was trained with; with another one the model answers worse."

_LARGEST = 64 * 1024  # bytes, as a template may have (S6)
_SHOWN_LINES = 40  # of a difference
_LONGEST_LINE = 160  # characters of one


def trained_template(folder: Path, sha256: str) -> str | None:
    """Its text, found by its hash. None: the run keeps none, as those of older versions do."""
    places = (
        folder / TEMPLATE_FILE,
        folder / ADAPTER_FOLDER / TEMPLATE_FILE,
        folder / MODEL_FOLDER / TEMPLATE_FILE,
        resources_folder() / "chat_templates" / "plain.jinja",
        resources_folder() / "chat_templates" / "source.jinja",
    )
    for place in places:
        try:
            data = read_file(place, _LARGEST)
        except OSError:
            continue
        if hashlib.sha256(data).hexdigest() == sha256:
            return data.decode("utf-8", "surrogatepass")
    return None


def template_difference(trained: str | None, now: str) -> str:
    """Line by line, as `diff -u` writes it; empty where they are equal or the trained one isn't known."""
    if trained is None or trained == now:
        return ""
    compared = difflib.unified_diff(
        trained.splitlines(), now.splitlines(), "trained with", "there now", n=1, lineterm=""
    )
    lines = [visible_line(line, _LONGEST_LINE) for line in compared]
    if not lines:
        return "Only the ends of lines differ."
    more = len(lines) - _SHOWN_LINES
    return "\n".join([*lines[:_SHOWN_LINES], *([f"… {more:,} more lines"] if more > 0 else [])])


def refuse_other_template(folder: Path, sha256: str, now: str, where: Path, way_on: str = PUT_BACK) -> None:
    """where: the model's folder. An empty hash is of a run that knew none.

    Raises: StudioError with the difference, where `now` isn't what the run was trained with.
    """
    if not sha256 or hashlib.sha256(now.encode("utf-8", "surrogatepass")).hexdigest() == sha256:
        return
    difference = template_difference(trained_template(folder, sha256), now)
    raise StudioError(
        f"The chat template of {where} is another one than in training.",
        hint=f"{way_on}\n{difference}" if difference else way_on,
    )
