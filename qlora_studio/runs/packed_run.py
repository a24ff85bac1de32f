"""A run in one file, to be taken to another machine: all that it needs to go on, but its base model.

A plain tar without compression: `manifest.json` with name, size and SHA-256 of each file, then these files in
that order and nothing else. Only what this module writes is read: regular files with names of its own layout,
one header of 512 bytes each. What else tar knows (links, devices, sparse files, long names) is refused, so
that no byte of an archive decides where something is written.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from qlora_studio.config.run_config import SAMPLE, SHAPE_PREFIX
from qlora_studio.config.setting import check_limits
from qlora_studio.errors import StudioError
from qlora_studio.runs.checkpoints import CHECKPOINTS_FOLDER, checkpoints
from qlora_studio.runs.durable import (
    FILE_MODE,
    FOLDER_MODE,
    fsync_folder,
    is_bare_name,
    is_real_folder,
    make_folder,
    open_to_read,
    remove_file,
    remove_folder,
    rename_durably,
    write_new_blocks,
)
from qlora_studio.runs.evaluations import EVALUATIONS_FILE
from qlora_studio.runs.folder import open_run, renamed_to_a_free_name
from qlora_studio.runs.less_memory import LESS_MEMORY_FILE
from qlora_studio.runs.manifest import FileEntry
from qlora_studio.runs.metrics import METRICS_FILE
from qlora_studio.runs.notes import NOTES_FILE
from qlora_studio.runs.run_record import RECORD_FILE, RunRecord, read_record, write_record
from qlora_studio.runs.run_state import STATE_FILE
from qlora_studio.runs.samples import SAMPLES_FILE
from qlora_studio.runs.space import in_gb, require_space, saving
from qlora_studio.runs.standing import ADAPTER_FOLDER, MODEL_FOLDER
from qlora_studio.runs.start import START_FILE
from qlora_studio.runs.trained_template import TEMPLATE_FILE

ROWS_FOLDER = "rows"  # the prepared rows, which lie in the cache of the machine that made them
QUESTIONS_FOLDER = "questions"  # likewise, where the run asks any
SCHEMA_VERSION = 1

_MANIFEST = "manifest.json"
_SINGLE_FILES = (
    RECORD_FILE,
    STATE_FILE,
    NOTES_FILE,
    METRICS_FILE,
    SAMPLES_FILE,
    EVALUATIONS_FILE,
    TEMPLATE_FILE,
    START_FILE,
    LESS_MEMORY_FILE,
)
_NAME = re.compile(
    rf"(?:{'|'.join(map(re.escape, _SINGLE_FILES))}"
    rf"|(?:{ADAPTER_FOLDER}|{MODEL_FOLDER}|{ROWS_FOLDER}|{QUESTIONS_FOLDER}|{CHECKPOINTS_FOLDER}/step-\d{{6,9}})/[A-Za-z0-9_][A-Za-z0-9_.-]*)",
    re.ASCII,
)
_LONGEST_NAME = 100  # characters; more doesn't fit the plain header
_MOST_FILES = 2_000
_LARGEST_MANIFEST = 1_000_000  # bytes
_BLOCK = 1 << 20
_HEADER = tarfile.BLOCKSIZE


class PackedManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive holds. `name`: of each file inside the run folder, with `/`."""

    schema_version: int = SCHEMA_VERSION
    run: str
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Unpacked:
    """A run that has come from elsewhere, and the step it goes on from."""

    folder: Path
    step: int
    bytes: int


def pack_run(folder: Path, target: Path) -> int:
    """Writes the archive, whole or not at all, and gives its bytes.

    Of the checkpoints those that verify; of a log nothing: it names folders of this machine.
    Raises: StudioError.
    """
    run = open_run(folder)
    if run.locked:
        raise StudioError(f"{folder.name} is in training.", hint="Pause it first.")
    if run.newer:
        raise StudioError(f"{folder} was written by a newer version.", hint="Update QLoRA Studio.")
    if os.path.lexists(target):
        raise StudioError(f"{target} exists already.", hint="Choose another name: --out FILE.")
    if not target.parent.is_dir():
        raise StudioError(f"There is no folder {target.parent}.")
    with saving("the packed run", target):
        sources = dict(_sources(folder, run.record))
        manifest = PackedManifest(
            run=folder.name, files=tuple(_measured(name, path) for name, path in sources.items())
        )
        require_space(target.parent, sum(entry.size for entry in manifest.files), "The packed run")
        temporary = target.with_name(f".{secrets.token_hex(4)}.packing")
        try:
            write_new_blocks(temporary, _tar_of(manifest, sources))
            rename_durably(temporary, target)
        finally:
            if os.path.lexists(temporary):
                remove_file(temporary)
    return target.stat().st_size


def unpack_run(archive: Path, runs_dir: Path, model: str = "") -> Unpacked:
    """A new run folder in `runs_dir`, whole or none at all.

    model: the base model's folder on this machine; "" where it lies where it lay, or is bundled
    Raises: StudioError naming the archive and what is wrong with it; nothing is then left.
    """
    try:
        source = os.fdopen(open_to_read(archive), "rb", buffering=0)
    except OSError as error:
        raise StudioError(f"{archive} can't be read: {error.strerror}.") from error
    with source, saving("the unpacked run", runs_dir / "run"):
        archived = _Archive(source, archive)
        manifest = archived.manifest()
        total = sum(entry.size for entry in manifest.files)
        require_space(runs_dir, total, "The unpacked run")
        runs_dir.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        staging = runs_dir / f".staging-run-{secrets.token_hex(4)}"
        make_folder(staging)
        try:
            for entry in manifest.files:
                archived.take(entry, _place(staging, entry.name))
            archived.require_end()
            record = _checked(staging, archive)
            step = max((info.step for info in checkpoints(staging, verify=True) if info.sound), default=0)
            return Unpacked(_settle(staging, record, model), step, total)
        except BaseException:
            if is_real_folder(staging):
                remove_folder(staging)
            raise


def _sources(folder: Path, record: RunRecord) -> Iterator[tuple[str, Path]]:
    """Names in the archive and the files they are made of."""
    yield from ((name, folder / name) for name in _SINGLE_FILES if os.path.lexists(folder / name))
    for info in checkpoints(folder, verify=True):
        if info.sound:
            yield from _of_folder(f"{CHECKPOINTS_FOLDER}/{info.path.name}", info.path)
    for name in (ADAPTER_FOLDER, MODEL_FOLDER):
        if is_real_folder(folder / name):
            yield from _of_folder(name, folder / name)
    rows = Path(record.prepared.folder)
    if not record.prepared.folder or not rows.is_dir():
        raise StudioError(
            f"The prepared rows of {folder.name} are gone: {rows}.",
            hint="Resume the run once, which makes them again, then pack it.",
        )
    yield from _of_folder(ROWS_FOLDER, rows)
    if record.prepared.questions:
        questions = Path(record.prepared.questions)
        if not questions.is_dir():
            raise StudioError(
                f"The prepared questions of {folder.name} are gone: {questions}.",
                hint="Resume the run once, which makes them again, then pack it.",
            )
        yield from _of_folder(QUESTIONS_FOLDER, questions)


def _of_folder(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    yield from ((f"{name}/{path.name}", path) for path in sorted(folder.iterdir()) if path.is_file())


def _measured(name: str, path: Path) -> FileEntry:
    if not _is_ours(name):
        raise StudioError(f"{path} has a name that can't be packed.")
    digest, size = hashlib.sha256(), 0
    for block in _blocks_of(path):
        digest.update(block)
        size += len(block)
    return FileEntry(name=name, size=size, sha256=digest.hexdigest())


def _blocks_of(path: Path) -> Iterator[bytes]:
    with os.fdopen(open_to_read(path), "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            yield block


def _tar_of(manifest: PackedManifest, sources: dict[str, Path]) -> Iterator[bytes]:
    """The whole archive, piece by piece. Raises: StudioError where a file changes meanwhile."""
    listed = msgspec.json.format(msgspec.json.encode(manifest))
    yield _header_of(_MANIFEST, len(listed)) + listed + bytes(-len(listed) % _HEADER)
    for entry in manifest.files:
        yield _header_of(entry.name, entry.size)
        digest = hashlib.sha256()
        for block in _blocks_of(sources[entry.name]):
            digest.update(block)
            yield block
        if digest.hexdigest() != entry.sha256:
            raise StudioError(f"{sources[entry.name]} changed while it was packed.", hint="Try again.")
        yield bytes(-entry.size % _HEADER)
    yield bytes(2 * _HEADER)


def _header_of(name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, FILE_MODE
    return header.tobuf(tarfile.GNU_FORMAT)


class _Archive:
    """Read from its beginning to its end, once; every length is bounded before anything is read."""

    def __init__(self, source: IO[bytes], path: Path) -> None:
        self._source = source
        self._path = path
        self._size = os.fstat(source.fileno()).st_size

    def manifest(self) -> PackedManifest:
        name, size = self._header()
        if name != _MANIFEST:
            raise self._refused(f"it begins with {name!r}, not with {_MANIFEST}")
        if size > _LARGEST_MANIFEST:
            raise self._refused(f"its {_MANIFEST} is longer than {_LARGEST_MANIFEST:,} bytes")
        data = b"".join(self._content(size))
        try:
            version = msgspec.json.decode(data, type=_Version).schema_version
            if version > SCHEMA_VERSION:
                raise self._refused("it was packed by a newer version", "Update QLoRA Studio.")
            manifest = msgspec.json.decode(data, type=PackedManifest)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._refused(f"its {_MANIFEST} is damaged: {error}") from error
        self._require_sound(manifest)
        return manifest

    def take(self, entry: FileEntry, target: Path) -> None:
        """The next file, which must be this one to the byte."""
        name, size = self._header()
        if (name, size) != (entry.name, entry.size):
            raise self._refused(
                f"where {entry.name} of {entry.size:,} bytes should be, there is {name!r} of {size:,}"
            )
        digest = hashlib.sha256()
        write_new_blocks(target, _hashed(self._content(size), digest.update))
        if digest.hexdigest() != entry.sha256:
            raise self._refused(f"{entry.name} has changed since it was packed")

    def require_end(self) -> None:
        rest = self._source.read(_BLOCK)
        if len(rest) < 2 * _HEADER or any(rest) or self._source.read(1):
            raise self._refused("it doesn't end behind its last file")

    def _require_sound(self, manifest: PackedManifest) -> None:
        names = [entry.name for entry in manifest.files]
        for name in names:
            if not _is_ours(name):
                raise self._refused(f"it holds {name!r}, which is no file of a run")
        if len(names) > _MOST_FILES:
            raise self._refused(f"it holds more than {_MOST_FILES:,} files")
        if len(set(names)) < len(names):
            raise self._refused("it holds a file twice")
        if RECORD_FILE not in names:
            raise self._refused(f"{RECORD_FILE} is missing")
        if any(entry.size < 0 for entry in manifest.files):
            raise self._refused("it holds a file of less than no bytes")
        total = sum(entry.size for entry in manifest.files)
        if total > self._size:
            raise self._refused(
                f"it says it holds {in_gb(total)}, and has {in_gb(self._size)}; it was cut off"
            )

    def _header(self) -> tuple[str, int]:
        """Name and bytes of the next file."""
        block = self._source.read(_HEADER)
        if len(block) < _HEADER:
            raise self._refused("it is cut off")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise self._refused(f"at byte {self._source.tell() - _HEADER:,} is no file of a tar") from error
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or header.size < 0:
            raise self._refused(f"{header.name!r} is no ordinary file: a link, a device or something longer")
        return header.name, header.size

    def _content(self, size: int) -> Iterator[bytes]:
        left = size
        while left:
            block = self._source.read(min(left, _BLOCK))
            if not block:
                raise self._refused("it is cut off")
            left -= len(block)
            yield block
        if len(self._source.read(-size % _HEADER)) != -size % _HEADER:
            raise self._refused("it is cut off")

    def _refused(self, reason: str, hint: str = "") -> StudioError:
        return StudioError(f"{self._path} is no packed run that can be used: {reason}.", hint=hint)


class _Version(msgspec.Struct):
    schema_version: int


def _is_ours(name: str) -> bool:
    parts = name.split("/")
    return len(name) <= _LONGEST_NAME and bool(_NAME.fullmatch(name)) and all(map(is_bare_name, parts))


def _place(staging: Path, name: str) -> Path:
    """Where a file goes, in folders that are made for it."""
    folder = staging
    for part in name.split("/")[:-1]:
        folder = folder / part
        if not is_real_folder(folder):
            make_folder(folder)
    return staging / name


def _checked(staging: Path, archive: Path) -> RunRecord:
    """Its settings, if this version can go on with them."""
    read = read_record(staging)
    if read.newer or read.unknown_keys:
        raise StudioError(f"{archive} was packed by a newer version.", hint="Update QLoRA Studio.")
    check_limits(read.record.config, str(archive))
    return read.record


def _settle(staging: Path, record: RunRecord, model: str) -> Path:
    """Gives the folder its name, and its record the places of this machine."""
    path = model or record.config.model.path
    if path != SAMPLE and not path.startswith(SHAPE_PREFIX) and not Path(path).is_dir():
        raise StudioError(
            f"The run's base model is not here: {record.model_name or path}.",
            hint="Name its folder: --model FOLDER.",
        )
    model_config = msgspec.structs.replace(record.config.model, path=path)
    here = msgspec.structs.replace(
        record,
        config=msgspec.structs.replace(record.config, model=model_config),
        model_folder=model or record.model_folder,
    )

    def write(target: Path) -> None:
        remove_file(staging / RECORD_FILE)
        questions = str(target / QUESTIONS_FOLDER) if here.prepared.questions else ""
        rows = msgspec.structs.replace(here.prepared, folder=str(target / ROWS_FOLDER), questions=questions)
        write_record(staging, msgspec.structs.replace(here, prepared=rows))

    for inside in staging.rglob("*"):
        if inside.is_dir():
            fsync_folder(inside)
    return renamed_to_a_free_name(staging, here, write)


def _hashed(blocks: Iterator[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for block in blocks:
        update(block)
        yield block
