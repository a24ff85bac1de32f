"""Conversations are kept whole, private and in a list; what can't be read is named and left."""

from __future__ import annotations

import json
import os
import stat

import msgspec
import pytest

from qlora_studio.config.run_config import ModelConfig
from qlora_studio.errors import StudioError
from qlora_studio.runs import durable
from qlora_studio.runs.conversations import (
    Conversation,
    ConversationFile,
    KeptReply,
    KeptTurn,
    drop_torn_files,
    found,
    list_conversations,
    new_path,
    read_conversation,
)

TALK = Conversation(
    began=1.0,
    changed=2.0,
    model=ModelConfig(path="/models/tiny"),
    turns=(
        KeptTurn(text="Why is the sky blue?\nBriefly."),
        KeptTurn(text="And now?", before=0, replies=(0,)),
    ),
    replies=(KeptReply(side=0, text="Rayleigh scattering."),),
    shown=1,
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "conversations"


@pytest.fixture
def saved(folder):
    file = ConversationFile(new_path(folder))
    file.save(TALK)
    return file


def test_what_was_saved_is_read_again(saved):
    assert read_conversation(saved.path) == TALK


def test_conversations_are_private(saved):  # S12
    assert stat.S_IMODE(saved.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(saved.path.parent.stat().st_mode) == 0o700


def test_a_conversation_without_a_name_is_called_by_its_first_line(saved, folder):
    assert [item.title for item in list_conversations(folder)[0]] == ["Why is the sky blue?"]
    assert msgspec.structs.replace(TALK, name="Sky").title == "Sky"


def test_the_last_changed_stands_first(saved, folder):
    ConversationFile(new_path(folder)).save(msgspec.structs.replace(TALK, name="Later", changed=3.0))
    assert [item.title for item in list_conversations(folder)[0]] == ["Later", "Why is the sky blue?"]


def test_all_words_of_a_search_must_have_been_said(saved, folder):
    listed, _ = list_conversations(folder)
    assert found(listed, "SKY rayleigh") == listed
    assert found(listed, "sky green") == []
    assert found(listed, " ") == listed


@pytest.mark.parametrize("cut", range(0, len(msgspec.json.encode(TALK)), 7))
def test_a_torn_file_is_named_and_left_as_it_is(saved, folder, cut):
    torn = saved.path.read_bytes()[:cut]
    saved.path.write_bytes(torn)
    listed, unreadable = list_conversations(folder)
    assert listed == []
    assert [item.path for item in unreadable] == [saved.path]
    assert saved.path.name in unreadable[0].reason
    assert saved.path.read_bytes() == torn


def test_a_newer_file_is_named_and_left_as_it_is(saved, folder):  # R15
    newer = json.dumps({"schema_version": 2, "threads": []}).encode()
    saved.path.write_bytes(newer)
    with pytest.raises(StudioError, match="written by a newer version"):
        read_conversation(saved.path)
    assert list_conversations(folder)[1][0].path == saved.path
    assert saved.path.read_bytes() == newer


@pytest.mark.parametrize(
    "wrong",
    [
        {"turns": (KeptTurn(text="a", before=0),), "shown": 0},
        {"turns": (KeptTurn(text="a", before=-2),), "shown": 0},
        {"turns": (KeptTurn(text="a", replies=(1,)),), "shown": 0},
        {"turns": (KeptTurn(text="a", replies=(0, 0)),), "shown": 0},
        {"shown": 2},
    ],
)
def test_places_that_are_not_there_are_refused(saved, wrong):
    saved.path.write_bytes(msgspec.json.encode(msgspec.structs.replace(TALK, **wrong)))
    with pytest.raises(StudioError, match="don't go together"):
        read_conversation(saved.path)


def test_a_write_that_fails_leaves_what_was_there(saved, monkeypatch):  # R10
    monkeypatch.setattr(durable.os, "fsync", _no_space)
    with pytest.raises(StudioError, match="Could not save the conversation"):
        saved.save(msgspec.structs.replace(TALK, name="New"))
    assert read_conversation(saved.path) == TALK
    assert [path.name for path in saved.path.parent.iterdir()] == [saved.path.name]


def test_what_a_killed_window_had_half_saved_is_dropped(saved, folder, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(durable.os, "replace", _gone)
        killed.setattr(durable.os, "unlink", _gone)
        with pytest.raises(StudioError):
            saved.save(msgspec.structs.replace(TALK, name="New"))
    (torn,) = (path for path in folder.iterdir() if path != saved.path)
    assert b"Rayleigh" in torn.read_bytes()
    drop_torn_files(folder)
    assert torn.exists()  # it may be another window's, which is saving now
    for name in (torn.name, saved.path.name, ".notes.tmp"):
        (folder / name).touch()
        os.utime(folder / name, (1, 1))
    drop_torn_files(folder)
    assert {path.name for path in folder.iterdir()} == {saved.path.name, ".notes.tmp"}


def test_what_another_window_wrote_is_kept_beside_it(saved, folder):
    elsewhere = ConversationFile(saved.path)
    elsewhere.save(msgspec.structs.replace(TALK, name="Elsewhere"))
    saved.save(msgspec.structs.replace(TALK, name="Here"))
    assert saved.path != elsewhere.path
    assert {item.title for item in list_conversations(folder)[0]} == {"Elsewhere", "Here"}


def test_a_folder_that_is_not_there_yet_is_an_empty_list(folder):
    assert list_conversations(folder) == ([], [])


def test_a_link_is_not_followed(saved, folder, tmp_path):
    (folder / "link.json").symlink_to(saved.path)
    assert [item.path.name for item in list_conversations(folder)[1]] == ["link.json"]


def _gone(*_):
    raise OSError(5, "Input/output error")


def _no_space(descriptor):
    raise OSError(28, "No space left on device")
