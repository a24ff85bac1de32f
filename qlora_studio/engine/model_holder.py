"""The one model that is on the device, kept from one command to the next."""

from __future__ import annotations

import gc
from collections.abc import Generator

from qlora_studio.config.run_config import SHAPE_PREFIX
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.device import Device
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.loading import load_base
from qlora_studio.models.check import model_folder
from qlora_studio.protocol.events import LoadingProgress


class ModelHolder:
    """Loads a base when another one, or another storage, is asked for; adapters stay with their base."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._held: AdaptedModel | None = None
        self._clean = True  # nothing was loaded, not even in part

    @property
    def held(self) -> AdaptedModel | None:
        """What is on the device now."""
        return self._held

    def hold(self, model: str, storage: Storage) -> Generator[LoadingProgress, None, AdaptedModel]:
        """`model` as settings name it. Raises: StudioError; nothing is on the device then."""
        if self._held is not None and self.holds(model, storage):
            return self._held
        self.let_go()
        self._clean = False
        base = yield from load_base(model, storage, self.device)
        self._held = AdaptedModel(base)
        return self._held

    def holds(self, model: str, storage: Storage) -> bool:
        """Whether it is on the device, stored so."""
        base = self._held.base if self._held is not None else None
        return base is not None and base.source == _source(model) and base.storage == storage

    def let_go(self) -> None:
        """Frees the device."""
        self._held = None
        if not self._clean:
            gc.collect()  # modules refer to each other in circles
            self.device.empty_cache()
            self._clean = True


def _source(model: str) -> str:
    """What `BaseModel.source` says of it: "sample" and its folder are the same model."""
    return model if model.startswith(SHAPE_PREFIX) else str(model_folder(model))
