"""A checkpoint is whole or absent, is verified before use, and older ones stay until it is sound."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_studio.errors import StudioError
from qlora_studio.runs import manifest
from qlora_studio.runs.checkpoints import checkpoints, newest_sound, resume_point, save_checkpoint
from qlora_studio.runs.manifest import verify_checkpoint
from qlora_studio.runs.run_writer import RunWriter
from qlora_studio.runs.space import DiskFullError
from tests.faults.disk import KilledError, disk, losing_disk
from tests.runs.example import new_run, save, write_tensors


def test_a_saved_checkpoint_verifies_and_holds_what_was_written(run: Path) -> None:  # R1
    path = save_checkpoint(run, 120, write_tensors(b"tensor"))
    assert path == run / "checkpoints" / "step-000120"
    assert verify_checkpoint(path).sound
    assert (path / "adapter_model.safetensors").read_bytes() == b"tensor" * 50
    assert sorted(file.name for file in path.iterdir()) == [
        "adapter_model.safetensors",
        "manifest.json",
        "optimizer.safetensors",
        "trainer.json",
    ]


@pytest.mark.fault(1)
@pytest.mark.parametrize("fault", ["EIO", "ENOSPC", "gone", "kill"])
def test_whatever_call_fails_the_newest_is_sound_and_the_older_are_kept(home: Path, fault: str) -> None:
    # R1, R4, R9, R10
    for call in itertools.count(1):
        run = new_run(home)
        save(run, 100, 200)
        with disk(call, fault) as faulty:
            said_done = _tried(lambda run=run: save(run, 300))
        found = checkpoints(run, verify=True)
        assert all(info.sound for info in found)
        steps = [info.step for info in found]
        assert steps in ([100, 200], [200, 300], [100, 200, 300])
        if said_done:
            assert 300 in steps
        if not faulty.fired:
            break
        save(run, 300)  # the next try succeeds
        assert newest_sound(run).step == 300
    assert call > 20


@pytest.mark.fault(1)
@pytest.mark.parametrize("fault", ["EIO", "gone", "kill"])
def test_saving_a_step_again_never_loses_it(home: Path, fault: str) -> None:  # R1, R4
    for call in itertools.count(1):
        run = new_run(home)
        save(run, 100, 200)
        with disk(call, fault) as faulty:
            _tried(lambda run=run: save(run, 200, content=b"again"))
        with RunWriter(run):
            found = checkpoints(run, verify=True)
        assert [info.step for info in found] == [100, 200]
        assert all(info.sound for info in found)
        if not faulty.fired:
            break


@pytest.mark.fault(2)
@pytest.mark.parametrize("share_kept", [0.0, 0.5])
def test_a_power_cut_leaves_the_newest_sound(home: Path, tmp_path: Path, share_kept: float) -> None:  # R1, R2
    for call in itertools.count(1):
        run = new_run(home)
        save(run, 100, 200)
        (graveyard := tmp_path / f"graveyard-{call}").mkdir()
        with losing_disk(call, run, graveyard) as losing:
            said_done = _tried(lambda run=run: save(run, 300))
        losing.cut_power(share_kept)
        newest = newest_sound(run)
        assert newest is not None
        assert newest.step == 300 if said_done else newest.step in (200, 300)
        assert [info for info in checkpoints(run, verify=True) if not info.sound] == []
        if not losing.fired:
            break


@pytest.mark.fault(1)
def test_a_writer_killed_at_random_leaves_sound_checkpoints_alone(run: Path) -> None:  # R1, R4
    save(run, 1)
    for round_number in range(10):
        writer = subprocess.Popen(
            [sys.executable, "-c", _SAVE_FOR_EVER, str(run)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        writer.stdout.readline()  # the first save of this round is done
        time.sleep(0.003 * round_number)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        found = checkpoints(run, verify=True)
        assert len(found) >= 1
        assert all(info.sound for info in found)
    with RunWriter(run):
        assert [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")] == []


_SAVE_FOR_EVER = """
import sys
from pathlib import Path
from qlora_studio.runs.checkpoints import newest_sound, save_checkpoint
run = Path(sys.argv[1])
def write_files(folder):
    for name in ("adapter_model.safetensors", "optimizer.safetensors", "trainer.json"):
        (folder / name).write_bytes(b"x" * 300_000)
step = newest_sound(run).step
while True:
    step += 1
    save_checkpoint(run, step, write_files)
    print(step, flush=True)
"""


def _flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _swap(file: Path) -> None:
    file.write_bytes(b"X" * file.stat().st_size)


def _link(file: Path) -> None:
    file.rename(file.with_name("moved"))
    file.symlink_to(file.with_name("moved"))


@pytest.mark.fault(7)
@pytest.mark.parametrize("damage", [_flip_a_bit, _cut, _swap, Path.unlink])
@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "optimizer.safetensors", "trainer.json", "manifest.json"]
)
def test_damage_is_named_and_the_older_checkpoint_offered(
    run: Path, name: str, damage: Callable[[Path], None]
) -> None:  # R2
    save(run, 100, 200)
    damage(run / "checkpoints" / "step-000200" / name)
    point = resume_point(run)
    assert point.step == 100
    assert [info.step for info in point.skipped] == [200]
    assert name in point.skipped[0].reason
    assert not point.skipped[0].sound


@pytest.mark.fault(7)
def test_an_extra_file_a_link_and_a_foreign_manifest_are_refused(run: Path) -> None:  # R2
    save(run, 100, 200)
    newest = run / "checkpoints" / "step-000200"
    (newest / "extra.bin").write_bytes(b"")
    assert verify_checkpoint(newest).reason == "'extra.bin' does not belong here"
    (newest / "extra.bin").unlink()
    (newest / "manifest.json").write_bytes((run / "checkpoints/step-000100/manifest.json").read_bytes())
    assert verify_checkpoint(newest).reason == "manifest.json is that of step 100"
    _link(run / "checkpoints" / "step-000100" / "trainer.json")
    assert "belong" in verify_checkpoint(run / "checkpoints" / "step-000100").reason


@pytest.mark.fault(7)
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b"\x00" * 50,
        b'{"schema_version": 2, "step": 100, "files": []}',
        b'{"schema_version": 1, "step": 100, "files": []}',
        b'{"schema_version": 1, "step": 100, "files": [{"name": "../run.json", "size": 1, "sha256": ""}]}',
        b'{"schema_version": 1, "step": 1e400, "files": []}',
    ],
)
def test_a_manifest_that_is_none_makes_the_checkpoint_unsound(run: Path, text: bytes) -> None:  # R2, R15
    save(run, 100)
    (run / "checkpoints" / "step-000100" / "manifest.json").write_bytes(text)
    verdict = verify_checkpoint(run / "checkpoints" / "step-000100")
    assert not verdict.sound
    assert "manifest.json" in verdict.reason


def test_a_run_whose_checkpoints_are_all_broken_never_starts_afresh(run: Path) -> None:  # R2
    save(run, 100)
    _cut(run / "checkpoints" / "step-000100" / "trainer.json")
    with pytest.raises(
        StudioError, match=r"No checkpoint of .* is sound. Step 100: trainer.json has 1 bytes"
    ):
        resume_point(run)


def test_a_run_that_never_saved_starts_from_its_beginning(run: Path) -> None:
    assert resume_point(run).step == 0
    assert resume_point(run).path is None


def test_an_older_step_can_be_chosen_and_a_broken_one_names_the_newest_sound(run: Path) -> None:  # R2
    save(run, 100, 200)
    assert resume_point(run, 100).step == 100
    _flip_a_bit(run / "checkpoints" / "step-000200" / "optimizer.safetensors")
    with pytest.raises(StudioError, match=r"optimizer\.safetensors has changed") as refused:
        resume_point(run, 200)
    assert refused.value.hint == "The newest sound checkpoint is step 100."


def test_the_newest_and_the_protected_stay(run: Path) -> None:  # R9
    for step in range(10, 60, 10):
        save_checkpoint(run, step, write_tensors(), keep=3, protect={10})
    assert [info.step for info in checkpoints(run)] == [10, 30, 40, 50]


def test_two_stay_even_if_fewer_were_asked_for(run: Path) -> None:  # R9
    for step in (1, 2, 3):
        save_checkpoint(run, step, write_tensors(), keep=0)
    assert [info.step for info in checkpoints(run)] == [2, 3]


def test_a_broken_checkpoint_does_not_count_among_those_kept(run: Path) -> None:  # R9
    save(run, 1, 2)
    _cut(run / "checkpoints" / "step-000002" / "trainer.json")
    save(run, 3)
    assert [(info.step, info.sound) for info in checkpoints(run)] == [(1, None), (2, False), (3, None)]
    save(run, 4)
    assert [info.step for info in checkpoints(run)] == [3, 4]


def test_checkpoints_beyond_a_resumed_step_give_way_to_new_ones(run: Path) -> None:  # R5
    save(run, 100, 200)
    save(run, 150)  # resumed from 100
    assert [info.step for info in checkpoints(run)] == [100, 150]


def test_no_link_is_followed_when_old_ones_go(run: Path, tmp_path: Path) -> None:  # R11
    save(run, 100)
    elsewhere = tmp_path / "elsewhere"
    (run / "checkpoints" / "step-000100").rename(elsewhere)
    (run / "checkpoints" / "step-000100").symlink_to(elsewhere)
    save(run, 200, 300, 400)
    assert (elsewhere / "trainer.json").exists()
    assert checkpoints(run)[0].reason == "step-000100 is no folder, or a link"


def test_a_link_in_place_of_the_checkpoints_is_refused(run: Path, tmp_path: Path) -> None:  # R11
    (run / "checkpoints").symlink_to(tmp_path)
    with pytest.raises(StudioError, match="is gone, or a link"):
        save(run, 100)
    assert not (tmp_path / "step-000100").exists()


@pytest.mark.fault(21)
def test_a_run_folder_that_is_gone_is_not_made_again(run: Path) -> None:  # R16
    run.rename(run.with_name("moved"))
    with pytest.raises(StudioError, match="is gone, or a link"):
        save(run, 100)
    assert not run.exists()


@pytest.mark.fault(9)
def test_a_full_disk_says_how_much_is_missing_and_keeps_the_older(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # R9
    save(run, 100)
    monkeypatch.setattr("qlora_studio.runs.space.free_bytes", lambda folder: 300_000_000)

    def write_until_full(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(b"some")
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(DiskFullError) as full:
        save_checkpoint(run, 200, write_until_full, expected_bytes=1_500_000_000)
    assert full.value.missing_bytes == 1_200_000_000
    assert full.value.message.startswith("Could not save step 200: 1.2 GB is missing on the disk of")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000100"]


def test_what_the_writer_of_the_files_refuses_leaves_nothing(run: Path) -> None:  # R12
    def refuse(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(b"nan")
        raise StudioError("The adapter holds NaN.")

    with pytest.raises(StudioError, match="holds NaN"):
        save_checkpoint(run, 100, refuse)
    assert list((run / "checkpoints").iterdir()) == []


def test_files_of_a_checkpoint_are_private(run: Path) -> None:  # S12
    save(run, 100)
    modes = {path.stat().st_mode & 0o077 for path in (run / "checkpoints").rglob("*")}
    assert modes == {0}


def _tried(action: Callable[[], None]) -> bool:
    try:
        action()
    except (StudioError, KilledError):
        return False
    return True


@pytest.mark.parametrize(
    "parts", [[(0, b"")], [(0, b"a")], [(3_000_001, b"b")], [(0, b"a"), (5_000_000, b"b"), (5_000_001, b"")]]
)
def test_zeros_that_a_disk_does_not_hold_are_hashed_as_such(tmp_path, parts):  # R2
    run = new_run(tmp_path)

    def write_files(folder):
        with (folder / "optimizer.safetensors").open("wb") as file:
            for at, data in parts:
                file.truncate(at)
                file.seek(at)
                file.write(data)
            file.truncate(9_000_000)

    path = save_checkpoint(run, 1, write_files)

    (entry,) = json.loads((path / "manifest.json").read_bytes())["files"]
    content = (path / "optimizer.safetensors").read_bytes()
    assert (entry["size"], entry["sha256"]) == (9_000_000, hashlib.sha256(content).hexdigest())
    assert checkpoints(run, verify=True)[0].sound


@pytest.mark.fault(7)
@pytest.mark.parametrize(("written", "sound"), [(5_000_000, True), (5_000, False)])
def test_a_huge_file_that_is_hardly_there_is_refused_without_reading_its_zeros(  # R2
    tmp_path, monkeypatch, written, sound
):
    run = new_run(tmp_path)

    def write_files(folder):
        with (folder / "states.bin").open("wb") as file:
            file.write(b"a" * written)
            file.truncate(20_000_000)

    save_checkpoint(run, 1, write_files)
    monkeypatch.setattr(manifest, "_WORTH_A_LOOK", 10_000_000)  # otherwise 1 GB

    (info,) = checkpoints(run, verify=True)

    assert info.sound is sound
    assert sound or "states.bin is empty but for" in info.reason


def test_reading_a_checkpoint_tells_how_far_it_is(tmp_path):
    run = new_run(tmp_path)
    save(run, 3)
    told = []

    checkpoints(run, verify=True, told=lambda done, total, words: told.append((done, total, words)))

    done = [item[0] for item in told]
    assert done == sorted(done)
    assert told[-1] == (1052, 1052, "Reading step 3")
