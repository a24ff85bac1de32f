"""The buttons of the Monitor's banner: what a person can do about a run that stands still."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qlora_studio.state.run_end import RESUMING, Action, Ending
from qlora_studio.ui.widgets import PrimaryButton, SecondaryButton
from qlora_studio.ui.widgets.allowed import allow

_WORDS = {
    Action.CHAT: "Chat with it",
    Action.EXPORT: "Export",
    Action.HALF_RATE: "New run with half the learning rate",
    Action.RECOMPUTE: "Resume, recompute all",
    Action.HALF_ROWS: "Resume, half the rows",
    Action.EIGHT_BIT: "Resume, 8-bit optimizer",
    Action.LOG: "Show log folder",
}


_TIPS = {
    Action.RECOMPUTE: "All layers are computed again in the backward pass: slower, the same result",
    Action.HALF_ROWS: "Half the rows at once, twice as many times for each update: the same mathematics",
    Action.EIGHT_BIT: "The optimizer's state takes a quarter, and may move to RAM in a spike",
    Action.WITHOUT_ROWS: "The longest rows of the batch that didn't fit are computed no more",
}


def ending_buttons(
    ending: Ending, resume_step: int | None, why_no_resume: str, chosen: Callable[[Action], None]
) -> list[SecondaryButton]:
    """The first that gets the run on is the primary one.

    resume_step: of the newest sound checkpoint, 0 for the start; None: resuming isn't offered
    """
    buttons: list[SecondaryButton] = []
    for action in ending.actions:
        if action in RESUMING and (resume_step is None or ending.at_pause):
            continue
        make = PrimaryButton if not buttons and action is not Action.LOG else SecondaryButton
        button = make(_words(action, ending, resume_step), small=True, name=f"monitor_{action.value}")
        button.setToolTip(_tip(action, ending))
        allow(button, why_no_resume if action in RESUMING else "")
        button.clicked.connect(partial(_tell, chosen, action))
        buttons.append(button)
    return buttons


def _words(action: Action, ending: Ending, resume_step: int | None) -> str:
    if action is Action.WITHOUT_ROWS:
        return f"Resume without {ending.rows:,} {'row' if ending.rows == 1 else 'rows'}"
    return _WORDS.get(action, f"Resume from step {resume_step:,}" if resume_step else "Resume")


def _tip(action: Action, ending: Ending) -> str:
    tip = _TIPS.get(action, "")
    if action is Action.RECOMPUTE and ending.dequantized:
        return f"{tip}. Weights aren't kept dequantized any more"
    return tip


def _tell(chosen: Callable[[Action], None], action: Action, _: bool = False) -> None:
    chosen(action)
