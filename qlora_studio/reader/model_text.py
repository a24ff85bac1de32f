"""A model's tokenizer and chat template, once both were tried in a process of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from qlora_studio.config.run_config import SHAPE_PREFIX, DataConfig
from qlora_studio.data.row_encoder import RowEncoder
from qlora_studio.data.source_and_target import SourceTargetEncoder
from qlora_studio.data.template import ChatTemplate, find_template, plain_template
from qlora_studio.data.tokenizer import ModelTokenizer, load_tokenizer
from qlora_studio.errors import StudioError
from qlora_studio.models.check import model_folder
from qlora_studio.models.clean_config import decoder_start
from qlora_studio.models.template import PLAIN, SOURCE
from qlora_studio.reader.trial_child import LOADING_SECONDS, TRIAL_SECONDS, Verdict

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True)
class ModelText:
    """How a model's text becomes tokens.

    notes:    what a person should know of it
    start_id: the token that the decoder of an encoder-decoder starts with; None: it is a causal model
    """

    tokenizer: ModelTokenizer
    template: ChatTemplate
    stop_ids: tuple[int, ...]
    notes: tuple[str, ...]
    start_id: int | None = None

    def with_template(self, source: str, origin: str) -> ModelText:
        """Chats are rendered with this one instead. Raises: StudioError where it is none."""
        return replace(self, template=ChatTemplate(source, self.tokenizer.special.names, origin))

    def encoder(self, data: DataConfig, method: str) -> RowEncoder:
        """For rows of data, with what is learned of them. Raises: StudioError where that can't be."""
        if self.start_id is None:
            return RowEncoder(
                self.tokenizer, self.template, train_on=data.train_on, method=method, stop_ids=self.stop_ids
            )
        return SourceTargetEncoder(
            self.tokenizer,
            self.template,
            train_on=data.train_on,
            method=method,
            start_id=self.start_id,
            target_len=data.target_len,
            stop_ids=self.stop_ids,
        )


class ModelTexts:
    """Those of the models that were asked for, read anew where a file of theirs has changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], ModelText] = {}

    def of(self, path: str) -> ModelText:
        """`path` as in a run's settings. Raises: StudioError naming the file and what is wrong with it."""
        if path.startswith(SHAPE_PREFIX):
            raise StudioError(
                f"{path} has no tokenizer: it is a shape with random weights.",
                hint="Choose a model folder to see tokens or to chat.",
            )
        folder = model_folder(path)
        key = (folder, *(_signature(folder / name) for name in _FILES))
        if key not in self._known:
            self._known = {key: _tried(folder)}  # one model at a time: large vocabularies take 200 MB
        return self._known[key]


def _tried(folder: Path) -> ModelText:
    verdict = _verdict(folder)
    tokenizer = load_tokenizer(folder)
    start_id = decoder_start(folder)
    own = find_template(folder, tokenizer.special.names)
    template = own or plain_template(tokenizer.special.names, PLAIN if start_id is None else SOURCE)
    return ModelText(tokenizer, template, verdict.stop_ids, verdict.notes, start_id)


def _verdict(folder: Path) -> Verdict:
    """Native code may abort or never return: judged by how the process ended."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "qlora_studio.reader.trial_child", str(folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LOADING_SECONDS + 2 * TRIAL_SECONDS + 5,
            cwd=Path(__file__).parents[2],  # -m imports from the working folder: it must be ours (S1)
            env={**os.environ, "MALLOC_ARENA_MAX": "2", "RAYON_NUM_THREADS": "2"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StudioError(f"The tokenizer in {folder} never ends.") from error
    sys.stderr.buffer.write(done.stderr[-20_000:])  # into the reader's log
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if done.returncode == 0 and lines:
        verdict = msgspec.json.decode(lines[-1], type=Verdict)
        if verdict.problem is not None:
            raise StudioError(verdict.problem.message, verdict.problem.hint)
        return verdict
    what = "chat template" if "template" in lines else "tokenizer"
    raise StudioError(
        f"The {what} in {folder} {_end_in_words(done)}.", hint="Get the model again, or use another."
    )


def _end_in_words(done: subprocess.CompletedProcess[bytes]) -> str:
    if timeout := re.search(rb"Timeout \(0:00:(\d+)", done.stderr):
        return f"takes longer than {int(timeout.group(1))} seconds"
    if b"memory allocation" in done.stderr:
        return "asks for more memory than it may"
    if done.returncode < 0:
        return f"ends the process that tries it ({signal.Signals(-done.returncode).name})"
    if b"MemoryError" in done.stderr:
        return "asks for more memory than it may"
    if b"panicked" in done.stderr:
        return "breaks down on plain text"
    return "ends the process that tries it"


def _signature(file: Path) -> object:
    try:
        about = file.stat()
    except OSError:
        return None
    return (about.st_ino, about.st_size, about.st_mtime_ns)
