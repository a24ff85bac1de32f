"""A packed run comes out as it went in, or not at all; no archive writes anywhere else."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_studio.errors import StudioError
from qlora_studio.runs.checkpoints import checkpoints
from qlora_studio.runs.folder import create_run, open_run
from qlora_studio.runs.less_memory import LessMemory, write_less_memory
from qlora_studio.runs.lock import RunLock
from qlora_studio.runs.packed_run import Unpacked, pack_run, unpack_run
from qlora_studio.runs.run_record import Prepared
from qlora_studio.runs.start import START_FILE
from tests.faults.disk import KilledError, disk
from tests.runs.example import RECORD, save

Files = dict[str, bytes]


@pytest.fixture
def run(home: Path) -> Path:
    rows = home / "cache" / "rows"
    rows.mkdir(parents=True)
    (rows / "train.arrow").write_bytes(b"ids" * 500_000)
    (rows / "prepared.json").write_bytes(b"{}")
    questions = home / "cache" / "asked"
    questions.mkdir()
    (questions / "validation.arrow").write_bytes(b"which?")
    prepared = Prepared(folder=str(rows), questions=str(questions))
    record = msgspec.structs.replace(RECORD, prepared=prepared)
    run = create_run(home / "runs", record, start=[b"what it ", b"trains on"])
    save(run, 2, 4)
    (run / "metrics.jsonl").write_bytes(b'{"type":"x"}\n')
    write_less_memory(run, LessMemory(rows_at_once=2))
    (run / "engine.log").write_text("a folder of this machine")
    return run


@pytest.fixture
def packed(run: Path, tmp_path: Path) -> Path:
    pack_run(run, tmp_path / "packed.tar")
    return tmp_path / "packed.tar"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere" / "runs"


def test_a_run_comes_out_as_it_went_in(run: Path, packed: Path, elsewhere: Path) -> None:
    unpacked = unpack_run(packed, elsewhere)

    assert (unpacked.folder.parent, unpacked.step) == (elsewhere, 4)
    assert [(info.step, info.sound) for info in checkpoints(unpacked.folder, verify=True)] == [
        (info.step, info.sound) for info in checkpoints(run, verify=True)
    ]
    assert (unpacked.folder / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    kept = open_run(unpacked.folder).record.prepared
    assert (kept.folder, kept.questions) == tuple(
        str(unpacked.folder / name) for name in ("rows", "questions")
    )
    assert (Path(kept.questions) / "validation.arrow").read_bytes() == b"which?"
    assert (unpacked.folder / START_FILE).read_bytes() == b"what it trains on"
    assert not (unpacked.folder / "engine.log").exists()
    assert open_run(unpacked.folder).less_memory == LessMemory(rows_at_once=2)
    record = open_run(unpacked.folder).record
    assert record.prepared.folder == str(unpacked.folder / "rows")
    assert (unpacked.folder / "rows" / "train.arrow").stat().st_size == 1_500_000
    assert msgspec.structs.replace(record, prepared=RECORD.prepared) == RECORD


def test_any_tar_program_reads_it(packed: Path) -> None:
    with tarfile.open(packed, "r:") as tar:
        names = tar.getnames()
    assert names[:2] == ["manifest.json", "run.json"]
    assert "rows/train.arrow" in names


def test_it_comes_out_beside_the_run_that_is_there_already(run: Path, packed: Path) -> None:
    unpacked = unpack_run(packed, run.parent)
    assert unpacked.folder != run
    assert open_run(run).record.prepared != open_run(unpacked.folder).record.prepared


def test_a_run_of_another_base_model_needs_its_folder(home: Path, tmp_path: Path, elsewhere: Path) -> None:
    (home / "rows").mkdir(parents=True)
    config = msgspec.structs.replace(
        RECORD.config, model=msgspec.structs.replace(RECORD.config.model, path="/models/of another machine")
    )
    prepared = Prepared(folder=str(home / "rows"))
    run = create_run(home / "runs", msgspec.structs.replace(RECORD, config=config, prepared=prepared))
    pack_run(run, tmp_path / "packed.tar")

    with pytest.raises(StudioError, match="base model is not here"):
        unpack_run(tmp_path / "packed.tar", elsewhere)
    assert list(elsewhere.iterdir()) == []
    (tmp_path / "model").mkdir()
    unpacked = unpack_run(tmp_path / "packed.tar", elsewhere, str(tmp_path / "model"))
    assert open_run(unpacked.folder).record.config.model.path == str(tmp_path / "model")


def test_a_run_in_training_and_a_file_that_exists_are_refused(
    run: Path, packed: Path, tmp_path: Path
) -> None:
    with pytest.raises(StudioError, match="exists already"):
        pack_run(run, packed)
    lock = RunLock(run)
    with pytest.raises(StudioError, match="in training"):
        pack_run(run, tmp_path / "other.tar")
    lock.release()


def test_rows_that_are_gone_are_named(run: Path, home: Path, tmp_path: Path) -> None:
    (home / "cache" / "rows").rename(home / "cache" / "gone")
    with pytest.raises(StudioError, match=r"rows of .* are gone"):
        pack_run(run, tmp_path / "packed.tar")
    assert not (tmp_path / "packed.tar").exists()


def test_a_damaged_checkpoint_is_left_behind(run: Path, tmp_path: Path, elsewhere: Path) -> None:
    (run / "checkpoints" / "step-000004" / "trainer.json").write_bytes(b"[]")
    pack_run(run, tmp_path / "packed.tar")
    unpacked = unpack_run(tmp_path / "packed.tar", elsewhere)
    assert (unpacked.step, len(checkpoints(unpacked.folder))) == (2, 1)


@pytest.mark.fault(9)
@pytest.mark.fault(10)
@pytest.mark.parametrize("fault", ["EIO", "ENOSPC", "gone", "kill", "short"])
def test_whatever_call_fails_while_unpacking_the_run_is_whole_or_absent(
    packed: Path, tmp_path: Path, fault: str
) -> None:
    for call in range(1, 200):
        runs = tmp_path / f"{fault}{call}"
        unpacked: Unpacked | None = None
        with disk(call, fault) as faulty, contextlib.suppress(StudioError, KilledError):
            unpacked = unpack_run(packed, runs)
        found = [path for path in runs.iterdir() if not path.name.startswith(".")] if runs.exists() else []
        assert all(info.sound for path in found for info in checkpoints(path, verify=True))
        assert [len(checkpoints(path)) for path in found] in ([], [2])
        if not faulty.fired:
            break
    assert unpacked is not None
    assert call > 20


@pytest.mark.fault(9)
@pytest.mark.fault(10)
@pytest.mark.parametrize("fault", ["EIO", "ENOSPC", "gone"])
def test_whatever_call_fails_while_packing_the_archive_is_whole_or_absent(
    run: Path, tmp_path: Path, elsewhere: Path, fault: str
) -> None:
    target = tmp_path / "packed.tar"
    for call in range(1, 200):
        with disk(call, fault) as faulty, contextlib.suppress(StudioError):
            pack_run(run, target)
        if not faulty.fired:
            break
        if target.exists():
            assert unpack_run(target, elsewhere / str(call)).step in (2, 4)
            target.unlink()
    assert unpack_run(target, elsewhere).step == 4


def files_of(archive: Path) -> Files:
    with tarfile.open(archive, "r:") as tar:
        return {item.name: tar.extractfile(item).read() for item in tar if item.isfile()}  # type: ignore[union-attr]


def written(files: Files, target: Path) -> None:
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))


def listing(files: Files) -> bytes:
    entries = [
        {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    ]
    return json.dumps({"schema_version": 1, "run": "x", "files": entries}).encode()


OUTSIDE = [
    "../escape.json",
    "/tmp/escape.json",
    "checkpoints/../../escape.json",
    "checkpoints/step-000002/../../../escape.json",
    "rows/..",
    "rows/a\\b",
    "rows/C:escape",
    "rows/nul",
    "rows/con.arrow",
    "rows/trailing.",
    "rows/.hidden",
    "rows/deep/er.arrow",
    "rows/\x1b[31m",
    "rows/\u202egnp.arrow",
    "lock",
    "engine.log",
    ".staging-x/run.json",
    "adapter",
    "checkpoints/newest/trainer.json",
    "manifest.json",
    "rows/" + "x" * 200,
    "",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_file_with_any_other_name_is_refused_and_nothing_written(  # S12
    packed: Path, tmp_path: Path, elsewhere: Path, name: str
) -> None:
    files = files_of(packed)
    rest = {key: content for key, content in files.items() if key != "manifest.json"}
    rest[name] = b"harm"
    del rest["samples.jsonl" if "samples.jsonl" in rest else "rows/prepared.json"]
    before = everything(tmp_path)
    hostile = tmp_path / "hostile.tar"
    written({"manifest.json": listing(rest)}, hostile)
    with pytest.raises(StudioError, match=r"no packed run .*no file of a run"):
        unpack_run(hostile, elsewhere)
    assert everything(tmp_path) - before == {hostile}


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.DIRTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.GNUTYPE_SPARSE,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.CONTTYPE,
    ],
)
def test_anything_but_ordinary_files_is_refused(
    packed: Path, tmp_path: Path, elsewhere: Path, kind: bytes
) -> None:
    files = files_of(packed)
    header = tarfile.TarInfo("run.json")
    header.type, header.linkname, header.size = kind, "/etc/passwd", 0
    manifest = tarfile.TarInfo("manifest.json")
    manifest.size = len(files["manifest.json"])
    hostile = tmp_path / "hostile.tar"
    content = files["manifest.json"]
    hostile.write_bytes(
        manifest.tobuf(tarfile.GNU_FORMAT)
        + content
        + bytes(-len(content) % 512)
        + header.tobuf(tarfile.GNU_FORMAT)
        + packed.read_bytes()
    )
    with pytest.raises(StudioError, match="no ordinary file"):
        unpack_run(hostile, elsewhere)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda data: b"", "cut off"),
        (lambda data: data[:700], "cut off"),
        (lambda data: data[: len(data) // 2], "cut off"),
        (lambda data: data[:-2000], "cut off|doesn't end"),
        (lambda data: data + b"more", "doesn't end"),
        (lambda data: data.replace(b"idsids", b"idsidz"), "rows/train.arrow has changed"),
        (lambda data: b"\x1f\x8b" + data, "no file of a tar"),
        (lambda data: b"PK\x03\x04" + data[4:], "no file of a tar"),
        (lambda data: data[512:], "no file of a tar"),
        (lambda data: data.replace(b'"schema_version": 1', b'"schema_version": 9'), "newer version"),
        (lambda data: data.replace(b'"sha256"', b'"sha999"'), "damaged"),
        (lambda data: data.replace(b'"size": 1500000', b'"size":-1500000'), "less than no bytes"),
        (lambda data: data.replace(b'"size": 1500000', b'"size": 9500000'), "cut off"),
    ],
)
def test_a_damaged_archive_is_named_with_its_reason(
    packed: Path, elsewhere: Path, harm: Callable[[bytes], bytes], words: str
) -> None:
    packed.write_bytes(harm(packed.read_bytes()))
    with pytest.raises(StudioError, match=words) as refused:
        unpack_run(packed, elsewhere)
    assert str(packed) in refused.value.message
    assert not elsewhere.exists() or list(elsewhere.iterdir()) == []


def test_what_is_no_file_is_not_waited_for(tmp_path: Path, elsewhere: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    for name in ("pipe", "link", "nothing", "."):
        with pytest.raises(StudioError, match="can't be read"):
            unpack_run(tmp_path / name, elsewhere)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_refused_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    (folder / "rows").mkdir()
    (folder / "rows" / "prepared.json").write_bytes(b"{}")
    prepared = Prepared(folder=str(folder / "rows"))
    run = create_run(folder / "runs", msgspec.structs.replace(RECORD, prepared=prepared))
    archive = folder / "packed.tar"
    pack_run(run, archive)
    content = bytearray(archive.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    archive.write_bytes(content)
    before = everything(folder)

    try:
        unpacked = unpack_run(archive, folder / "elsewhere")
    except StudioError as error:
        assert str(archive) in error.message
        assert everything(folder) == before
    else:
        assert open_run(unpacked.folder).record.name == RECORD.name
