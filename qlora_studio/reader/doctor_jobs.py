"""What the doctor finds in imported rows, and a copy of them as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qlora_studio.data.dataset import Dataset
from qlora_studio.data.doctor import Asked, diagnose
from qlora_studio.data.saved_copy import save_rows
from qlora_studio.protocol import reading
from qlora_studio.reader.model_text import ModelTexts

Told = Callable[[int, int, str], None]


def diagnose_rows(
    request: reading.Diagnose, dataset: Dataset, texts: ModelTexts, told: Told
) -> reading.Diagnosed:
    """Raises: StudioError where the test file or the model can't be read."""
    encoder = None
    if request.model:
        encoder = texts.of(request.model).encoder(request.data, request.method)
    asked = Asked(request.data, request.test, request.test_encoding, request.threshold, encoder)
    return reading.Diagnosed(id=request.id, rows=len(dataset), findings=diagnose(dataset, asked, told))


def save_copy(request: reading.SaveCopy, dataset: Dataset, told: Told) -> reading.CopySaved:
    """Raises: StudioError where the file is there already, or can't be written."""
    sha256 = save_rows(dataset, Path(request.path), told)
    return reading.CopySaved(id=request.id, path=request.path, rows=len(dataset), sha256=sha256)
