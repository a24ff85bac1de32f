"""Conversations of the Chat page as they are kept: one private JSON file each, whole or as it was before."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qlora_studio.config.run_config import ModelConfig
from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import (
    FOLDER_MODE,
    fsync_folder,
    read_file,
    remove_file,
    write_file_durably,
)
from qlora_studio.runs.space import saving

SCHEMA_VERSION = 1
NOTHING_SAID = -1  # the `before` of a first message
LONGEST_NAME = 80  # characters, where the first message is the name

MOST_SIDES = 4  # the base and three adapters

_LARGEST = 64_000_000  # bytes of one conversation
_SUFFIX = ".json"
_TORN = re.compile(r"\..+\.json\.[0-9a-f]{8}\.tmp")  # as `write_file_durably` names them
_TORN_AFTER_S = 3600  # a save takes seconds; either way, as clocks jump


class KeptReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One side's answer. adapter: its folder; None: the base answered. problem: why there is none."""

    side: int
    adapter: str | None = None
    attempt: int = 0
    text: str = ""
    tokens: int = 0
    tokens_per_second: float = 0.0
    first_token_seconds: float = 0.0
    ended: str = ""
    problem: str = ""
    hint: str = ""


class KeptTurn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message. before: place of the turn it was said after; replies: places of those shown with it."""

    text: str
    before: int = NOTHING_SAID
    replies: tuple[int, ...] = ()


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """All branches of one chat; of turns that were said after the same one, each begins a branch.

    name:     empty where the person gave none
    adapter:  folder of the one that was chosen; empty: none
    also:     those of the adapters beside it
    turns:    each after the one that it was said after
    shown:    the place of the last turn on the branch that was looked at
    """

    schema_version: int = SCHEMA_VERSION
    name: str = ""
    began: float  # seconds since 1970, as `changed`
    changed: float
    model: ModelConfig
    adapter: str = ""
    also: tuple[str, ...] = ()
    side_by_side: bool = False
    system: str = ""
    turns: tuple[KeptTurn, ...] = ()
    replies: tuple[KeptReply, ...] = ()
    shown: int = NOTHING_SAID

    @property
    def title(self) -> str:
        """What it is listed as."""
        first = self.turns[0].text.strip() if self.turns else ""
        return self.name or first.partition("\n")[0][:LONGEST_NAME] or "Conversation"


@dataclass(frozen=True)
class Listed:
    """A conversation in a list. words: all that was said in it, to be searched, without capitals."""

    path: Path
    title: str
    changed: float
    messages: int
    words: str


@dataclass(frozen=True)
class Unreadable:
    """A file that is left as it is. reason: a sentence."""

    path: Path
    reason: str


class ConversationFile:
    """Where one conversation is kept, and what this window last saw there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = _signature(path)

    def save(self, conversation: Conversation) -> None:
        """Where another window wrote meanwhile, its file stays and this one goes on in a new one.

        Raises: StudioError.
        """
        with saving("the conversation", self.path):
            _make_private_folder(self.path.parent)
            if _signature(self.path) not in (self._seen, None):
                self.path = new_path(self.path.parent)
            write_file_durably(self.path, msgspec.json.encode(conversation))
            self._seen = _signature(self.path)


def new_path(folder: Path) -> Path:
    """A name that isn't taken, the older ones first in a listing."""
    return folder / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{secrets.token_hex(3)}{_SUFFIX}"


def read_conversation(path: Path) -> Conversation:
    """Raises: StudioError where it can't be read, is torn, or was written by a newer version."""
    try:
        data = read_file(path, _LARGEST)
        if msgspec.json.decode(data, type=_Version).schema_version > SCHEMA_VERSION:
            raise StudioError(
                f"{path.name} was written by a newer version.", hint="It is left as it is. Update to open it."
            )
        conversation = msgspec.json.decode(data, type=Conversation)
    except OSError as error:
        raise StudioError(f"{path.name} could not be read: {error.strerror}.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StudioError(
            f"{path.name} is damaged.", hint="It is left as it is; a backup of it can be put in its place."
        ) from error
    if not _hangs_together(conversation):
        raise StudioError(
            f"{path.name} is damaged: its messages don't go together.", hint="It is left as it is."
        )
    return conversation


def list_conversations(folder: Path) -> tuple[list[Listed], list[Unreadable]]:
    """The last changed first; files that can't be read are named. Raises: StudioError."""
    listed, unreadable = [], []
    for path in _files(folder):
        try:
            listed.append(listed_as(path, read_conversation(path)))
        except StudioError as error:
            unreadable.append(Unreadable(path, str(error)))
    listed.sort(key=lambda item: (item.changed, item.path.name), reverse=True)
    return listed, unreadable


def drop_torn_files(folder: Path) -> None:
    """What a window that was killed had half saved. Another window may be saving now, so only old ones go."""
    with contextlib.suppress(OSError):  # the folder isn't there yet, or can't be written to
        for path in folder.iterdir():
            if _TORN.fullmatch(path.name) and abs(time.time() - path.lstat().st_mtime) > _TORN_AFTER_S:
                remove_file(path)


def listed_as(path: Path, conversation: Conversation) -> Listed:
    """One conversation's place in a list."""
    said = [conversation.title, *(turn.text for turn in conversation.turns)]
    said += [reply.text for reply in conversation.replies]
    return Listed(
        path, conversation.title, conversation.changed, len(conversation.turns), "\n".join(said).casefold()
    )


def found(listed: Sequence[Listed], search: str) -> list[Listed]:
    """Those in which every word of `search` was said."""
    words = search.casefold().split()
    return [item for item in listed if all(word in item.words for word in words)]


class _Version(msgspec.Struct):
    schema_version: int


def _hangs_together(conversation: Conversation) -> bool:
    """Whether every place that is named is there: no turn before itself, no side twice."""
    sides = [reply.side for reply in conversation.replies]
    if any(not 0 <= side < MOST_SIDES for side in sides):
        return False
    for place, turn in enumerate(conversation.turns):
        if not NOTHING_SAID <= turn.before < place:
            return False
        if any(not 0 <= reply < len(sides) for reply in turn.replies):
            return False
        if len({sides[reply] for reply in turn.replies}) != len(turn.replies):
            return False
    return NOTHING_SAID <= conversation.shown < len(conversation.turns)


def _files(folder: Path) -> list[Path]:
    """Raises: StudioError."""
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StudioError(f"{folder} could not be read: {error.strerror}.") from error
    return [path for path in paths if path.suffix == _SUFFIX and not path.name.startswith(".")]


def _make_private_folder(folder: Path) -> None:
    """Raises: OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(FOLDER_MODE)
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
        return
    fsync_folder(folder.parent)


def _signature(path: Path) -> tuple[int, int, int] | None:
    """Another after each write; None where there is no file."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
