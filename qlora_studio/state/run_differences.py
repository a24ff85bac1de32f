"""What differs between runs: their settings, then what came of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlora_studio.config.data_parts import Fix
from qlora_studio.config.run_config import DataConfig, RunConfig
from qlora_studio.config.setting import Field, fields_of, value_of
from qlora_studio.runs.folder import Run
from qlora_studio.state.data_name import file_name

_SAME = 1e-12


@dataclass(frozen=True)
class Difference:
    """One row. values: in words, one a run; marked: those that are told from the others, or the best one.

    best: the marked one is the best; head: a line above results, without values
    """

    label: str
    values: tuple[str, ...]
    marked: tuple[bool, ...]
    differs: bool
    best: bool = False
    head: bool = False
    key: str = ""

    def words(self) -> list[str]:
        """The values as they are shown: the best one says so."""
        marks = zip(self.values, self.marked, strict=True)
        return [f"{value} best" if self.best and marked else value for value, marked in marks]


def differences(runs: Sequence[Run], result_bytes: Sequence[int | None]) -> list[Difference]:
    """All settings, those that differ or not, and the results.

    result_bytes: of each run's finished adapter or model, where there is one
    """
    rows = [_of_setting(item, runs) for item in _FIELDS]
    results = [
        _result("Evaluation loss", [_evaluation(run) for run in runs], "{:.3f}".format),
        _result("Perplexity", [_perplexity(run) for run in runs], "{:.2f}".format),
        _plain("Peak, GiB", [_gib(run.state.peak_bytes) for run in runs]),
        _plain("Promised, GiB", [_gib(sum(run.record.promise_bytes.values())) for run in runs]),
        _plain("Tokens/s", [_rounded(run.state.tokens_per_second) for run in runs]),
        _plain("Steps", [f"{run.state.step:,}" for run in runs]),
        _plain("Result on disk", [_megabytes(size) for size in result_bytes]),
    ]
    empty = tuple("" for _ in runs)
    head = Difference("Results", empty, tuple(False for _ in runs), differs=True, head=True)
    return [_model(runs), _data(runs), _fixes(runs), *rows, head, *results]


def what_is_the_same(runs: Sequence[Run]) -> str:
    """Whether losses can be compared at all: "Data and seed are the same"."""
    if len(runs) < 2:
        return ""
    same_data = all(_same_rows(run, runs[0]) for run in runs)
    same_seed = len({run.record.config.training.seed for run in runs}) == 1
    if same_data and same_seed:
        return "Data and seed are the same"
    if same_data:
        return "Data is the same, seeds differ"
    return "Trained on different data: losses can't be compared"


def _same_rows(one: Run, other: Run) -> bool:
    """The same bytes, or the same files where their bytes aren't known; mended and weighed alike."""
    here, there = one.record.config.data, other.record.config.data
    same = (one.record.hashes.data or here.paths) == (other.record.hashes.data or there.paths)
    return same and here.recipe == there.recipe and _weights(here) == _weights(there)


def short_names(names: Sequence[str]) -> list[str]:
    """Without the words at the beginning that all of them share."""
    words = [name.split("-") for name in names]
    most = min((len(parts) for parts in words), default=0) - 1
    shared = 0
    while len(names) > 1 and shared < most and len({parts[shared] for parts in words}) == 1:
        shared += 1
    return ["-".join(parts[shared:]) for parts in words]


def as_text(rows: Sequence[Difference], names: Sequence[str]) -> str:
    """For the clipboard: tabs between columns, as a table takes them."""
    lines = ["\t".join(["Setting", *names])]
    for row in rows:
        lines.append("\t".join([row.label, *row.words()]))
    return "\n".join(lines)


def _of_setting(item: Field, runs: Sequence[Run]) -> Difference:
    values = [value_of(run.record.config, item.key) for run in runs]
    differs = any(value != values[0] for value in values)
    words = tuple(_in_words(item, value) for value in values)
    return Difference(item.setting.label, words, _odd_ones(values), differs, key=item.key)


def _model(runs: Sequence[Run]) -> Difference:
    names = [run.record.model_name or Path(run.record.config.model.path).name for run in runs]
    return Difference("Model", tuple(names), _odd_ones(names), len(set(names)) > 1, key="model")


def _data(runs: Sequence[Run]) -> Difference:
    """A mixture with the weight of each of its data sets."""
    configs = [run.record.config.data for run in runs]
    values = [(data.paths, _weights(data)) for data in configs]
    words = tuple(_data_words(data) for data in configs)
    return Difference("Data", words, _odd_ones(values), len(set(values)) > 1, key="data.path")


def _data_words(data: DataConfig) -> str:
    if not data.mix:
        return file_name(data.path)
    return ", ".join(f"{file_name(part.path)} × {part.weight:g}" for part in data.mix)


def _weights(data: DataConfig) -> tuple[object, ...]:
    """Of a mixture: how often each data set is seen, and what it was mended by."""
    return tuple((part.weight, part.recipe) for part in data.mix)


def _fixes(runs: Sequence[Run]) -> Difference:
    words = [_fix_words(run.record.config.data) for run in runs]
    return Difference(
        "Fixes of the data", tuple(words), _odd_ones(words), len(set(words)) > 1, key="data.recipe"
    )


def _fix_words(data: DataConfig) -> str:
    """As the settings name them: "near duplicates, a.jsonl: refusals"."""
    own = [f"{file_name(part.path)}: {_kinds(part.recipe)}" for part in data.mix if part.recipe]
    return ", ".join(([_kinds(data.recipe)] if data.recipe else []) + own) or "none"


def _kinds(recipe: Sequence[Fix]) -> str:
    return ", ".join(fix.kind.replace("_", " ") for fix in recipe)


def _odd_ones(values: Sequence[Any]) -> tuple[bool, ...]:
    """Those that aren't the most frequent value, or else the first."""
    usual = max(values, key=lambda value: sum(value == other for other in values), default=None)
    return tuple(value != usual for value in values)


def _in_words(item: Field, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str) and value in item.setting.choices:
        return item.setting.choices[value]
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _float(value: float) -> str:
    if value and abs(value) < 1e-2:
        power = math.floor(math.log10(abs(value)) + _SAME)
        return f"{value / 10**power:.3g}e{power}"
    return f"{value:g}"


def _result(label: str, values: Sequence[float | None], words: Callable[[float], str]) -> Difference:
    known = [value for value in values if value is not None]
    best = min(known) if len(known) > 1 else None
    marked = tuple(best is not None and value == best for value in values)
    shown = tuple("" if value is None else words(value) for value in values)
    return Difference(label, shown, marked, differs=True, best=True)


def _plain(label: str, values: Sequence[str]) -> Difference:
    return Difference(label, tuple(values), tuple(False for _ in values), differs=True)


def _evaluation(run: Run) -> float | None:
    best = run.state.best_evaluation_loss
    return best if best is not None else run.state.evaluation_loss


def _perplexity(run: Run) -> float | None:
    loss = _evaluation(run)
    return math.exp(loss) if loss is not None and loss < 50 else None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}" if size else ""


def _rounded(speed: float) -> str:
    return f"{speed:,.0f}" if speed else ""


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"


_FIELDS = [item for item in fields_of(RunConfig) if item.key not in ("model.path", "data.path")]
