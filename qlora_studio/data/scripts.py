"""In which script rows are written: what a few rows in another language than the rest give away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

_SCRIPTS = {
    "Latin": r"\p{Latin}",
    "Cyrillic": r"\p{Cyrillic}",
    "Greek": r"\p{Greek}",
    "Arabic": r"\p{Arabic}",
    "Hebrew": r"\p{Hebrew}",
    "Devanagari": r"\p{Devanagari}",
    "Bengali": r"\p{Bengali}",
    "Tamil": r"\p{Tamil}",
    "Thai": r"\p{Thai}",
    "Chinese": r"\p{Han}",
    "Japanese": r"[\p{Hiragana}\p{Katakana}]",
    "Korean": r"\p{Hangul}",
}
NAMES = (*_SCRIPTS, "")  # the last: too few letters to tell
_KANA = 0.1  # of the characters: Japanese is written in Chinese ones as well
_LEAST_LETTERS = 5


def scripts_of(texts: Any, rows: NDArray[np.int64], count: int) -> NDArray[np.int8]:
    """Of each of `count` rows the index into `NAMES` of what most of its letters belong to.

    rows: int64 [texts], the row of each text
    """
    letters = np.zeros((count, len(_SCRIPTS)))
    foreign = np.flatnonzero(~pc.string_is_ascii(texts).to_numpy(zero_copy_only=False))
    odd = texts.take(foreign) if len(foreign) else texts.slice(0, 0)
    plain = pc.match_substring_regex(texts, pattern="[A-Za-z]{3}").to_numpy(zero_copy_only=False).copy()
    plain[foreign] = False
    lengths = pc.utf8_length(texts).to_numpy(zero_copy_only=False)
    np.add.at(letters[:, 0], rows[plain], lengths[plain])
    for at, pattern in enumerate(_SCRIPTS.values()):
        found = pc.count_substring_regex(odd, pattern=pattern).to_numpy(zero_copy_only=False)
        np.add.at(letters[:, at], rows[foreign], found)
    chinese, japanese = NAMES.index("Chinese"), NAMES.index("Japanese")
    written_in_both = letters[:, japanese] > _KANA * letters[:, chinese]
    letters[written_in_both, japanese] += letters[written_in_both, chinese]
    most: NDArray[np.int8] = letters.argmax(axis=1).astype(np.int8)
    most[letters.max(axis=1) < _LEAST_LETTERS] = len(_SCRIPTS)
    return most
