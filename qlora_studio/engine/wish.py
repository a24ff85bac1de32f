"""What a person wants of a run after the update in hand."""

from __future__ import annotations

import enum


class Wish(enum.Enum):
    """Stopping and pausing save as well."""

    NOTHING = enum.auto()
    SAVE = enum.auto()
    PAUSE = enum.auto()
    STOP = enum.auto()
