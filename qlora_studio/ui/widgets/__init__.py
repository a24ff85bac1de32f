"""Widgets that every page is built from, in the look of `resources/theme.toml`.

All take `name` (object name `<page>_<thing>`) and `parent`. Text is shown plain, control characters visible.
A colour is always a token's name ("muted", "vram_weights"), an icon a file's name in resources/icons, a tone
one of ok warn bad accent neutral.

Words (text.py)
    visible_text, visible_line                           of qlora_studio.plain_text: safe to show (S8)
    plain_tooltip(text)                                  a tooltip that never becomes rich text
    PlainLabel(text, role, wrap=)                        .set_tone("ok"); role: title card_title number
                                                         number_large strong label muted note chat mono ""
    ElidedLabel(text, role)                              one line, middle elision, tooltip; .full_text()
                                                         .set_tip(text)
    set_property(widget, name, value)                    property and re-polish
    widgets.allowed.allow(control, why_not)              enabled, or not: the words stand beside it
    widgets.allowed.keep_focus(control)                  on the page, before the control goes away
    widgets.text_size.at_text_size(w, w.setFixedWidth, 110)  px at 100 % that follow the text size
Buttons (buttons.py): .setText .set_icon(icon) .become(text, icon)
    PrimaryButton | SecondaryButton | DangerButton | LinkButton(text, icon_name="", small=False, tip="")
    LongButton(text, small=True)                         goes on in further lines where its words are many
    IconButton(icon_name, label, small=False, color="muted")
    Segmented([(value, words)], label=)                  .changed(str) .value() .set_value(v) .button(v)
    ChoiceChip(text)                                     checkable filter chip
Areas (cards.py)
    Card(title="", note="", icon_name="")                .body .head .add_to_head(w) .set_note(text)
    Tile(icon_name, title, note)                         .add(widget) .set_words(title, note) .set_tone(t)
    NumberCard(title, large=False)                       .set_value(number, unit="", note="", tone="")
    EmptyState(icon_name, title, text, *buttons)         .set_words(title, text)
    IconLabel(icon_name, color="muted", size=16, label="")  .set_icon(icon_name, color)
    Separator(upright=False), empty_layout(layout)
    widgets.flow.Flow(gap=, line_gap=, last_at_right=)   a layout of as many lines as the width asks for
    widgets.columns.Columns(most=, least=, gap=, line_gap=)  equal columns, fewer where room is short
States and notices (chips.py, notices.py, popover.py)
    Chip(text, tone, icon_name="")                       .set(text, tone, icon_name)
    Banner()                                             .show_text(text, tone, *buttons) .clear(); each page
                                                         has one: page.banner
    Toast, ToastCorner(window, bottom=)                  pages say `app.notices.say(text, undo=...)` instead
    Popover(anchor, text, yes, no, danger=False)         .open() .confirmed; buttons <name>_yes, <name>_no
Bars (meters.py)
    Meter(label=, height=8)                              .set_share(0..1, color="accent")
    StackedBar(label=, height=26)                        .set_parts([Part(label, amount, color)], limit=,
                                                         total=, ghost=) .x_of(amount)
    Swatch(color)                                        the square in a legend
Fields (fields.py); the wheel never changes them
    NumberBox(low, high, value, label=, unit="")         QSpinBox, thousands commas
    DecimalBox(low, high, value, label=, step=, places=, unit="")
    TypedNumber(low, high, value, label=, ...)           keeps what was typed beyond the limits: .entered
                                                         .unreadable; for settings, which say why they refuse
    ChoiceBox([(value, words)], label=)                  .chosen(str) .value() .set_value(v) .set_choices(...)
    TextBox(text, label=, placeholder=), SearchBox(placeholder)
    Slider(low, high, label=)                            from left to right
    Switch(label=)                                       a checkable button that acts at once
    FormRow(label, field, key_name=)                     .reset .set_changed("0.0" | None) .set_problem(text)
Rows, words and figures
    widgets.rows.RowButton(icon_name, title, note)       a row that is clicked as a whole
    widgets.rows.in_line(widget, ...)                    side by side, as one widget
    ui.figures: count in_gib in_gb duration ago loss share   "31.2 GiB", "1 h 33 min", "2 min ago"
    ui.run_words.state_word(state, cause)                .word .icon_name .tone of a run
Tables (tables.py)
    TableView(label=)                                    .opened(QModelIndex) .set_widths(...)
Charts (chart.py, import it from there: it loads pyqtgraph and numpy)
    ChartView(left, bottom, label=)                      .add_line(token | series, width, symbol) .recolor()
    series_pen(series), MARKERS
    axis.ChartAxis, ThousandsAxis                        .tickStrings(values, scale, spacing) writes numbers
    line_sample.LineSample(token | series), line_pixmap  a piece of a line, for legends and tables

The page around them is `ui.page.Page`; colours and sizes are `theme()` of `ui.theme`.
"""

from qlora_studio.ui.widgets.buttons import (
    ChoiceChip,
    DangerButton,
    IconButton,
    LinkButton,
    LongButton,
    PrimaryButton,
    SecondaryButton,
    Segmented,
)
from qlora_studio.ui.widgets.cards import (
    Card,
    EmptyState,
    IconLabel,
    NumberCard,
    Separator,
    Tile,
    empty_layout,
)
from qlora_studio.ui.widgets.chips import Chip
from qlora_studio.ui.widgets.fields import (
    ChoiceBox,
    DecimalBox,
    FormRow,
    NumberBox,
    SearchBox,
    Slider,
    Switch,
    TextBox,
)
from qlora_studio.ui.widgets.meters import Meter, Part, StackedBar, Swatch
from qlora_studio.ui.widgets.notices import Banner, Toast, ToastCorner
from qlora_studio.ui.widgets.popover import Popover
from qlora_studio.ui.widgets.tables import TableView
from qlora_studio.ui.widgets.text import (
    ElidedLabel,
    PlainLabel,
    plain_tooltip,
    set_property,
)
from qlora_studio.ui.widgets.typed_number import TypedNumber

__all__ = [
    "Banner",
    "Card",
    "Chip",
    "ChoiceBox",
    "ChoiceChip",
    "DangerButton",
    "DecimalBox",
    "ElidedLabel",
    "EmptyState",
    "FormRow",
    "IconButton",
    "IconLabel",
    "LinkButton",
    "LongButton",
    "Meter",
    "NumberBox",
    "NumberCard",
    "Part",
    "PlainLabel",
    "Popover",
    "PrimaryButton",
    "SearchBox",
    "SecondaryButton",
    "Segmented",
    "Separator",
    "Slider",
    "StackedBar",
    "Swatch",
    "Switch",
    "TableView",
    "TextBox",
    "Tile",
    "Toast",
    "ToastCorner",
    "TypedNumber",
    "empty_layout",
    "plain_tooltip",
    "set_property",
]
