"""The window's look: colours, sizes and fonts of `resources/theme.toml`, light or dark, at any time."""

from __future__ import annotations

import locale
import re
from enum import StrEnum
from functools import cache

import msgspec
from PySide6.QtCore import QLocale, QObject, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontDatabase, QGuiApplication, QPalette
from PySide6.QtWidgets import QApplication, QToolTip

from qlora_studio.config import places
from qlora_studio.errors import StudioError
from qlora_studio.ui.indicators import write_indicators

TEXT_SIZES = (90, 200)  # per cent


class Tone(StrEnum):
    """What a chip, banner or state says before its words are read; an icon always says it too."""

    NEUTRAL = "neutral"
    ACCENT = "accent"
    OK = "ok"
    WARN = "warn"
    BAD = "bad"


class ThemeChoice(StrEnum):
    """What Settings offers; `SYSTEM` follows the desktop while the window runs."""

    SYSTEM = "system"
    LIGHT = "light"
    DARK = "dark"


class Palette(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The colours of one theme as `#RRGGBB`; lists are shades of one thing or series of a chart."""

    window: str
    rail: str
    surface: str
    sunken: str
    hover: str
    border: str
    border_strong: str
    text: str
    muted: str
    disabled: str
    accent: str
    accent_hover: str
    accent_soft: str
    on_accent: str
    ok: str
    ok_soft: str
    warn: str
    warn_soft: str
    bad: str
    bad_soft: str
    limit: str
    selection: str
    focus: str
    token_learned: tuple[str, str]
    token_context: tuple[str, str]
    token_cut: tuple[str, str]
    token_avoided: tuple[str, str]  # of a worse answer
    series: tuple[str, str, str, str, str, str]
    raw_line: str
    grid: str
    vram_weights: str
    vram_adapter: str
    vram_optimizer: str
    vram_activations: str
    vram_logits: str
    vram_other: str


class Sizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Distances in logical pixels at a text size of 100 %."""

    page_margin: tuple[int, int]
    grid: int
    card_padding: tuple[int, int]
    radius_control: int
    radius_inset: int
    radius_card: int
    radius_chip: int
    control_height: int
    small_height: int
    nav_height: int
    row_height: int
    status_height: int
    action_bar_height: int
    rail_width: int
    rail_narrow_width: int
    side_width: int


class FontSizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Heights of type in logical pixels at a text size of 100 %."""

    title: int
    number: int
    card_title: int
    body: int
    chat: int
    label: int
    note: int
    mono: int


class ThemeFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of `theme.toml`."""

    light: Palette
    dark: Palette
    size: Sizes
    type: FontSizes


class Theme(QObject):
    """The look in force. What paints itself reads `colors`, `px` and `font`, and repaints on `changed`.

    restyled:    comes just before, when there is another style sheet; `Dress` puts it on
    style_sheet: of everything that is dressed
    """

    changed = Signal()
    restyled = Signal()

    def __init__(self, app: QApplication) -> None:
        super().__init__(app)
        _in_force[app] = self  # already: widgets ask for it when they are given a style below
        self._app = app
        self._file = read_theme_file()
        self._choice = ThemeChoice.SYSTEM
        self._text_size = 100
        self._reduced_motion = False
        self.style_sheet = ""
        _load_fonts()
        app.setStyle("Fusion")
        app.styleHints().colorSchemeChanged.connect(self._on_system_scheme_changed)
        self._apply()

    @property
    def choice(self) -> ThemeChoice:
        return self._choice

    @property
    def text_size(self) -> int:
        """Per cent."""
        return self._text_size

    @property
    def is_dark(self) -> bool:
        if self._choice is ThemeChoice.SYSTEM:
            return self._app.styleHints().colorScheme() is Qt.ColorScheme.Dark
        return self._choice is ThemeChoice.DARK

    @property
    def colors(self) -> Palette:
        return self._file.dark if self.is_dark else self._file.light

    @property
    def size(self) -> Sizes:
        return self._file.size

    @property
    def reduced_motion(self) -> bool:
        return self._reduced_motion

    def set_choice(self, choice: ThemeChoice) -> None:
        if choice is not self._choice:
            self._choice = choice
            self._apply()

    def set_text_size(self, percent: int) -> None:
        percent = min(max(percent, TEXT_SIZES[0]), TEXT_SIZES[1])
        if percent != self._text_size:
            self._text_size = percent
            self._apply()

    def set_reduced_motion(self, reduced: bool) -> None:
        self._reduced_motion = reduced

    def color(self, name: str) -> QColor:
        """The colour of a token by its name: `color("accent")`."""
        return QColor(getattr(self.colors, name))

    def px(self, pixels: float) -> int:
        """A distance drawn at 100 %, at the text size in force."""
        return round(pixels * self._text_size / 100)

    def font(self, role: str = "body", weight: int = 400) -> QFont:
        """Inter with tabular digits at the size of a role; `mono` is JetBrains Mono without ligatures."""
        font = QFont("JetBrains Mono" if role == "mono" else "Inter")
        font.setPixelSize(max(1, self.px(getattr(self._file.type, role))))
        font.setWeight(QFont.Weight(weight))
        if role == "mono":
            for feature in ("calt", "liga"):  # they turn `<|eot|>` into triangles
                font.setFeature(QFont.Tag(feature), 0)
        else:
            font.setFeature(QFont.Tag("tnum"), 1)
        return font

    def _on_system_scheme_changed(self) -> None:
        if self._choice is ThemeChoice.SYSTEM:
            self._apply()

    def _apply(self) -> None:
        self._app.setFont(self.font())
        self._app.setPalette(_qt_palette(self.colors))
        QToolTip.setFont(self.font("label"))
        self.style_sheet = self._write_style_sheet()
        self.restyled.emit()
        self.changed.emit()

    def _write_style_sheet(self) -> str:
        indicators = write_indicators(places.cache_folder() / "indicators", self.colors)
        words = msgspec.structs.asdict(self.colors) | {
            f"image_{name}": path.as_posix() for name, path in indicators.items()
        }
        sheet = re.sub(r"\$(\w+)", lambda found: str(words[found[1]]), _style_template())
        return re.sub(r"\b(\d+)dp\b", lambda found: f"{self.px(int(found[1]))}px", sheet)


_in_force: dict[QApplication, Theme] = {}


def theme() -> Theme:
    """The application's look; put in force on the first call."""
    app = QApplication.instance()
    if not isinstance(app, QApplication):
        raise RuntimeError("A look needs a QApplication.")
    return _in_force[app] if app in _in_force else Theme(app)


def read_theme_file() -> ThemeFile:
    """Raises: StudioError where the file that comes with the application is damaged."""
    path = places.resources_folder() / "theme.toml"
    try:
        return msgspec.toml.decode(path.read_bytes(), type=ThemeFile)
    except (OSError, msgspec.MsgspecError) as error:
        raise StudioError(f"{path} can't be read: {error}", hint="Install QLoRA Studio again.") from error


def contrast(first: str, second: str) -> float:
    """WCAG contrast of two colours, 1 to 21."""
    high, low = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def readable_on(ground: str, colors: Palette) -> str:
    """`text` or `on_accent`, whichever stands out more on a filled area."""
    return max((colors.text, colors.on_accent), key=lambda ink: contrast(ink, ground))


def fade(color: str | QColor, alpha: float) -> QColor:
    """A colour let through: alpha 0 to 1."""
    faded = QColor(color)
    faded.setAlphaF(alpha)
    return faded


def blended(color: str | QColor, ground: str | QColor, alpha: float) -> QColor:
    """As `fade` looks on a ground, opaque: lines that let through take ten times as long to draw."""
    over, under = QColor(color), QColor(ground)
    return QColor.fromRgbF(
        alpha * over.redF() + (1 - alpha) * under.redF(),
        alpha * over.greenF() + (1 - alpha) * under.greenF(),
        alpha * over.blueF() + (1 - alpha) * under.blueF(),
    )


def _luminance(color: str) -> float:
    channels = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _load_fonts() -> None:
    for path in sorted((places.resources_folder() / "fonts").glob("*.ttf")):
        QFontDatabase.addApplicationFont(str(path))


@cache
def _style_template() -> str:
    return (places.resources_folder() / "theme.qss").read_text(encoding="utf-8")


def _qt_palette(colors: Palette) -> QPalette:
    role = QPalette.ColorRole
    palette = QPalette()
    for where, color in (
        (role.Window, colors.window),
        (role.WindowText, colors.text),
        (role.Base, colors.surface),
        (role.AlternateBase, colors.sunken),
        (role.Text, colors.text),
        (role.Button, colors.surface),
        (role.ButtonText, colors.text),
        (role.BrightText, colors.bad),
        (role.ToolTipBase, colors.surface),
        (role.ToolTipText, colors.text),
        (role.PlaceholderText, colors.muted),
        (role.Highlight, colors.selection),
        (role.HighlightedText, colors.text),
        (role.Accent, colors.accent),
        (role.Link, colors.accent),
        (role.LinkVisited, colors.accent),
        (role.Light, colors.surface),
        (role.Mid, colors.border),
        (role.Dark, colors.border_strong),
    ):
        palette.setColor(where, QColor(color))
    for where in (role.WindowText, role.Text, role.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, where, QColor(colors.disabled))
    return palette


def keep_numbers_plain() -> None:
    """Decimal points in files and numbers whatever the desktop's language: call once after QApplication."""
    locale.setlocale(locale.LC_NUMERIC, "C")
    QLocale.setDefault(QLocale(QLocale.Language.English, QLocale.Country.UnitedStates))


def device_pixel_ratio() -> float:
    """Of the sharpest screen, so that drawn icons are never blurred."""
    return max((screen.devicePixelRatio() for screen in QGuiApplication.screens()), default=1.0)
