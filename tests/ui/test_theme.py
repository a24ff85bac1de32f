"""The look: colours that can be read, each with its name, in two themes that change while running."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from PySide6.QtGui import QFontMetricsF

from qlora_studio.config import places
from qlora_studio.ui.icons import icon
from qlora_studio.ui.theme import Palette, ThemeChoice, contrast, read_theme_file, readable_on, theme

SOURCE = Path(places.__file__).parents[1]
TEXT, EDGE = 4.5, 3.0  # WCAG AA

GROUNDS = ("window", "surface", "sunken", "rail")
TEXT_PAIRS = [
    *((ink, ground) for ink in ("text", "muted", "accent", "ok", "warn", "bad") for ground in GROUNDS),
    ("text", "hover"),
    ("text", "selection"),
    ("text", "accent_soft"),
    ("on_accent", "accent"),
    ("on_accent", "accent_hover"),
    ("accent", "accent_soft"),
    ("ok", "ok_soft"),
    ("warn", "warn_soft"),
    ("bad", "bad_soft"),
    ("text", "ok_soft"),
    ("text", "warn_soft"),
    ("text", "bad_soft"),
    ("limit", "surface"),
]
EDGE_PAIRS = [
    (mark, ground) for mark in ("border_strong", "focus", "limit") for ground in ("window", "surface")
] + [
    (mark, "surface")  # charts and bars stand on cards
    for mark in (
        "raw_line",
        "vram_weights",
        "vram_adapter",
        "vram_optimizer",
        "vram_activations",
        "vram_logits",
        "vram_other",
    )
]


@pytest.fixture(params=["light", "dark"])
def colors(request: pytest.FixtureRequest) -> Palette:
    palette: Palette = getattr(read_theme_file(), request.param)
    return palette


@pytest.fixture
def look(qapp):
    found = theme()
    yield found
    found.set_choice(ThemeChoice.SYSTEM)
    found.set_text_size(100)


@pytest.mark.parametrize(("ink", "ground"), TEXT_PAIRS)
def test_text_stands_out_from_its_ground(colors, ink, ground):
    assert contrast(getattr(colors, ink), getattr(colors, ground)) >= TEXT


@pytest.mark.parametrize(("mark", "ground"), EDGE_PAIRS)
def test_edges_and_chart_marks_stand_out(colors, mark, ground):
    assert contrast(getattr(colors, mark), getattr(colors, ground)) >= EDGE


def test_every_series_of_a_chart_stands_out_from_the_card(colors):
    assert all(contrast(color, colors.surface) >= EDGE for color in colors.series)


def test_tokens_can_be_read_on_their_grounds(colors):
    grounds = (*colors.token_learned, *colors.token_cut)
    assert all(contrast(colors.text, ground) >= TEXT for ground in grounds)
    assert all(contrast(colors.muted, ground) >= TEXT for ground in colors.token_context)


def test_a_label_on_a_filled_area_takes_the_ink_that_is_read_best(colors):
    fills = [value for name, value in msgspec.structs.asdict(colors).items() if name.startswith("vram_")]
    assert all(contrast(readable_on(fill, colors), fill) >= EDGE for fill in fills)


def test_no_colour_is_written_outside_the_theme_file():
    written = re.compile(r"#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{8}\b")
    files = [*SOURCE.rglob("*.py"), places.resources_folder() / "theme.qss"]
    assert [str(file) for file in files if written.search(file.read_text("utf-8"))] == []


def test_every_colour_that_the_style_sheet_names_is_in_the_theme_file():
    sheet = (places.resources_folder() / "theme.qss").read_text("utf-8")
    names = set(re.findall(r"\$(\w+)", sheet))
    known = {field.name for field in msgspec.structs.fields(Palette)}
    assert {name for name in names if not name.startswith("image_")} <= known


def test_the_theme_changes_while_the_window_runs(look, qapp):
    look.set_choice(ThemeChoice.LIGHT)
    assert read_theme_file().light.surface in look.style_sheet
    look.set_choice(ThemeChoice.DARK)
    assert read_theme_file().dark.surface in look.style_sheet
    assert qapp.palette().window().color() == look.color("window")


def test_text_grows_to_twice_its_size(look):
    look.set_text_size(200)
    assert look.font("body").pixelSize() == 26
    assert look.px(32) == 64


def test_text_size_stays_within_its_limits(look):
    look.set_text_size(500)
    assert look.text_size == 200


def test_digits_are_equally_wide(look):
    metrics = QFontMetricsF(look.font("number", 700))
    assert metrics.horizontalAdvance("1111") == metrics.horizontalAdvance("8888")


def test_an_icon_takes_the_colour_of_the_theme_in_force(look):
    picture = icon("check", "accent")
    look.set_choice(ThemeChoice.LIGHT)
    light = picture.pixmap(16, 16).toImage()
    look.set_choice(ThemeChoice.DARK)
    assert picture.pixmap(16, 16).toImage() != light


def test_every_icon_named_in_the_source_is_bundled():
    folder = places.resources_folder() / "icons"
    bundled = {file.stem for file in folder.glob("*.svg")}
    named = set()
    for file in (SOURCE / "ui").rglob("*.py"):
        named |= set(
            re.findall(r'(?:icon|IconLabel|icon_pixmap|IconButton)\(\s*"([a-z0-9-]+)"', file.read_text())
        )
    assert named <= bundled
