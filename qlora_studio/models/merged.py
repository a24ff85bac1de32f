"""Whether a folder is a model of ours: what was learned lies in its 16-bit weights."""

from __future__ import annotations

from pathlib import Path

from qlora_studio.models.model_folder import open_folder
from qlora_studio.models.safetensors_header import read_metadata
from qlora_studio.models.weights_index import read_weights_index

NF4 = "nf4"  # how a merged model may be stored beside 16 bit
# Keys of the metadata in the header of each weights file.
MERGED_INTO = "qlora_studio.merged_into"
TRAINED = "qlora_studio.trained"  # by full finetuning


def is_merged(folder: Path) -> bool:
    """What was learned is small in it and may not outlive being quantized again: an adapter that was merged,
    or what all weights learned.

    Raises: StudioError where the folder holds no sound weights.
    """
    source = open_folder(folder)
    says = read_metadata(source, read_weights_index(folder).files[0])
    return MERGED_INTO in says or TRAINED in says
