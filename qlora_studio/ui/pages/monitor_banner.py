"""The buttons of the Monitor's banner: what a person can do about a run that stands still."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qlora_studio.state.run_end import Action, Ending
from qlora_studio.ui.widgets import PrimaryButton, SecondaryButton
from qlora_studio.ui.widgets.allowed import allow

_WORDS = {
    Action.CHAT: "Chat with it",
    Action.EXPORT: "Export",
    Action.HALF_RATE: "New run with half the learning rate",
    Action.HALF_ROWS: "New run, half the rows",
    Action.EIGHT_BIT: "New run, 8-bit optimizer",
    Action.LOG: "Show log folder",
}


_TIPS = {
    Action.HALF_ROWS: "Half the rows at once, twice as many times for each update: the same mathematics",
    Action.EIGHT_BIT: "The optimizer's state takes a quarter, and may move to RAM in a spike",
}


def ending_buttons(
    ending: Ending, resume_step: int | None, why_no_resume: str, chosen: Callable[[Action], None]
) -> list[SecondaryButton]:
    """The first that gets the run on is the primary one.

    resume_step: of the newest sound checkpoint, 0 for the start; None: resuming isn't offered
    """
    buttons: list[SecondaryButton] = []
    for action in ending.actions:
        if action is Action.RESUME and (resume_step is None or ending.at_pause):
            continue
        words = f"Resume from step {resume_step:,}" if resume_step else "Resume"
        make = PrimaryButton if not buttons and action is not Action.LOG else SecondaryButton
        button = make(_WORDS.get(action, words), small=True, name=f"monitor_{action.value}")
        button.setToolTip(_TIPS.get(action, ""))
        allow(button, why_no_resume if action is Action.RESUME else "")
        button.clicked.connect(partial(_tell, chosen, action))
        buttons.append(button)
    return buttons


def _tell(chosen: Callable[[Action], None], action: Action, _: bool = False) -> None:
    chosen(action)
