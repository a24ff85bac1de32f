"""Whether a folder is a merged model of ours: an adapter's change lies in its 16-bit weights."""

from __future__ import annotations

from pathlib import Path

from qlora_studio.models.model_folder import open_folder
from qlora_studio.models.safetensors_header import read_metadata
from qlora_studio.models.weights_index import read_weights_index

NF4 = "nf4"  # how a merged model may be stored beside 16 bit
MERGED_INTO = "qlora_studio.merged_into"  # key of the metadata in the header of each weights file


def is_merged(folder: Path) -> bool:
    """What is small in it, as an adapter's change is, may not outlive being quantized again.

    Raises: StudioError where the folder holds no sound weights.
    """
    source = open_folder(folder)
    return MERGED_INTO in read_metadata(source, read_weights_index(folder).files[0])
