"""Looks at every number of a model's weights: one that is NaN or Inf spoils whatever is trained on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from qlora_studio.errors import StudioError
from qlora_studio.models.check import model_folder
from qlora_studio.models.finite import each_tensor
from qlora_studio.protocol.commands import ScanWeights
from qlora_studio.protocol.events import LoadingProgress, WeightsScanned

_TELL_EVERY_S = 0.1


def scan_weights(
    command: ScanWeights, given_up: Callable[[], bool]
) -> Iterator[LoadingProgress | WeightsScanned]:
    """given_up: whether nobody waits for it any more. Raises: StudioError naming the file."""
    folder = model_folder(command.model)
    words = f"Looking at every number of {folder.name}"
    bad: list[str] = []
    count, told = 0, -_TELL_EVERY_S
    for count, total, _, name in each_tensor(folder):
        if given_up():
            raise StudioError("The scan was stopped.")
        if name:
            bad.append(name)
        if time.monotonic() - told >= _TELL_EVERY_S:
            told = time.monotonic()
            yield LoadingProgress(done=count, total=total, words=words)
    yield WeightsScanned(id=command.id, tensors=count, bad=tuple(bad))
