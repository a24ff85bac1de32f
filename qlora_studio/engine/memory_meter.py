"""Peak memory of a step by part: what is computed from the tensors, and what is measured around them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
import torch

from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.cuda_graphs import CudaGraphs
from qlora_studio.engine.memory_watch import MemoryWatch
from qlora_studio.engine.optimizer import AdapterOptimizer
from qlora_studio.engine.trained_weights import TrainedWeights
from qlora_studio.memory.others import OthersInRam, OthersOnCard, bytes_in_ram


class MemoryMeter:
    """Bytes of weights, adapter and optimizer are those of their tensors; the rest is the peak less these.
    Where all weights are trained, their gradients stand in the adapter's place.

    On a card the peak is torch's own; on a processor it is the resident memory of the process. What other
    programs take meanwhile is looked at from a thread, until `close`.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        trained: TrainedWeights,
        optimizer: AdapterOptimizer,
        graphs: CudaGraphs | None = None,
    ) -> None:
        """graphs: that passes are played from"""
        self._device = adapted.base.device
        self._graphs = graphs
        others = OthersOnCard() if self._device.is_cuda else OthersInRam()
        self._watch = MemoryWatch(lambda: others.look(self._held_bytes))
        self._optimizer = optimizer
        self._paged_bytes = 0  # as of the newest step: the watch must not go through a state that grows
        self._weights = adapted.weight_bytes
        self._adapter = trained.bytes_beside

    def start_step(self) -> None:
        """Forgets the peak so far."""
        if self._device.is_cuda:
            torch.cuda.reset_peak_memory_stats(self._device.torch_device)
        else:
            with contextlib.suppress(OSError):  # elsewhere than on Linux the peak is the process's own
                Path("/proc/self/clear_refs").write_text("5")

    def start_watching(self) -> None:
        """At the first step of a sitting."""
        self._watch.start()

    def close(self) -> None:
        """Nobody asks any more."""
        self._watch.close()

    def beside(self) -> tuple[int, int]:
        """Bytes since this was asked before: the most that other programs took, and of a paged optimizer's
        state what then had no room on the card.
        """
        others = self._watch.most()
        if not (self._device.is_cuda and self._optimizer.paged):
            return others, 0
        self._paged_bytes = self._optimizer.state_bytes
        _, reserved = self._peaks_on_card()
        return others, bytes_in_ram(self._paged_bytes, reserved, others, self._device.memory_bytes)

    def _peaks_on_card(self) -> tuple[int, int]:
        """Bytes allocated and reserved. One look at torch's counters: its shorter names take a millisecond
        each, for which the card would wait.
        """
        counters = torch.cuda.memory_stats_as_nested_dict(self._device.torch_device)
        return (
            int(counters["allocated_bytes"]["all"]["peak"]),
            int(counters["reserved_bytes"]["all"]["peak"]),
        )

    def _held_bytes(self) -> int:
        """Of the card, by torch and the optimizer; without meaning on a processor."""
        if not self._device.is_cuda:
            return 0
        counters = torch.cuda.memory_stats_as_nested_dict(self._device.torch_device)  # as in `_peaks_on_card`
        return int(counters["reserved_bytes"]["all"]["current"]) + self._paged_bytes

    def peak_by_part(self) -> dict[str, int]:
        """Of the step since `start_step`; the parts of the promise."""
        parts = {
            "weights": self._weights,
            "adapter": self._adapter,
            "optimizer": self._optimizer.state_bytes,
        }
        if not self._device.is_cuda:
            return {**parts, "other": max(0, _peak_resident_bytes() - sum(parts.values()))}
        on_card = sum(parts.values()) - (parts["optimizer"] if self._optimizer.paged else 0)
        allocated, reserved = self._peaks_on_card()
        if self._graphs is not None:
            allocated += self._graphs.held_bytes
        return {
            **parts,
            "activations": max(0, allocated - on_card),
            "other": max(0, reserved - allocated),
        }


def _peak_resident_bytes() -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        return int(psutil.Process().memory_info().rss)
