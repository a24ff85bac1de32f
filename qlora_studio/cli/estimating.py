"""`estimate`: the memory that a run would need, before anything starts."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlora_studio.cli.output import print_json, print_text
from qlora_studio.cli.recipes import add_recipe_arguments, chosen_recipe, chosen_shape, recipe_settings
from qlora_studio.cli.room import Room, room_here, room_of_card
from qlora_studio.cli.start import with_shape_of_start
from qlora_studio.cli.training import settings_from
from qlora_studio.config.adapter_layers import require_layers
from qlora_studio.config.architecture import require_trainable
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import SAMPLE, SHAPE_PREFIX, RunConfig
from qlora_studio.memory.correction import NO_CORRECTION, Correction, correction, correction_words
from qlora_studio.memory.devices import device_name
from qlora_studio.memory.largest import Largest, largest_that_fits
from qlora_studio.memory.not_as_asked import not_as_asked
from qlora_studio.memory.promise import GIB, Promise, promise
from qlora_studio.protocol.smaller_recipe import card_that_holds, smaller_recipe


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`qlora-studio estimate`."""
    estimate = subparsers.add_parser("estimate", help="the memory a run needs, by part")
    estimate.add_argument("file", type=Path, nargs="?", metavar="FILE.toml", help="the settings, or 'sample'")
    add_recipe_arguments(estimate)
    estimate.add_argument("--card", type=float, metavar="GIB", help="for a card of this size")
    estimate.add_argument("--set", action="append", default=[], metavar="a.b=v", dest="changes")
    estimate.add_argument("--json", action="store_true")
    estimate.set_defaults(run=estimate_command)


def estimate_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    estimate = _estimated(arguments)
    if arguments.json:
        print_json(_as_json(estimate))
    else:
        _print(estimate)
    return 0


@dataclass(frozen=True)
class _Estimate:
    """ways: to need less, or where else it goes. notes: on settings that aren't as they seem"""

    room: Room
    promised: Promise
    largest: Largest | None
    ways: Sequence[str]
    notes: Sequence[str]


def _estimated(arguments: argparse.Namespace) -> _Estimate:
    recipe = chosen_recipe(arguments)
    if recipe is not None:
        arguments.model = arguments.model or f"{SHAPE_PREFIX}{recipe.shape}"
        arguments.data = arguments.data or SAMPLE  # what is in it takes no memory
    config = (
        recipe_settings(recipe, arguments) if recipe else settings_from(arguments.file, arguments.changes)
    )
    config = with_shape_of_start(config)
    room = room_here() if arguments.card is None else room_of_card(arguments.card)
    shape = chosen_shape(config.model.path)
    require_trainable(config, shape)
    require_layers(config, shape)
    corrected = _measured_here(shape, config, room.device) if arguments.card is None else NO_CORRECTION
    promised = promise(
        shape,
        config,
        device=room.device,
        free_bytes=room.free_bytes,
        free_ram_bytes=room.ram_bytes,
        corrected=corrected,
    )
    largest = largest_that_fits(
        shape,
        config,
        device=room.device,
        room=room.free_bytes,
        free_ram=room.ram_bytes,
        corrected=corrected,
    )
    ways = [way.words for way in promised.suggestions]
    if not (promised.fits or promised.lacks_ram or ways):
        kind = recipe.key.rpartition("-")[0] if recipe else "guanaco"
        ways = list(_other_ways(shape, config, room, kind))
    notes = not_as_asked(
        shape,
        config,
        promised,
        on_card=room.device == "cuda",
        multiplies_in_fp8=room.multiplies_in_fp8,
    )
    return _Estimate(room, promised, largest, ways, notes)


def _as_json(estimate: _Estimate) -> dict[str, Any]:
    promised, largest = estimate.promised, estimate.largest
    parts = _in_gib(promised.parts)
    return {
        "parts": parts,
        "total_gib": sum(parts.values()),
        "in_ram_gib": promised.pinned / GIB,
        "fits": promised.fits,
        "recompute_layers": promised.recompute_layers,
        "phases_gib": _in_gib(promised.phases),
        "measured_factor": promised.factor,
        "notes": list(estimate.notes),
        "ways": list(estimate.ways),
        "free_gib": estimate.room.free_bytes / GIB,
        "largest": {"batch_size": largest.batch_size, "seq_len": largest.seq_len} if largest else None,
    }


def _print(estimate: _Estimate) -> None:
    promised, room, parts = estimate.promised, estimate.room, _in_gib(estimate.promised.parts)
    for name, gib in parts.items():
        print_text(f"{name:<12} {gib:8.2f} GiB")
    print_text(f"{'total':<12} {sum(parts.values()):8.2f} GiB of {room.free_bytes / GIB:.1f} {room.words}")
    if promised.pinned:
        free = f" of {room.ram_bytes / GIB:.1f}" if room.ram_bytes is not None else ""
        in_ram = f"{promised.pinned / GIB:8.2f} GiB{free} of RAM"
        print_text(f"{'beside it':<12} {in_ram}: {' and '.join(promised.in_ram)}")
    print_text(f"the most is taken in {promised.phase}; each phase by itself:")
    for name, gib in _in_gib(promised.phases).items():
        print_text(f"  {name:<14} {gib:8.2f} GiB")
    said = (promised.words, *estimate.notes, correction_words(promised.factor))
    for words in (*said, estimate.largest.words if estimate.largest else ""):
        if words:
            print_text(words)
    for words in estimate.ways:
        print_text(f"or: {words}")


def _in_gib(counts: Mapping[Any, int]) -> dict[str, float]:
    return {name: count / GIB for name, count in counts.items()}


def _other_ways(shape: ModelShape, config: RunConfig, room: Room, kind: str) -> Iterator[str]:
    """Where no settings make the model fit. kind: of the recipes that are looked through."""
    yield smaller_recipe(shape, device=room.device, room=room.free_bytes, kind=kind)
    gib = card_that_holds(shape, config)
    if gib is not None:
        yield f"On a card of {gib} GiB it goes: --card {gib} shows how."


def _measured_here(shape: ModelShape, config: RunConfig, device: str) -> Correction:
    return correction(device_name(device), shape, config.model.quantization)
