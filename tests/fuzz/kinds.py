"""What is spoiled, kind by kind: good files, how they are spoiled, and who reads them."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from qlora_studio.config.run_config import DataConfig
from qlora_studio.protocol import commands, reading
from qlora_studio.protocol.events import Problem
from qlora_studio.protocol.lines import ANSWERS, COMMANDS, EVENTS, REQUESTS, BrokenLineError
from qlora_studio.runs.check import check_run
from tests.faults.odd_adapters import Adapter
from tests.faults.odd_data import ODD
from tests.faults.odd_models import sound_model
from tests.fuzz.mutation import spoiled, spoiled_json
from tests.runs import example

Files = Mapping[str, bytes]  # by path within the folder of a case


@dataclass(frozen=True)
class Kind:
    """good:   folders of files that are read without complaint
    spoils: of these files one is spoiled, by the end of its name
    ask:    what the reader is asked of the folder; None: `read` is called here instead
    read:   raises StudioError where it refuses
    """

    good: Callable[[Path], list[Files]]
    spoils: tuple[str, ...]
    ask: Callable[[Path, str], reading.ReaderRequest] | None = None
    read: Callable[[Path, str], object] | None = None


def case_of(kind: Kind, good: list[Files], random: Random) -> tuple[Files, str]:
    """A good folder with one of its files spoiled, and the name of that file."""
    files = dict(random.choice(good))
    name = random.choice([name for name in files if name.endswith(kind.spoils)])
    others = [other[same] for other in good for same in other if same.endswith(kind.spoils)]
    files[name] = _spoiled_file(files[name], name, random, others)
    return files, name


def _spoiled_file(data: bytes, name: str, random: Random, others: list[bytes]) -> bytes:
    as_json = random.random() < 0.6
    if as_json and name.endswith((".json", ".jsonl")) and (lines := _json_lines(data)):
        at = random.randrange(len(lines))
        lines[at] = spoiled_json(lines[at], random)
        return b"\n".join(lines) + b"\n"
    if as_json and name.endswith(".safetensors") and data[8:9] == b"{":
        (length,) = struct.unpack("<Q", data[:8])
        header = spoiled_json(data[8 : 8 + length], random)
        return struct.pack("<Q", len(header)) + header + data[8 + length :]
    return spoiled(data, random, others)


def _json_lines(data: bytes) -> list[bytes]:
    """The texts of a JSON file that can be changed as such; none where a line is no JSON."""
    try:
        json.loads(data)
        return [data]
    except ValueError:
        pass
    lines = data.splitlines()
    try:
        for line in lines:
            json.loads(line)
    except ValueError:
        return []
    return lines


def _data_files(*endings: str) -> Callable[[Path], list[Files]]:
    def files(folder: Path) -> list[Files]:
        found = [
            {f"rows{name[name.index('.') :]}": content()}
            for name, (content, want) in ODD.items()
            if isinstance(want, tuple) and name.endswith(endings)
        ]
        return [one for one in found if sum(map(len, one.values())) < 100_000]

    return files


def _import(folder: Path, name: str) -> reading.ReaderRequest:
    return reading.ImportData(id=1, data=DataConfig(path=str(folder / name)))


def _read_back(folder: Path) -> list[Files]:
    return [
        {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    ]


def _models(folder: Path) -> list[Files]:
    sound_model(folder / "model")
    return _read_back(folder)


def _check_model(folder: Path, name: str) -> reading.ReaderRequest:
    return reading.CheckModel(id=1, folder=str(folder / "model"), numbers=True)


def _adapters(folder: Path) -> list[Files]:
    sound_model(folder / "model")
    adapter = Adapter(folder / "adapter")
    adapter.said |= {"alpha_pattern": {"q_proj": 8}, "rank_pattern": {"q_proj": 4}}
    adapter.write()
    return _read_back(folder)


def _check_adapter(folder: Path, name: str) -> reading.ReaderRequest:
    return reading.CheckAdapter(id=1, folder=str(folder / "adapter"), base=str(folder / "model"))


def _runs(folder: Path) -> list[Files]:
    run = example.new_run(folder)
    example.save(run, 2, 4)
    lines = [example.started(), *(example.step_line(step) for step in (1, 2, 3, 4)), example.finished_line(4)]
    (run / "metrics.jsonl").write_bytes(b"".join(lines))
    (run / "samples.jsonl").write_bytes(example.sample_line(2) + example.sample_line(4))
    run.rename(folder / "run")
    return _read_back(folder)


def _check_run(folder: Path, name: str) -> object:
    return check_run(folder / "run")


def _lines(folder: Path) -> list[Files]:
    said = [
        example.started(),
        example.step_line(3),
        example.finished_line(4),
        example.failed_line(2, "memory"),
    ]
    asked = REQUESTS.encode(reading.ImportData(id=1, data=DataConfig(path="/a")))
    answer = ANSWERS.encode(reading.Refused(id=1, error=Problem("It is empty.", "Choose another.")))
    return [
        {"lines.jsonl": line} for line in (*said, asked, answer, COMMANDS.encode(commands.StopExport(id=1)))
    ]


def _decode(folder: Path, name: str) -> None:
    for line in (folder / name).read_bytes().splitlines(keepends=True):
        for direction in (COMMANDS, EVENTS, REQUESTS, ANSWERS):
            with contextlib.suppress(BrokenLineError):
                direction.decode(line)


KINDS: Mapping[str, Kind] = {
    "jsonl": Kind(
        _data_files(".jsonl", ".json", ".gz", ".zst"), (".jsonl", ".json", ".gz", ".zst"), ask=_import
    ),
    "csv": Kind(_data_files(".csv", ".tsv"), (".csv", ".tsv"), ask=_import),
    "parquet": Kind(_data_files(".parquet", ".arrow"), (".parquet", ".arrow"), ask=_import),
    "safetensors": Kind(_models, ("model.safetensors",), ask=_check_model),
    "config": Kind(_models, ("/config.json",), ask=_check_model),
    "tokenizer": Kind(_models, ("tokenizer.json", "tokenizer_config.json", ".jinja"), ask=_check_model),
    "adapter": Kind(_adapters, ("adapter_config.json", "adapter_model.safetensors"), ask=_check_adapter),
    "run": Kind(_runs, (".json", ".jsonl", ".safetensors"), read=_check_run),
    "protocol": Kind(_lines, (".jsonl",), read=_decode),
}
