"""`chat`: talk to a model, or to what a run made of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from qlora_studio.cli.children import Engine, Reader
from qlora_studio.cli.counted import counted
from qlora_studio.cli.output import Told, print_error, print_json, print_text
from qlora_studio.cli.there import require_model
from qlora_studio.config import places
from qlora_studio.config.run_config import SAMPLE, ModelConfig
from qlora_studio.data.conversation import Message
from qlora_studio.errors import StudioError
from qlora_studio.plain_text import visible_text
from qlora_studio.protocol import commands, events, reading
from qlora_studio.runs.folder import Run, open_run
from qlora_studio.runs.good_answers import AnswerTurn, GoodAnswer, add_good_answer
from qlora_studio.runs.named_run import run_folder

GOOD = "/good"  # typed in place of a message
SAMPLING_OPTIONS: tuple[tuple[str, type, str], ...] = (
    ("temperature", float, "how far from the likeliest tokens"),
    ("top_p", float, "only the likeliest tokens that hold this share together"),
    ("top_k", int, "only so many of the likeliest tokens, 0: any"),
    ("min_p", float, "only tokens at least this share as likely as the likeliest"),
    ("repeat_penalty", float, "makes what was said less likely, above 1"),
    ("seed", int, "the same one draws the same reply"),
)


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`qlora-studio chat`."""
    chat = subparsers.add_parser(
        "chat",
        help="talk to a run's adapter, or to a model",
        description=f"Talks until the input ends. {GOOD} keeps the last answer as a row for training.",
    )
    chat.add_argument("target", metavar="RUN-OR-MODEL", help="a run, a model folder, or 'sample'")
    chat.add_argument("--adapter", type=Path, metavar="A", help="an adapter folder of that model")
    chat.add_argument("--prompt", metavar="P", help="answer this once and end")
    chat.add_argument("--greedy", action="store_true", help="always the likeliest token")
    usual = commands.Sampling()
    for name, kind, words in SAMPLING_OPTIONS:
        chat.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=getattr(usual, name),
            metavar="N",
            help=f"{words}; {getattr(usual, name)} where nothing is said",
        )
    chat.add_argument("--system", default="", metavar="TEXT", help="what the model is told before all else")
    chat.add_argument("--max-tokens", type=int, default=512, metavar="N")
    chat.add_argument("--json", action="store_true")
    chat.set_defaults(run=chat_command)


def chat_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    if arguments.prompt is not None and not arguments.prompt.strip():
        raise StudioError("--prompt is empty.", hint="Write a question, or leave --prompt out to talk.")
    model, adapter, run = what_to_chat_with(arguments.target, arguments.adapter)
    require_model(model.path)
    sampling = sampling_of(arguments)
    told_before = [Message("system", arguments.system)] if arguments.system.strip() else []
    with Told(quiet=arguments.json) as told, Engine(told) as engine, Reader(told) as reader:
        talk = Talk(engine, reader, model, run)
        if adapter:
            talk.check_adapter(adapter)
        for note in talk.load(alone=adapter is None):
            print_error(f"note: {note}")
        if arguments.prompt is not None:
            asked = [*told_before, Message("user", arguments.prompt)]
            _answer(talk, asked, adapter, sampling, arguments.json)
            return 0
        return _converse(talk, told_before, adapter, sampling, arguments.json)


def sampling_of(arguments: argparse.Namespace) -> commands.Sampling:
    """Raises: StudioError; limits of the other numbers are the engine's."""
    chosen = {name: getattr(arguments, name) for name, _, _ in SAMPLING_OPTIONS}
    return commands.Sampling(
        greedy=arguments.greedy, max_tokens=_at_least_one(arguments.max_tokens), **chosen
    )


def what_to_chat_with(target: str, adapter: Path | None) -> tuple[ModelConfig, str | None, str]:
    """The base as it was trained on, or the model made of it; the adapter's folder if there is one; and the
    run's, or "".

    Raises: StudioError.
    """
    if target == SAMPLE:
        return ModelConfig(path=SAMPLE), str(adapter.absolute()) if adapter else None, ""
    folder = run_folder(Path(target))
    if (folder / "run.json").exists():
        run = open_run(folder)
        if run.record.config.trains_all:
            return _own_model(run, adapter), None, str(folder.absolute())
        own = folder / "adapter"
        if adapter is None and not own.is_dir():
            raise StudioError(
                f"{folder} has no adapter yet.", hint="It is written when the run finishes or is stopped."
            )
        return run.record.config.model, str((adapter or own).absolute()), str(folder.absolute())
    return ModelConfig(path=str(folder)), str(adapter.absolute()) if adapter else None, ""


def _own_model(run: Run, adapter: Path | None) -> ModelConfig:
    """Of a run that trained all weights, as it was written. Raises: StudioError."""
    if adapter is not None:
        raise StudioError(
            f"{run.folder.name} trained all weights and has no adapter.",
            hint="Name a model or a run with adapters beside --adapter.",
        )
    if run.model is None:
        raise StudioError(
            f"{run.folder} has no model yet.", hint="It is written when the run finishes or is stopped."
        )
    trained = run.record.config.model
    return msgspec.structs.replace(trained, path=str(run.model.absolute()), quantization="none")


class Talk:
    """One base on the device, a reader that renders for it."""

    def __init__(self, engine: Engine, reader: Reader, model: ModelConfig, run: str = "") -> None:
        """run: whose chat template is used, also where the model's own is another one by now."""
        self._engine = engine
        self._reader = reader
        self._model = model
        self._run = run
        self._told_of_template = False
        engine.need_model(model.path)
        self._folder = str(places.sample_model_folder()) if model.path == SAMPLE else model.path

    def check_adapter(self, adapter: str) -> None:
        """Raises: StudioError where it doesn't fit the base."""
        self._reader.ask(reading.AdapterChecked, reading.CheckAdapter, folder=adapter, base=self._folder)

    def load(self, alone: bool) -> tuple[str, ...]:
        """Checks the model in the reader, then puts it on the device. Gives what a person should know.

        alone: no adapter will be asked for. Raises: StudioError.
        """
        self._reader.ask(reading.ModelChecked, reading.CheckModel, folder=self._folder)
        self._engine.command(
            commands.LoadModel,
            model=self._folder,
            quantization=self._model.quantization,
            double_quant=self._model.double_quant,
            compute_dtype=self._model.compute_dtype,
            alone=alone,
        )
        return self._engine.wait_for(events.ModelLoaded).notes

    def answer(
        self,
        messages: list[Message],
        adapter: str | None,
        sampling: commands.Sampling,
        on_text: bool = False,
    ) -> events.GenerationFinished:
        """Streams to stdout where `on_text`. Raises: StudioError."""
        encoded = self._reader.ask(
            reading.ChatEncoded,
            reading.EncodeChat,
            model=self._folder,
            messages=tuple(messages),
            run=self._run,
            trained=True,
        )
        if encoded.difference and not self._told_of_template:
            self._told_of_template = True
            used = "the trained one is used" if encoded.trained_known else "replies may suffer"
            print_error(f"note: the model's chat template is another one than in training; {used}.")
            print_error(encoded.difference)
        reply_id = self._engine.command(
            commands.Generate,
            prompt_ids=encoded.ids,
            adapter=adapter,
            stop_ids=encoded.stop_ids,
            sampling=sampling,
        )
        stop = commands.StopGenerating(id=reply_id)
        with self._engine.stopped_by_ctrl_c(lambda: self._engine.say(stop)):
            said = shown = ""
            for event in self._engine.events():
                if isinstance(event, events.TextGenerated) and on_text:
                    said += event.text
                    before, shown = shown, visible_text(said, longest=1_000_000)
                    sys.stdout.write(shown[len(before) :])
                    sys.stdout.flush()
                elif isinstance(event, events.GenerationFinished):
                    return event
                elif isinstance(event, events.CommandFailed):
                    raise StudioError(event.error.message, event.error.hint)
        raise AssertionError("events() ends by raising")


def _answer(
    talk: Talk, messages: list[Message], adapter: str | None, sampling: commands.Sampling, as_json: bool
) -> str:
    reply = talk.answer(messages, adapter, sampling, on_text=not as_json)
    if as_json:
        print_json(
            {"reply": reply.reply, "tokens": reply.tokens, "tokens_per_second": reply.tokens_per_second}
        )
    else:
        print_text(f"\n({counted(reply.tokens, 'token')}, {reply.tokens_per_second:.1f} tokens/s)")
    return reply.reply


def _converse(
    talk: Talk, messages: list[Message], adapter: str | None, sampling: commands.Sampling, as_json: bool
) -> int:
    while True:
        if not as_json and sys.stdin.isatty():
            sys.stdout.write("you> ")
            sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            return 0
        if line.strip() == GOOD:
            keep_good(messages)
        elif line.strip():
            messages.append(Message("user", line.strip()))
            reply = _answer(talk, messages, adapter, sampling, as_json)
            messages.append(Message("assistant", reply))


def keep_good(messages: list[Message]) -> None:
    """The last answer as a row for training, as the window's button does. What fails is told."""
    if not messages or messages[-1].role != "assistant":
        print_error("note: there is no answer yet")
        return
    turns = [
        AnswerTurn(item.role, item.content, 0.0 if item.role == "assistant" else None)
        for item in messages[:-1]
    ]
    answer = GoodAnswer((*turns, AnswerTurn("assistant", messages[-1].content)))
    try:
        kept = add_good_answer(places.good_answers_file(), answer)
    except StudioError as error:
        print_error(f"note: {error}")
        return
    print_error(f"kept: {counted(len(kept), 'good answer')} in {places.good_answers_file()}")


def _at_least_one(count: int) -> int:
    if count < 1:
        raise StudioError(f"--max-tokens is {count}; it must be at least 1.")
    return count
