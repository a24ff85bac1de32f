"""Room on the disk is asked for before it is needed, and what is missing is said."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from qlora_studio.errors import StudioError
from qlora_studio.runs.space import (
    DiskFullError,
    checkpoints_need,
    free_bytes,
    in_gb,
    is_disk_full,
    require_space,
    saving,
)


def test_a_run_needs_the_checkpoints_kept_one_more_and_some_to_spare() -> None:  # R9
    assert checkpoints_need(checkpoint_bytes=1_000_000_000, keep=2) == 5_000_000_000


def test_missing_space_is_said_in_gigabytes_with_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # R9, R16
    monkeypatch.setattr("qlora_studio.runs.space.free_bytes", lambda folder: 3_000_000_000)
    require_space(tmp_path, 3_000_000_000, "This run")
    with pytest.raises(DiskFullError) as full:
        require_space(tmp_path, 4_200_000_000, "This run")
    assert full.value.message == (
        f"This run needs 4.2 GB; 1.2 GB of it is missing on the disk of {tmp_path}."
    )
    assert full.value.missing_bytes == 1_200_000_000


def test_free_space_of_a_folder_to_come_is_that_of_its_disk(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") > 0


@pytest.mark.fault(10)
def test_a_failed_write_is_told_with_file_and_reason(tmp_path: Path) -> None:  # R10, R16
    with (
        pytest.raises(StudioError, match="Could not save step 9: Input/output error"),
        saving("step 9", tmp_path),
    ):
        raise OSError(errno.EIO, "Input/output error")


def test_a_full_disk_is_recognised_in_the_words_of_native_libraries() -> None:  # R9
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert is_disk_full(RuntimeError(words))
    assert is_disk_full(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_disk_full(OSError(errno.EIO, "Input/output error"))
    assert not is_disk_full(RuntimeError("something else"))


def test_a_size_is_never_rounded_to_nothing() -> None:
    assert [in_gb(count) for count in (12, 3_400, 5_600_000, 1_200_000_000)] == [
        "12 bytes",
        "3.4 kB",
        "5.6 MB",
        "1.2 GB",
    ]


def test_checkpoints_that_are_there_make_room_for_the_next_ones() -> None:  # R9
    assert checkpoints_need(1_000_000_000, keep=2, held=2_000_000_000) == 3_000_000_000
    assert (
        checkpoints_need(1_000_000_000, keep=2, held=9_000_000_000) == 3_000_000_000
    )  # one is being written
