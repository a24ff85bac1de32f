"""What full finetuning leaves: a model folder in 16 bit that any program opens like another base."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.merged_model import write_texts
from qlora_studio.engine.merging import StoredWeights, written_dtype
from qlora_studio.engine.trained_weights import TrainedWeights
from qlora_studio.engine.weight_files import Written, write_weights
from qlora_studio.errors import StudioError
from qlora_studio.models.merged import TRAINED


def write_finished_model(folder: Path, adapted: AdaptedModel, trained: TrainedWeights) -> None:
    """Into a staging folder, a tensor at a time.

    Raises: StudioError where a number is too large for 16 bit; the checkpoints have it.
    """
    stored = StoredWeights(Path(adapted.base.source)).tensors
    dtype = written_dtype(stored)
    tensors = {name: Written(tuple(tensor.shape), dtype) for name, tensor in stored.items()}

    def rounded(name: str) -> Tensor:
        tensor = trained.parameters[name].detach().to(dtype)
        if not bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all()):
            raise StudioError(
                f"{name} has numbers that {str(dtype).removeprefix('torch.')} can't hold.",
                hint="The newest checkpoint of the run has them, in float32.",
            )
        return tensor

    for _ in write_weights(folder, tensors, rounded, metadata={TRAINED: "full"}):
        pass
    write_texts(folder, adapted, dtype)
