"""A file of prompts: lines of text, or JSON objects that name their prompt as the usual sets do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qlora_studio.data.strict_json import JsonError, parse_json
from qlora_studio.errors import StudioError
from qlora_studio.protocol import reading
from qlora_studio.runs.arena import MOST_PROMPTS

LARGEST_FILE = 8_000_000  # bytes
LONGEST_PROMPT = 8_000  # characters
_NAMES = ("prompt", "question", "instruction", "text", "turns")  # Vicuna's 80 questions say "text"


def read_prompts(request: reading.ReadPrompts) -> reading.PromptsRead:
    """In the order of the file, each once. Raises: StudioError naming the line."""
    path = Path(request.path)
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise StudioError(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise StudioError(f"{path} is not UTF-8 text at byte {error.start:,}.") from error
    if len(data) > LARGEST_FILE:
        raise StudioError(f"{path} is larger than {LARGEST_FILE / 1e6:.0f} MB.", hint="Choose fewer prompts.")
    prompts = tuple(dict.fromkeys(prompt for prompt in _prompts(path, text) if prompt))
    if not prompts:
        raise StudioError(f"{path} holds no prompt.", hint="Write one a line.")
    if len(prompts) > MOST_PROMPTS:
        raise StudioError(f"{path} holds {len(prompts):,} prompts; at most {MOST_PROMPTS:,} are taken.")
    return reading.PromptsRead(id=request.id, prompts=prompts)


def _prompts(path: Path, text: str) -> list[str]:
    if text.lstrip().startswith("["):
        items = _parsed(path, 1, text)
        return [_prompt(path, number, item) for number, item in enumerate(items, start=1)]
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if not first.lstrip().startswith("{"):
        return [_checked(path, number, line.strip()) for number, line in enumerate(lines, start=1)]
    return [
        _prompt(path, number, _parsed(path, number, line))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _parsed(path: Path, line: int, text: str) -> Any:
    try:
        return parse_json(text.encode("utf-8"))
    except (JsonError, UnicodeError) as error:
        raise StudioError(f"{path}, line {line:,}: {error}.") from error


def _prompt(path: Path, number: int, item: Any) -> str:
    if isinstance(item, str):
        return _checked(path, number, item.strip())
    for name in _NAMES if isinstance(item, dict) else ():
        said = item.get(name)
        if isinstance(said, list) and said:  # the turns of a talk: its first question
            said = said[0]
        if isinstance(said, str) and said.strip():
            return _checked(path, number, said.strip())
    names = ", ".join(_NAMES)
    raise StudioError(f"{path}, prompt {number:,}: none of {names} is there.", hint="Name the prompt so.")


def _checked(path: Path, number: int, prompt: str) -> str:
    if len(prompt) > LONGEST_PROMPT:
        raise StudioError(f"{path}, prompt {number:,} is longer than {LONGEST_PROMPT:,} characters.")
    return prompt
