"""The promise: the memory a run will take at its peak, by part, and whether it fits."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import Any, Literal

import msgspec

from qlora_studio.config.architecture import as_trained
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import RunConfig
from qlora_studio.memory.compiling import keeps_dequantized, not_in_ram_reason
from qlora_studio.memory.correction import (
    NO_CORRECTION,
    Correction,
    is_compiled,
    is_graphed,
    layers_of,
    tokens_at_once,
)
from qlora_studio.memory.parts import EMBEDDING, Parts, parts, pinned_bytes
from qlora_studio.memory.phases import OF_THE_RUN, Phase, by_phase
from qlora_studio.memory.setting import Setting
from qlora_studio.memory.suggestions import changed, ways_to_fit

GIB = 1024**3
_SAFE_SHARE = 0.92  # of the free memory; the rest is for fragments and for what other programs take
_TIGHT_SHARE = 0.97

Verdict = Literal["fits", "tight", "too large", "unknown"]


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """A change of settings that fits. `changes`: dotted key -> value."""

    words: str
    changes: dict[str, Any]
    saved_bytes: int


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes at the peak.

    parts:             weights, adapter, optimizer, activations, logits, other; they add up to `total`
    phase:             of the run, in which these are taken: the one that takes most
    phases:            the total of each phase, those after the run too: chat with the adapter, export
    paged:             of these, what the driver may move to RAM: the paged optimizer's state
    in_ram:            beside `total`, in RAM, from where nothing can move: bytes by what lies there
    free_ram:          what is free of it; None: not known, or of no account
    recompute_layers:  layers whose activations are computed again
    gives_up_dequantized: weights were to stay dequantized and don't, as on Auto layers would have to be
        recomputed for them
    verdict:           tight: it goes, but some of the optimizer may move to RAM, which is slower
    """

    parts: dict[str, int]
    total: int
    paged: int
    free_bytes: int | None
    recompute_layers: int
    verdict: Verdict
    words: str
    phase: Phase
    phases: dict[Phase, int]
    factor: float  # by which what runs measured here corrected the estimated parts; 1: by nothing
    suggestions: tuple[Suggestion, ...] = ()
    gives_up_dequantized: bool = False
    in_ram: dict[str, int] = {}
    free_ram: int | None = None

    @property
    def pinned(self) -> int:
        """Of all that lies in RAM."""
        return sum(self.in_ram.values())

    @property
    def lacks_ram(self) -> bool:
        """Whether what is to lie in RAM is known to have no room there, whatever the card has."""
        return self.free_ram is not None and self.pinned > _TIGHT_SHARE * self.free_ram

    @property
    def fits(self) -> bool:
        """False only where it is known not to."""
        return self.verdict != "too large"

    @property
    def largest_phase(self) -> Phase:
        """Of all, those after the run too."""
        return max(self.phases, key=self.phases.__getitem__)

    @property
    def allocated(self) -> int:
        """What torch should count as allocated on a card at the peak: without context and paged state."""
        return self.total - self.paged - self.parts["other"]


def promise(
    shape: ModelShape,
    config: RunConfig,
    *,
    device: str,
    device_bytes: int | None = None,
    free_bytes: int | None = None,
    free_ram_bytes: int | None = None,
    longest_row: int | None = None,
    all_tokens: int | None = None,
    ways: bool = True,
    corrected: Correction = NO_CORRECTION,
) -> Promise:
    """What this run needs, and what would fit where it doesn't.

    device:       "cuda" | "cpu"
    device_bytes: the card's memory, or the machine's
    free_bytes:   what is free of it; where not known, all of `device_bytes`
    free_ram_bytes: of the machine beside a card; where not known, nothing is refused for it
    longest_row:  tokens; without packing no row is computed longer than this
    all_tokens:   of all rows there are; no batch has more, but for a card's, which are padded
    ways:         whether changes that fit are looked for
    corrected:    by what was measured on this device
    """
    room = free_bytes if free_bytes is not None else device_bytes
    found = _promise(shape, config, device, room, free_ram_bytes, longest_row, all_tokens, corrected)
    if not ways or found.verdict not in ("tight", "too large"):
        return found

    def needs(changed: RunConfig) -> Promise:
        return _promise(shape, changed, device, room, free_ram_bytes, longest_row, all_tokens, corrected)

    trained = as_trained(config, shape)
    that_fit = ways_to_fit(
        config,
        lambda changed: needs(changed).verdict == "fits",
        on_card=device == "cuda",
        encoder_decoder=shape.decoder is not None,
        ram_lacks=found.lacks_ram,
        embedding_may_move=not_in_ram_reason(shape, trained) is None,
        weights_stay_dequantized=keeps_dequantized(shape.family, trained) and not found.gives_up_dequantized,
    )
    suggestions = []
    for way in that_fit:
        total = needs(way.config).total
        words = f"With {way.words} it needs {_gib(total)} GiB."
        suggestions.append(Suggestion(words=words, changes=way.changes, saved_bytes=found.total - total))
    return msgspec.structs.replace(found, suggestions=tuple(suggestions))


def as_promised(config: RunConfig, promised: Promise) -> RunConfig:
    """Without what was given up on Auto."""
    given_up = {"training.keep_dequantized": False} if promised.gives_up_dequantized else {}
    return changed(config, given_up)


def _promise(
    shape: ModelShape,
    config: RunConfig,
    device: str,
    room: int | None,
    free_ram: int | None,
    longest_row: int | None,
    all_tokens: int | None,
    corrected: Correction,
) -> Promise:
    config = as_trained(config, shape)
    compiled = is_compiled(shape, config, device)
    factor = corrected.compiled if compiled else corrected.eager
    if is_graphed(shape, config, device):
        factor = corrected.graphed
    tokens = tokens_at_once(shape, config, longest_row, all_tokens, device=device)
    setting = Setting(shape, config, device, compiled, tokens, room, factor, corrected.auto_dtype)
    recomputed = _recomputed_layers(setting)
    gives_up = recomputed > 0 and room is not None and _is_auto(config) and setting.keeps_dequantized
    if gives_up:
        config = changed(config, {"training.keep_dequantized": False})
        setting = replace(setting, config=config)
        recomputed = _recomputed_layers(setting)
    phases = by_phase(setting, parts(setting, recomputed))
    phase = max(OF_THE_RUN, key=lambda phase: phases[phase].total)
    needed = phases[phase]
    paged = needed.optimizer if device == "cuda" and config.training.optimizer.startswith("paged") else 0
    verdict = _verdict(needed.total, paged, room)
    promised = Promise(
        parts=msgspec.structs.asdict(needed),
        total=needed.total,
        paged=paged,
        free_bytes=room,
        recompute_layers=recomputed,
        gives_up_dequantized=gives_up,
        verdict=verdict,
        words=_words(verdict, needed, paged, room, device),
        phase=phase,
        factor=factor,
        phases={name: found.total for name, found in phases.items()},
        in_ram=pinned_bytes(setting, recomputed),
        free_ram=free_ram,
    )
    if not promised.lacks_ram or free_ram is None:
        return promised
    what = " and the ".join(promised.in_ram)
    need = "needs" if list(promised.in_ram) == [EMBEDDING] else "need"
    lacking = f"The {what} {need} {_gib(promised.pinned)} GiB of RAM; {_gib(free_ram)} are free."
    words = f"{promised.words} {lacking}" if verdict == "too large" else lacking
    return msgspec.structs.replace(promised, verdict="too large", words=words)


def _is_auto(config: RunConfig) -> bool:
    return config.training.recompute == "auto"


def _recomputed_layers(setting: Setting) -> int:
    """As set; for auto the fewest that fit, and all of them where nothing fits or the room isn't known."""
    layers = setting.shape.all_layers
    if not _is_auto(setting.config) or setting.room is None:
        return layers_of(setting.config, setting.shape)
    safe = _SAFE_SHARE * setting.room
    if parts(setting, 0).total <= safe:
        return 0
    # From one on, each further layer needs less.
    found = bisect_left(range(1, layers), True, key=lambda count: parts(setting, count).total <= safe)
    return min(found + 1, layers)


def _verdict(total: int, paged: int, room: int | None) -> Verdict:
    if room is None:
        return "unknown"
    if total <= _SAFE_SHARE * room:
        return "fits"
    return "tight" if total - paged <= _TIGHT_SHARE * room else "too large"


def _words(verdict: Verdict, needed: Parts, paged: int, room: int | None, device: str) -> str:
    total = needed.total
    if room is None:
        return f"Needs at least {_gib(total)} GiB."
    if verdict == "fits":
        return f"Fits, {_gib(room - total)} GiB to spare."
    if verdict == "too large":
        return f"This needs {_gib(total)} GiB; {_gib(room)} are free."
    spilled = total - int(_SAFE_SHARE * room)
    if device == "cuda" and paged:
        return (
            f"Tight: {_gib(total)} of {_gib(room)} GiB. Up to {_gib(min(paged, spilled))} GiB of the "
            "optimizer may move to RAM, which is slower."
        )
    return f"Tight: {_gib(total)} of {_gib(room)} GiB. Another program's need may end it."


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}"
