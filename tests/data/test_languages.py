"""Languages are told from a sample, and only where there is enough to tell by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qlora_studio.data.dataset import Dataset
from qlora_studio.data.languages import NAMES, Languages, languages_of, prose_of
from tests.data.imported_files import import_path
from tests.data.test_doctor import chat, found, rows_of, silent

ENGLISH = (
    "Bread is made of flour, water and salt. Leave the dough to rise over night, then bake it in a hot oven "
    "until the crust is brown. Batch number {i}."
)
GERMAN = (
    "Brot wird aus Mehl, Wasser und Salz gemacht. Lass den Teig über Nacht gehen und backe ihn dann im "
    "heißen Ofen, bis die Kruste braun ist. Nummer {i}."
)
FRENCH = (
    "Le pain se fait avec de la farine, de l'eau et du sel. Laissez lever la pâte toute la nuit, puis "
    "faites-la cuire au four jusqu'à ce que la croûte soit dorée. Numéro {i}."
)
CODE = "for (int i = 0; i < n; ++i) { a[i] = b[i] * c[i] + 0x{i}; } // {i}"


def languages(dataset: Dataset) -> Languages:
    return languages_of(dataset, np.arange(len(dataset)), silent)


def test_rows_in_another_language_than_most_are_found(tmp_path: Path) -> None:
    texts = [ENGLISH] * 20 + [GERMAN] * 3 + [FRENCH]
    rows = rows_of(tmp_path, *(chat(f"{i}?", text.replace("{i}", str(i))) for i, text in enumerate(texts)))

    assert languages(rows) == Languages(24, {"English": 20, "German": 3, "French": 1}, (20, 21, 22, 23))


def test_the_doctor_tells_them_and_names_the_rows(tmp_path: Path) -> None:
    texts = [ENGLISH] * 20 + [GERMAN] * 3
    rows = rows_of(tmp_path, *(chat(f"{i}?", text.replace("{i}", str(i))) for i, text in enumerate(texts)))

    finding = found(rows)["languages"]

    assert (finding.tone, finding.count, finding.rows) == ("info", 3, (20, 21, 22))
    assert finding.words == "3 rows are in another language than most, English: 3 in German"


def test_of_many_rows_a_sample_is_looked_at_and_it_is_said_so(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        *(chat(f"{i}?", (GERMAN if i % 10 == 0 else ENGLISH).replace("{i}", str(i))) for i in range(5_000)),
    )

    finding = found(rows)["languages"]

    assert 150 <= finding.count <= 250
    assert finding.words.startswith(f"{finding.count:,} of 2,000 rows looked at are in another language")


@pytest.mark.parametrize(
    "text",
    [
        *("42", "", "Paris.", "#### 72", " ".join(["3.14 * 2 = 6.28"] * 30)),
        "\n".join([CODE] * 20),
        f"```python\n{ENGLISH}\n{ENGLISH}\n```",
    ],
)
def test_numbers_code_and_short_answers_are_said_to_be_in_no_language(text: str) -> None:
    assert prose_of(text) == ""


def test_the_sample_data_is_in_one_language() -> None:
    assert list(languages(import_path("sample")).counts) == ["English"]


def test_every_language_has_one_name() -> None:
    assert len(set(NAMES.values())) == len(NAMES)
