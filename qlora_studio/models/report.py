"""What the check of a model found."""

from __future__ import annotations

import msgspec

from qlora_studio.config.model_shape import ModelShape


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be finetuned."""

    folder: str
    name: str
    family: str
    parameters: int
    tensors: int
    bytes: int
    shape: ModelShape
    has_template: bool
    template_sha256: str | None
    licence: str | None
    max_position_embeddings: int
    warnings: tuple[str, ...]
    target_modules: tuple[str, ...]  # names of the linear layers, last part
    merged: bool = False  # by us, with an adapter: a chat with it alone takes its 16-bit weights
