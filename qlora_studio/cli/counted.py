"""Numbers of things, as a person says them."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """1 row, 2,000 rows. many: where it isn't `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
