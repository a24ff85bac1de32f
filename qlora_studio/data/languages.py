"""Which languages rows are written in, told from a sample: where a text has enough words to tell by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qlora_studio.data.conversation import Row

# Those that many people write, by their ISO 639 codes: among fewer, fewer are mistaken for each other
_LANGUAGES = (
    "en English, de German, fr French, es Spanish, it Italian, pt Portuguese, nl Dutch, sv Swedish, "
    "da Danish, no Norwegian, fi Finnish, pl Polish, cs Czech, sk Slovak, hu Hungarian, ro Romanian, "
    "hr Croatian, sl Slovene, tr Turkish, vi Vietnamese, id Indonesian, tl Tagalog, sw Swahili, et Estonian, "
    "lv Latvian, lt Lithuanian, ca Catalan, eu Basque, sq Albanian, ru Russian, uk Ukrainian, bg Bulgarian, "
    "sr Serbian, kk Kazakh, ar Arabic, fa Persian, ur Urdu, hi Hindi, mr Marathi, ne Nepali, zh Chinese, "
    "ja Japanese, ko Korean, th Thai, el Greek, he Hebrew"
)
NAMES: dict[str, str] = dict(language.split(" ") for language in _LANGUAGES.split(", "))

_SAMPLED = 2_000  # rows, spread evenly: two of a thousand show nearly always
_READ = 600  # characters of each
_LEAST_LETTERS = 80
_PROSE = 0.75  # of the characters beside blanks: less is code, mathematics or a table
_SURE = 0.9  # of a probability; what is below is said of no language

Told = Callable[[int, int, str], None]


class HasRows(Protocol):
    """Rows by index."""

    def row(self, index: int) -> Row: ...


@dataclass(frozen=True)
class Languages:
    """What a sample showed.

    sampled:   rows that were looked at
    counts:    language -> how many of them, the usual one first
    others:    rows of the sample that are in another language than the usual one, in order
    """

    sampled: int
    counts: dict[str, int]
    others: tuple[int, ...]


def languages_of(dataset: HasRows, rows: NDArray[np.int64], told: Told) -> Languages:
    """Of the answers, or texts, of a sample of these rows; the same rows give the same."""
    at = np.unique(np.linspace(0, len(rows) - 1, min(_SAMPLED, len(rows))).round().astype(np.int64))
    found: dict[int, str] = {}
    identifier = None
    for done, row in enumerate(rows[at].tolist()):
        told(done, len(at), "Looking at languages")
        prose = prose_of(_answers(dataset.row(row)))
        if prose:
            identifier = identifier or _identifier()
            language, probability = identifier.classify(prose)
            if probability >= _SURE:
                found[row] = NAMES[language]
    counts = dict(Counter(found.values()).most_common())
    usual = next(iter(counts), "")
    return Languages(len(at), counts, tuple(row for row, name in found.items() if name != usual))


def prose_of(text: str) -> str:
    """The beginning of a text without the code in it; empty where there is too little to tell by."""
    words = _CODE.sub(" ", text[: 4 * _READ])[:_READ]
    letters = sum(map(str.isalpha, words))
    marks = len(words) - sum(map(str.isspace, words))
    return words if letters >= _LEAST_LETTERS and letters >= _PROSE * marks else ""


_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)


def _answers(row: Row) -> str:
    said = [message.content for message in row.messages if message.role == "assistant"]
    return row.text if row.text is not None else "\n".join(said)


def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(NAMES))
    return identifier
