"""The adapter that a run trains on: checked at the same door as any foreign one, and its shape taken."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qlora_studio.config.run_config import (
    COMPARES_WITH_BASE,
    SHAPE_PREFIX,
    LoraConfig,
    ModelConfig,
    RunConfig,
)
from qlora_studio.errors import StudioError
from qlora_studio.models.adapter import WEIGHTS, check_adapter
from qlora_studio.models.adapter_settings import in_words, settings_of
from qlora_studio.models.model_folder import ModelFolder, open_folder
from qlora_studio.models.shapes import model_shape
from qlora_studio.protocol import reading
from qlora_studio.runs.start import StartAdapter, start_adapter

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Start:
    """lora: the run's settings with the adapter's shape; sha256: of its weights, taken before the check."""

    source: StartAdapter
    lora: LoraConfig
    sha256: str

    @property
    def words(self) -> str:
        """Of what the run starts from, as one sentence."""
        return f"It trains on the adapter in {self.source.folder}, which brings {in_words(self.lora)}."

    def blocks(self) -> Iterator[bytes]:
        """Of its weights' file."""
        return _blocks(open_folder(self.source.folder))

    def require_base(self, model: str, model_sha256: str) -> None:
        """Raises: StudioError where the run that made it was on other weights than `model`'s."""
        record = self.source.record
        if record is not None and record.hashes.model and record.hashes.model != model_sha256:
            raise StudioError(
                f"{self.source.folder} was trained on {record.model_name or record.model_folder}, and not on "
                f"these weights of {model}.",
                hint="Choose the model that it was trained on, or start from another adapter.",
            )

    def require_storage(self, model: ModelConfig) -> None:
        """An adapter that begins with what 4 bits lost (LoftQ) belongs to these 4 bits.

        Raises: StudioError where `model` stores its weights otherwise.
        """
        record = self.source.record
        if record is None or record.config.lora.init != "loftq":
            return
        made = record.config.model
        if (made.quantization, made.double_quant) != (model.quantization, model.double_quant):
            double = " with double quantization" if made.double_quant else " without double quantization"
            raise StudioError(
                f"{self.source.folder} makes up for what {made.quantization}{double} loses of the weights.",
                hint="Store the base in the same way, or start from another adapter.",
            )


def check_start(request: reading.CheckStart) -> reading.StartChecked:
    """Raises: StudioError naming the file and the field."""
    start = start_of(request.config)
    return reading.StartChecked(id=request.id, lora=start.lora, words=in_words(start.lora))


def start_of(config: RunConfig) -> Start:
    """Of a run that doesn't begin with a new adapter. Raises: StudioError naming the file and the field."""
    model, method = config.model.path, config.training.method
    if model.startswith(SHAPE_PREFIX):
        raise StudioError(
            f"lora.start_from: the weights of {model} are random; no adapter was trained on them.",
            hint="Leave it empty.",
        )
    if method in COMPARES_WITH_BASE:
        raise StudioError(
            f"lora.start_from: {method.upper()} compares with the base model alone, and an adapter that is "
            "trained on is far from it from the first step.",
            hint="Export that adapter merged into its base and take this as the model; or choose ORPO.",
        )
    source = start_adapter(Path(config.lora.start_from))
    folder = open_folder(source.folder, hint="Choose a run, or an adapter's folder.")
    sha256 = ""
    if folder.has(WEIGHTS):  # or the check says what is missing
        sha256 = _sha256(folder)
    checked = check_adapter(source.folder, model)
    return Start(source, settings_of(checked, config.lora, model_shape(model), source.folder), sha256)


def _blocks(folder: ModelFolder) -> Iterator[bytes]:
    with folder.open(WEIGHTS) as file:
        while block := file.read(_BLOCK):
            yield block


def _sha256(folder: ModelFolder) -> str:
    digest = hashlib.sha256()
    for block in _blocks(folder):
        digest.update(block)
    return digest.hexdigest()
