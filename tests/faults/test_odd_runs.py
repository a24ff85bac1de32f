"""Run folders that are odd, damaged or hostile: `runs check` tells of each in time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_studio.errors import StudioError
from qlora_studio.runs.check import RunCheck, check_run
from tests.runs import example

MOST_SECONDS = 15  # of the processor, calm: the slowest takes 3
NEWEST = "checkpoints/step-000004"

Change = Callable[[Path], object]


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Finished at step 4, with two checkpoints."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    folder = example.new_run(home)
    example.save(folder, 2, 4)
    lines = [example.started(), *(example.step_line(step) for step in (1, 2, 3, 4)), example.finished_line(4)]
    (folder / "metrics.jsonl").write_bytes(b"".join(lines))
    return folder


def said(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    """A JSON file changed."""

    def write(run: Path) -> None:
        values = json.loads((run / name).read_text("utf-8"))
        change(values)
        (run / name).write_text(json.dumps(values))

    return write


def content(name: str, change: Callable[[bytes], bytes]) -> Change:
    """The bytes of a file changed."""
    return lambda run: (run / name).write_bytes(change((run / name).read_bytes()))


def file(name: str, data: bytes) -> Change:
    """A file beside the others, or in the place of one."""
    return lambda run: (run / name).write_bytes(data)


def gone(name: str) -> Change:
    """A file or folder that isn't there."""
    return lambda run: shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink(True)


def link(name: str, target: str) -> Change:
    """A link in the place of a file or folder."""
    return lambda run: (gone(name)(run), (run / name).symlink_to(target))


def pipe(name: str) -> Change:
    """A pipe that nobody writes into."""
    return lambda run: (gone(name)(run), os.mkfifo(run / name))


def folder(name: str) -> Change:
    """A folder in the place of a file."""
    return lambda run: (gone(name)(run), (run / name).mkdir(parents=True))


def hole(name: str, size: int) -> Change:
    """A file that is said to be this long, and takes no room."""
    return lambda run: ((run / name).touch(), os.truncate(run / name, size))


def _said_so_large(run: Path) -> None:
    """The manifest lists the optimizer's file with the size that it has."""

    def change(values: dict[str, Any]) -> None:
        entry = next(entry for entry in values["files"] if entry["name"] == "optimizer.safetensors")
        entry["size"] = (run / NEWEST / "optimizer.safetensors").stat().st_size

    said(f"{NEWEST}/manifest.json", change)(run)


_MANY = [{"name": f"a{number}", "size": 0, "sha256": ""} for number in range(15_000)]

SOUND: dict[str, Change] = {
    "as it is": lambda run: None,
    "an older version": said("run.json", lambda values: values.update(schema_version=0)),
    "a newer version": said("run.json", lambda values: values.update(schema_version=99, more=1)),
    "settings nobody knows": said("run.json", lambda values: values["config"].update(zzz={"a": 1})),
    "settings left out": said("run.json", lambda values: values.update(config={})),
    "a name of escapes": said("run.json", lambda values: values.update(name="\x1b[31m\u202e<b>" * 20)),
    "a name of a million letters": said("run.json", lambda values: values.update(name="x" * 10**6)),
    "a byte order mark": content("run.json", lambda data: b"\xef\xbb\xbf" + data),
    "other line ends": content("run.json", lambda data: data.replace(b"\n", b"\r\n")),
    "metrics with other line ends": content("metrics.jsonl", lambda data: data.replace(b"\n", b"\r\n")),
    "metrics torn": content("metrics.jsonl", lambda data: data[:-7]),
    "metrics with zeros behind": content("metrics.jsonl", lambda data: data + bytes(4096)),
    "metrics missing": gone("metrics.jsonl"),
    "metrics a pipe": pipe("metrics.jsonl"),
    "metrics a device": link("metrics.jsonl", "/dev/zero"),
    "metrics a folder": folder("metrics.jsonl"),
    "metrics of a gigabyte in one line": hole("metrics.jsonl", 1_000_000_000),
    "metrics of 12 million short lines": file("metrics.jsonl", b"{}\n" * 12_000_000),
    "metrics of 30 GB": hole("metrics.jsonl", 30_000_000_000),
    "metrics of noise": file("metrics.jsonl", os.urandom(5_000_000)),
    "a number of 4,000 digits": file(
        "metrics.jsonl", b'{"type":"step_finished","step":' + b"9" * 4000 + b"}\n"
    ),
    "state broken": file("state.json", b"{"),
    "state a pipe": pipe("state.json"),
    "state a device": link("state.json", "/dev/zero"),
    "state of a newer version": file("state.json", b'{"schema_version": 9}'),
    "state at a step below 0": file("state.json", b'{"schema_version":1,"state":"running","step":-1}'),
    "samples a device": link("samples.jsonl", "/dev/zero"),
    "samples of noise": file("samples.jsonl", b"\xff\xff\n{}\n"),
    "notes broken": file("notes.json", b"{"),
    "notes a device": link("notes.json", "/dev/zero"),
    "a lock of process 1": file("lock", b"1"),
    "a lock that is a pipe": pipe("lock"),
    "foreign files": lambda run: (
        (run / "evil.py").write_text("raise SystemExit(9)"),
        (run / ".DS_Store").write_text(""),
        (run / "checkpoints" / "readme.txt").write_text("x"),
        (run / "checkpoints" / "step-last").mkdir(),
    ),
    "names of escapes": lambda run: (run / "a\x1b[2J\n\u202eb").write_text("x"),
    "names that are no text": lambda run: Path(os.fsdecode(os.fsencode(run) + b"/\xff\xfe")).touch(),
    "long names": lambda run: (run / ("d" * 200) / ("e" * 200)).mkdir(parents=True),
}
DAMAGED: dict[str, tuple[Change, str]] = {
    "a file more": (file(f"{NEWEST}/evil.pkl", b"\x80\x04."), "'evil.pkl' does not belong here"),
    "a name of escapes": (
        file(f"{NEWEST}/a\x1b[2J\n\u202e", b""),
        "'a\\x1b[2J\\n\\u202e' does not belong here",
    ),
    "a pipe": (pipe(f"{NEWEST}/trainer.json"), "trainer.json is no regular file"),
    "a device": (link(f"{NEWEST}/trainer.json", "/dev/zero"), "trainer.json is no regular file"),
    "a file less": (gone(f"{NEWEST}/trainer.json"), "trainer.json is missing"),
    "a manifest that is a device": (
        link(f"{NEWEST}/manifest.json", "/dev/zero"),
        "manifest.json can't be read",
    ),
    "a manifest that leads outside": (
        said(f"{NEWEST}/manifest.json", lambda values: values["files"][0].update(name="../../run.json")),
        "manifest.json lists '../../run.json'",
    ),
    "a manifest with a path": (
        said(f"{NEWEST}/manifest.json", lambda values: values["files"][0].update(name="/etc/passwd")),
        "manifest.json lists '/etc/passwd'",
    ),
    "a manifest with a size below 0": (
        said(f"{NEWEST}/manifest.json", lambda values: values["files"][0].update(size=-1)),
        "bytes, not -1",
    ),
    "a manifest of 15,000 files": (
        said(f"{NEWEST}/manifest.json", lambda values: values.update(files=_MANY)),
        "a0 is missing",
    ),
    "20 GB of zeros": (
        lambda run: (hole(f"{NEWEST}/optimizer.safetensors", 20_000_000_000)(run), _said_so_large(run)),
        "optimizer.safetensors is empty but for",
    ),
    "a manifest with a file twice": (
        said(f"{NEWEST}/manifest.json", lambda values: values["files"].append(values["files"][0])),
        "manifest.json lists",
    ),
    "a manifest of a step beyond all": (
        said(f"{NEWEST}/manifest.json", lambda values: values.update(step=10**30)),
        "manifest.json is that of step",
    ),
    "a manifest of a newer version": (
        said(f"{NEWEST}/manifest.json", lambda values: values.update(schema_version=7)),
        "newer version",
    ),
}
REFUSED: dict[str, Change] = {
    "empty": file("run.json", b""),
    "a list": file("run.json", b"[]"),
    "deep": file("run.json", b"[" * 1_000_000),
    "zeros": file("run.json", bytes(100)),
    "missing": gone("run.json"),
    "a pipe": pipe("run.json"),
    "a device": link("run.json", "/dev/zero"),
    "a folder": folder("run.json"),
    "of 30 GB": hole("run.json", 30_000_000_000),
    "a setting of another kind": said("run.json", lambda values: values["config"]["lora"].update(r="x")),
    "without a version": said("run.json", lambda values: values.pop("schema_version")),
}


@pytest.mark.fault(12)
@pytest.mark.parametrize("name", SOUND)
def test_an_odd_run_is_checked_and_its_checkpoints_are_sound(run: Path, name: str) -> None:  # R5 R6 R15
    SOUND[name](run)
    assert [(info.step, info.sound) for info in _checked(run).checkpoints] == [(2, True), (4, True)]


@pytest.mark.fault(7)
@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_odd_in_a_checkpoint_is_named_and_the_older_is_sound(run: Path, name: str) -> None:  # R2
    change, reason = DAMAGED[name]
    change(run)

    older, newest = _checked(run).checkpoints

    assert (older.sound, newest.sound) == (True, False)
    assert reason in newest.reason


@pytest.mark.fault(12)
@pytest.mark.parametrize("name", REFUSED)
def test_a_run_whose_record_is_none_is_refused_by_name(run: Path, name: str) -> None:  # R6 R16
    REFUSED[name](run)
    with pytest.raises(StudioError, match=r"run\.json"):
        _checked(run)


@pytest.mark.fault(7)
def test_checkpoints_behind_a_link_are_none(run: Path) -> None:  # R11
    link("checkpoints", "/etc")(run)
    assert _checked(run).checkpoints == ()


def _checked(run: Path) -> RunCheck:
    before = _processor_seconds()
    try:
        return check_run(run)
    finally:
        assert _processor_seconds() - before < MOST_SECONDS


def _processor_seconds() -> float:
    """Of this process and its children that have ended: what other processes do is no matter."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
