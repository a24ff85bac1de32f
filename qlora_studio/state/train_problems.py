"""What stands in the way of a run, and the buttons that mend it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qlora_studio.config.adapter_layers import problem_of_run
from qlora_studio.config.architecture import not_built_of
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.presets import Preset
from qlora_studio.config.recipes import Recipe
from qlora_studio.config.run_config import PREFERENCES, RunConfig
from qlora_studio.config.setting import Field, value_of
from qlora_studio.config.unusual import HIGHEST_USUAL_PREFERENCE_RATE, full_rate, unusual_settings
from qlora_studio.data.limits import MANY_DROPPED
from qlora_studio.data.report import ImportReport
from qlora_studio.memory.promise import GIB, Promise, Suggestion
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol.events import Problem
from qlora_studio.protocol.reading import TokensCounted
from qlora_studio.runs.space import in_gb
from qlora_studio.state.train_cost import (
    FEW_UPDATES,
    Kept,
    Lengths,
    Stretch,
    to_next_64,
    updates,
    ways_to_more_updates,
)

DEVICE = "the device"

Fields = Mapping[str, Field]


@dataclass(frozen=True)
class Mend:
    """A button under a problem: the settings it changes, the name it gives, the page it opens, or the key
    of the field it goes to.
    """

    words: str
    changes: dict[str, Any] = field(default_factory=dict)
    page: str = ""
    name: str = ""
    goes_to: str = ""
    accepts: str = ""  # skipped | dropped: rows to be trained without


@dataclass(frozen=True)
class TrainProblem:
    """Before the start: `blocks` it, or only warns. `key`: the setting that it stands under.

    waits: what the start waits for, in a few words that stand beside the button
    """

    words: str
    blocks: bool
    key: str = ""
    mends: tuple[Mend, ...] = ()
    waits: str = ""


def of_choice(key: str, problem: Problem | None, page: str) -> Iterator[TrainProblem]:
    """The model, or the data, can't be used."""
    if problem is not None:
        words = f"{problem.message} {problem.hint}".strip()
        again = (Mend("Choose again", page=page),)
        waits = f"{'a model' if page == 'models' else 'data'} that can be used"
        yield TrainProblem(words, blocks=True, key=key, mends=again, waits=waits)


def of_start(problem: Problem | None) -> Iterator[TrainProblem]:
    """The adapter that would be trained on can't be."""
    if problem is not None:
        words = f"{problem.message} {problem.hint}".strip()
        new = (Mend("Begin with a new adapter", {"lora.start_from": ""}),)
        waits = "an adapter that can be trained on"
        yield TrainProblem(words, blocks=True, key="lora.start_from", mends=new, waits=waits)


def of_layers(config: RunConfig, shape: ModelShape | None, fields: Fields) -> Iterator[TrainProblem]:
    """Layers are named that this model doesn't have, or that get no adapter."""
    if shape is None:
        return
    key, words = problem_of_run(config, shape)
    if words:
        label = fields[key].setting.label
        mends = (Mend("Go to the field", goes_to=key),)
        if shape.decoder is not None:  # its field isn't shown
            mends = (Mend("Make all layers alike", {key: value_of(RunConfig(), key)}),)
        waits = f"{label[:1].lower()}{label[1:]} that this model has"
        yield TrainProblem(
            f"{label}{words.removeprefix(key)}", blocks=True, key=key, mends=mends, waits=waits
        )


_INSTEAD = {  # key -> words of the button that mends it, and what the start waits for
    "training.method": ("Train it on chats", "another method"),
    "training.finetuning": ("Train an adapter", "an adapter"),
    "data.train_on": ("Learn from answers", "answers to learn"),
}
_NOT_EVERYTHING = "A preference is learned from answers alone, not from every token."


def of_kind(config: RunConfig, has_source: bool) -> Iterator[TrainProblem]:
    """Settings that this kind of model, or the method, can't learn by. has_source: an encoder-decoder"""
    refused = [(item.key, item.words, item.instead) for item in not_built_of(config)] if has_source else []
    if not has_source and config.training.method in PREFERENCES and config.data.train_on == "everything":
        refused.append(("data.train_on", _NOT_EVERYTHING, "answers"))
    for key, words, instead in refused:
        button, waits = _INSTEAD[key]
        yield TrainProblem(words, blocks=True, key=key, mends=(Mend(button, {key: instead}),), waits=waits)


def of_refusals(refusals: Mapping[str, str], fields: Fields) -> Iterator[TrainProblem]:
    """A field holds what can't stand: the run would start with the value from before."""
    for key, reason in refusals.items():
        label = fields[key].setting.label
        words = f"{label}{reason.removeprefix(key)}" if reason.startswith(key) else f"{label}: {reason}"
        mends = (Mend("Go to the field", goes_to=key),)
        waits = f"{label[:1].lower()}{label[1:]} that can be used"
        yield TrainProblem(words, blocks=True, key=key, mends=mends, waits=waits)


def of_device(held: str, page: str) -> Iterator[TrainProblem]:
    """One device, one owner. held: a sentence, empty where it is free; page: that shows what holds it."""
    if held:
        yield TrainProblem(held, blocks=True, mends=(Mend("Look at it", page=page),), waits=DEVICE)


def of_name(name: str, taken: bool, free_name: str) -> Iterator[TrainProblem]:
    """Two runs of one name can't be told apart."""
    if taken:
        words = f"There is a run named {name} already."
        mends = (Mend(f"Name it {free_name}", name=free_name),)
        yield TrainProblem(words, blocks=True, mends=mends, waits="a free name")


def of_import(report: ImportReport | None, accepted: bool) -> Iterator[TrainProblem]:
    """More was skipped than goes without asking (D3)."""
    if report is None or not report.many_skipped or accepted:
        return
    faults = [problem for problem in report.problems if not problem.by_design]
    reasons = ", ".join(f"{problem.count:,} {problem.reason}" for problem in faults[:2])
    words = f"{report.unusable:,} of {report.rows_in:,} rows skipped: {reasons}."
    mends = (Mend("Show them", page="data"), Mend("Train without them", accepts="skipped"))
    yield TrainProblem(words, blocks=True, mends=mends, waits="a look at what was skipped")


def of_rows(
    config: RunConfig, counted: TokensCounted | None, kept: Kept, accepted: bool
) -> Iterator[TrainProblem]:
    """Rows that are too long, or that teach nothing. accepted: that rows are missing."""
    if counted is None:
        return
    too_long, limit = config.data.too_long, f"{config.data.seq_len:,} tokens"
    if counted.has_source:
        limit += f" of source or {config.data.target_len:,} of target"
    raised = _raised(config, counted)
    key = next(iter(raised.changes), "data.seq_len")
    if kept.rows == 0 and not raised.changes:
        what = "target" if counted.has_source else "token to learn"
        reason = counted.lengths.refused or f"it has no {what}."
        words = f"No row can be learned from. The first one: {reason}"
        other = [Mend("Choose other data", page="data")]
        if config.training.method in PREFERENCES:
            other.append(Mend(_INSTEAD["training.method"][0], {"training.method": "sft"}))
        waits = f"rows with a {what}"
        yield TrainProblem(words, blocks=True, key="data.path", mends=tuple(other), waits=waits)
    elif kept.rows == 0:
        words = f"No row has a token to learn within {limit}."
        waits = "rows with something to learn"
        yield TrainProblem(words, blocks=True, key=key, mends=(raised,), waits=waits)
    elif kept.longer and too_long == "stop":
        words = f"{kept.longer:,} rows are longer than {limit}."
        mends = (raised, Mend("Drop them", {"data.too_long": "drop"}))
        waits = "a length that holds all rows"
        yield TrainProblem(words, blocks=True, key=key, mends=mends, waits=waits)
    elif too_long == "drop" and not accepted and kept.longer > MANY_DROPPED * (kept.rows + kept.longer):
        words = f"{kept.longer:,} of {kept.rows + kept.longer:,} chats are longer than {limit}."
        mends = (raised, Mend("Train without them", accepts="dropped"))
        waits = "a length that holds most rows"
        yield TrainProblem(words, blocks=True, key=key, mends=mends, waits=waits)
    elif kept.longer:
        fate = "will be cut" if too_long == "truncate" else "will not be trained on"
        words = f"{kept.longer:,} rows are longer than {limit} and {fate}."
        yield TrainProblem(words, blocks=False, key=key, mends=(raised,))
    nothing = counted.lengths.nothing_to_learn
    if nothing and kept.rows:
        rows = "1 row has" if nothing == 1 else f"{nothing:,} rows have"
        words = f"{rows} no token to learn; {'it is' if nothing == 1 else 'they are'} left out."
        yield TrainProblem(words, blocks=False, mends=(Mend("Show", page="data"),))


def _raised(config: RunConfig, counted: TokensCounted) -> Mend:
    """Limits that hold the longest row; no changes where they do already."""
    if not counted.has_source:
        room = to_next_64(counted.lengths.longest)
        longer = counted.lengths.longest > config.data.seq_len
        return Mend(f"Raise to {room:,}", {"data.seq_len": room} if longer else {})
    lengths = {"data.seq_len": counted.longest_source, "data.target_len": counted.longest_target}
    changes = {key: to_next_64(most) for key, most in lengths.items() if most > value_of(config, key)}
    names = {"data.seq_len": "source", "data.target_len": "target"}
    words = ", ".join(f"{tokens:,} of {names[key]}" for key, tokens in changes.items())
    return Mend(f"Raise to {words}", changes)


def of_memory(
    config: RunConfig, promised: Promise | None, fields: Fields, otherwise: str = ""
) -> Iterator[TrainProblem]:
    """Doesn't fit, or just so; with what would. otherwise: the way on where no settings make it fit"""
    if promised is not None and promised.verdict in ("tight", "too large"):
        mends = tuple(_fitting(config, suggestion, fields) for suggestion in promised.suggestions[:3])
        waits = "settings that fit in memory"
        words = promised.words
        if otherwise and not mends and not promised.fits:
            words, waits = f"{words} {otherwise}", "a model that fits in memory"
            mends = (Mend("Choose another model", page="models"),)
        yield TrainProblem(words, blocks=not promised.fits, mends=mends, waits=waits)


def of_disk(needed: int | None, free: int | None) -> Iterator[TrainProblem]:
    """Checkpoints must have room before the start (R9)."""
    if needed is not None and free is not None and needed > free:
        words = f"The runs disk has {in_gb(free)} free; this run needs {in_gb(needed)}."
        mends = (Mend("Change the folder", page="settings"),)
        yield TrainProblem(words, blocks=True, mends=mends, waits="room on the disk")


def of_recipe(
    preset: Preset | None, shape: ModelShape | None, report: ImportReport | None
) -> Iterator[TrainProblem]:
    """A recipe of the paper on another model or other data than it was made for: that may stand."""
    if isinstance(preset, Recipe):
        data_format = report.format if report is not None else ""
        for words in preset.doubts(shape, known_shape(preset.shape), data_format):
            yield TrainProblem(words, blocks=False)


def of_length(
    config: RunConfig, lengths: Lengths | None, kept: Kept, fields: Fields, rows: Sequence[Stretch] = ()
) -> Iterator[TrainProblem]:
    """Too few updates to learn from."""
    count = updates(config, kept)
    if lengths is None or not 0 < count < FEW_UPDATES:
        return
    how_many = "1 update" if count == 1 else f"{count:,} updates"
    words = f"The run makes only about {how_many}; {FEW_UPDATES} or more teach better."
    ways = ways_to_more_updates(config, lengths, rows)
    mends = tuple(Mend(_in_words(changes, fields), changes) for changes in ways)
    yield TrainProblem(words, blocks=False, mends=mends)


def of_unusual(config: RunConfig, kept: Kept, usual_rate: float, fields: Fields) -> Iterator[TrainProblem]:
    """What may stand and still spoils the run. usual_rate: the preset's, of an adapter"""
    count = updates(config, kept)
    usual_rate = full_rate(usual_rate) if config.trains_all else usual_rate
    if config.training.method in PREFERENCES:
        usual_rate = min(usual_rate, HIGHEST_USUAL_PREFERENCE_RATE)
    mended = {"training.learning_rate": usual_rate, "training.warmup_steps": count // 10}
    for key, words in unusual_settings(config, count):
        changes = {key: mended[key]}
        yield TrainProblem(words, blocks=False, mends=(Mend(_in_words(changes, fields), changes),))


def _fitting(config: RunConfig, suggestion: Suggestion, fields: Fields) -> Mend:
    """A change with its price: "Rank 64 to 32: 0.6 GiB less", "Keep dequantized off: 13.1 GiB less"."""
    parts = []
    for key, value in suggestion.changes.items():
        item = fields[key]
        now = "" if isinstance(value, bool) else f"{_shown(item, value_of(config, key))} to "
        parts.append(f"{item.setting.label} {now}{_shown(item, value)}")
    saved = suggestion.saved_bytes
    # What RAM has no room for is the card's to hold, so that there more is taken.
    price = f"{abs(saved) / GIB:.1f} GiB {'less' if saved >= 0 else 'more on the card'}"
    return Mend(f"{', '.join(parts)}: {price}", dict(suggestion.changes))


def _in_words(changes: Mapping[str, Any], fields: Fields) -> str:
    """ "Accumulate 1, Rows per step 1"."""
    return ", ".join(
        f"{fields[key].setting.label} {_shown(fields[key], value)}" for key, value in changes.items()
    )


def _shown(item: Field, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        return str(item.setting.choices.get(value, value))
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}"
