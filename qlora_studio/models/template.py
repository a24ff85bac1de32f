"""A model's chat template as text. It is never rendered here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from qlora_studio.config.places import resources_folder
from qlora_studio.errors import StudioError
from qlora_studio.models.clean_config import decoder_start
from qlora_studio.models.model_folder import ModelFolder, open_folder
from qlora_studio.models.strict_json import strict_object

PLAIN, SOURCE = "plain.jinja", "source.jinja"  # for causal models and for encoder-decoders without their own
LONGEST_TEMPLATE = 64 * 1024  # bytes (S6)
_LONGEST_TOKENIZER_CONFIG = 16 * 1024**2  # bytes; some list thousands of added tokens


def read_template(source: ModelFolder) -> str | None:
    """Of chat_template.jinja, else of tokenizer_config.json. Raises: StudioError where it is too long."""
    if source.has("chat_template.jinja"):
        where = source.path / "chat_template.jinja"
        try:
            return source.read("chat_template.jinja", LONGEST_TEMPLATE).decode("utf-8")
        except UnicodeDecodeError as error:
            raise StudioError(f"{where} is not UTF-8 text at byte {error.start:,}.") from error
    template = _default_template(tokenizer_config(source).get("chat_template"))
    if template is not None and len(template.encode("utf-8", "replace")) > LONGEST_TEMPLATE:
        raise StudioError(
            f"{source.path / 'tokenizer_config.json'}: chat_template is longer than "
            f"{LONGEST_TEMPLATE:,} bytes."
        )
    return template


def template_of(folder: Path) -> str:
    """What chats are rendered with: the model's own, or else plain words. Raises: StudioError."""
    own = read_template(open_folder(folder))
    if own is not None:
        return own
    name = PLAIN if decoder_start(folder) is None else SOURCE
    return (resources_folder() / "chat_templates" / name).read_text("utf-8")


def tokenizer_config(source: ModelFolder) -> dict[str, Any]:
    """Empty where the folder has none."""
    name = "tokenizer_config.json"
    if not source.has(name):
        return {}
    data = source.read(name, _LONGEST_TOKENIZER_CONFIG)
    return strict_object(data, str(source.path / name), non_finite=True)


def template_sha256(template: str) -> str:
    """What `run.json` remembers of a template."""
    return hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()


def _default_template(said: Any) -> str | None:
    if isinstance(said, str):
        return said
    if isinstance(said, list):  # several by name; "default" is the one for chats
        for item in said:
            if isinstance(item, dict) and item.get("name") == "default":
                template = item.get("template")
                return template if isinstance(template, str) else None
    return None
