"""A control that can't be used now says why: in words beside it, which it knows of too."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget

from qlora_studio.ui.widgets.text import plain_tooltip

WHY_NOT = "why_not"  # the property with the reason: what stands beside the control holds these words
_OWN = "own_words"  # its tooltip and description while it can be used


def allow(control: QWidget, why_not: str = "") -> None:
    """why_not: empty where it can be used. The caller shows the words beside the control."""
    if why_not:
        keep_focus(control)
    control.setEnabled(not why_not)
    before = control.property(WHY_NOT) or ""
    if why_not == before:
        return
    if not before:
        control.setProperty(_OWN, (control.toolTip(), control.accessibleDescription()))
    control.setProperty(WHY_NOT, why_not)
    tip, spoken = (plain_tooltip(why_not), why_not) if why_not else control.property(_OWN)
    control.setToolTip(tip)
    control.setAccessibleDescription(spoken)


def keep_focus(control: QWidget) -> None:
    """Before it goes away or is disabled: its focus stays on the page.

    Qt would pass it on to whatever comes next, and scroll there or mark an entry of the rail.
    """
    if not control.hasFocus():
        return
    around = control.parentWidget()
    while around is not None and around.focusPolicy() is Qt.FocusPolicy.NoFocus:
        around = around.parentWidget()
    if around is not None:
        around.setFocus(Qt.FocusReason.OtherFocusReason)
