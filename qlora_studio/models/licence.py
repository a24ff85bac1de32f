"""Under which licence a model comes, as its folder says."""

from __future__ import annotations

import re

from qlora_studio.errors import StudioError
from qlora_studio.models.model_folder import ModelFolder

_LONGEST_README = 4 * 1024**2  # bytes
_FRONT_MATTER = re.compile(r"\A\ufeff?---\r?\n(.*?)\r?\n---", re.DOTALL)
_FIELD = re.compile(r"^(license|license_name):[ \t]*['\"]?([^'\"\r\n#]+)", re.MULTILINE)
_KNOWN = {
    "Apache License": "apache-2.0",
    "MIT License": "mit",
    "LLAMA": "llama",
    "Gemma Terms": "gemma",
    "GNU GENERAL PUBLIC": "gpl",
}


def read_licence(source: ModelFolder) -> str | None:
    """A short name such as "apache-2.0", from README.md or a licence file; None where neither tells."""
    readme = _text(source, "README.md")
    front = _FRONT_MATTER.match(readme)
    if front:
        fields = dict(_FIELD.findall(front.group(1)))
        name = fields.get("license_name") or fields.get("license")
        if name and name.strip():
            return _plain(name)
    for file in ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"):
        head = _text(source, file)[:2000]
        for words, short in _KNOWN.items():
            if words.lower() in head.lower():
                return short
        first = next((line for line in head.splitlines() if line.strip()), "")
        if first:
            return _plain(first)
    return None


def _text(source: ModelFolder, name: str) -> str:
    """Empty where the file can't be read: a licence is told, never needed."""
    if not source.has(name):
        return ""
    try:
        return source.read(name, _LONGEST_README).decode("utf-8", "replace")
    except StudioError:
        return ""


def _plain(text: str) -> str:
    return "".join(mark for mark in text.strip() if mark.isprintable())[:80]
