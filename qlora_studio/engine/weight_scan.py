"""Looks at every number of a model's weights: one that is NaN or Inf spoils whatever is trained on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from qlora_studio.errors import StudioError
from qlora_studio.models.check import model_folder
from qlora_studio.models.finite import not_finite
from qlora_studio.models.model_folder import open_folder
from qlora_studio.models.weights_index import read_weights_index
from qlora_studio.protocol.commands import ScanWeights
from qlora_studio.protocol.events import LoadingProgress, WeightsScanned

_TELL_EVERY_S = 0.1


def scan_weights(
    command: ScanWeights, given_up: Callable[[], bool]
) -> Iterator[LoadingProgress | WeightsScanned]:
    """given_up: whether nobody waits for it any more. Raises: StudioError naming the file."""
    folder = model_folder(command.model)
    tensors = read_weights_index(folder).tensors
    source = open_folder(folder)
    words = f"Looking at every number of {folder.name}"
    bad: list[str] = []
    told = time.monotonic()
    yield LoadingProgress(done=0, total=len(tensors), words=words)
    in_file_order = sorted(tensors.items(), key=lambda item: (item[1].file, item[1].offset))
    for done, (name, tensor) in enumerate(in_file_order, start=1):
        if given_up():
            raise StudioError("The scan was stopped.")
        bad += not_finite(source, {name: tensor})
        if time.monotonic() - told >= _TELL_EVERY_S:
            told = time.monotonic()
            yield LoadingProgress(done=done, total=len(tensors), words=words)
    yield WeightsScanned(id=command.id, tensors=len(tensors), bad=tuple(bad))
