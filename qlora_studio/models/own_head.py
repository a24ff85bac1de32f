"""Whether a folder has a head of its own that its config.json calls the embedding again."""

from __future__ import annotations

from pathlib import Path

from qlora_studio.errors import StudioError
from qlora_studio.models.families import Family
from qlora_studio.models.model_folder import open_folder
from qlora_studio.models.safetensors_header import StoredTensor
from qlora_studio.models.weights_index import read_weights_index

HEAD = "lm_head.weight"
_LOOKS, _LOOK_BYTES = 16, 4096


def has_own_head(folder: Path, family: Family) -> bool:
    """Both are in its weights, with other numbers. False where these can't be read: others say so."""
    heads = {HEAD, *(old for old, now in family.renamed.items() if now == HEAD)}
    embeddings = {family.embedding, family.embedding.partition(".")[2]}  # as files without a head name it
    try:
        tensors = read_weights_index(folder).tensors
        found = [
            next((tensors[name] for name in names if name in tensors), None) for names in (heads, embeddings)
        ]
        head, embedding = found
        if head is None or embedding is None or head.shape != embedding.shape:
            return False
        return differ(folder, head, embedding)
    except (StudioError, OSError):
        return False


def differ(folder: Path, one: StoredTensor, other: StoredTensor) -> bool:
    """Looked at in some places: an embedding may have a gigabyte. Two types can't be compared so."""
    if (one.dtype, one.bytes) != (other.dtype, other.bytes):
        return False
    source = open_folder(folder)
    with source.open(one.file) as here, source.open(other.file) as there:
        for look in range(_LOOKS):
            at = max(one.bytes - _LOOK_BYTES, 0) * look // (_LOOKS - 1)
            here.seek(one.offset + at)
            there.seek(other.offset + at)
            size = min(_LOOK_BYTES, one.bytes - at)
            if here.read(size) != there.read(size):
                return True
    return False
