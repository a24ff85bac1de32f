"""A run's state as an icon and a word: never by colour alone."""

from __future__ import annotations

from dataclasses import dataclass

from qlora_studio.ui.theme import Tone


@dataclass(frozen=True)
class StateWord:
    """What a chip or a table's cell shows."""

    word: str
    icon_name: str
    tone: Tone


OUT_OF_MEMORY = StateWord("Out of memory", "circle-x", Tone.BAD)
OPEN_ELSEWHERE = StateWord("Open elsewhere", "lock", Tone.ACCENT)

_WORDS = {
    "running": StateWord("Training", "activity", Tone.ACCENT),
    "paused": StateWord("Paused", "circle-pause", Tone.WARN),
    "stopped": StateWord("Stopped", "circle-stop", Tone.NEUTRAL),
    "finished": StateWord("Finished", "circle-check", Tone.OK),
    "failed": StateWord("Failed", "circle-x", Tone.BAD),
    "interrupted": StateWord("Interrupted", "circle-alert", Tone.WARN),
    "queued": StateWord("Queued", "clock", Tone.NEUTRAL),
    "unreadable": StateWord("Unreadable", "file-x", Tone.BAD),
}


def state_word(state: str, cause: str = "", *, elsewhere: bool = False) -> StateWord:
    """state and cause: of `RunState`, or "unreadable"; elsewhere: another window writes to it (R8)."""
    if state == "running" and elsewhere:
        return OPEN_ELSEWHERE
    if state == "failed" and cause == "out_of_memory":
        return OUT_OF_MEMORY
    return _WORDS.get(state, StateWord(state.replace("_", " ").capitalize(), "info", Tone.NEUTRAL))
