"""`export`: a run's adapter, or the model with it merged in, compared with the adapter as trained."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from qlora_studio.cli.children import Engine, Reader
from qlora_studio.cli.counted import counted
from qlora_studio.cli.output import Told, print_json, print_text
from qlora_studio.config import places
from qlora_studio.config.prompts import check_prompts
from qlora_studio.config.run_config import SAMPLE
from qlora_studio.data.conversation import Message
from qlora_studio.errors import StudioError
from qlora_studio.models.elsewhere import Exported, ready_lines
from qlora_studio.models.gguf_support import F16, K_QUANTS, Q8_0, QUANTS
from qlora_studio.models.merged import NF4
from qlora_studio.models.shapes import model_shape
from qlora_studio.protocol import commands, events, reading
from qlora_studio.runs.folder import open_run
from qlora_studio.runs.named_run import run_folder

KINDS = ("adapter", "merged", "gguf")


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`qlora-studio export`."""
    export = subparsers.add_parser(
        "export", help="write the adapter, the merged model or a GGUF file, and verify it"
    )
    export.add_argument("folder", type=Path, metavar="RUN")
    export.add_argument("--to", required=True, choices=KINDS)
    export.add_argument(
        "--quant",
        choices=(*QUANTS, NF4),
        help=f"how a GGUF file stores its numbers: {Q8_0} (8 bit, the usual), {F16} (16 bit), or llama.cpp's "
        f"{', '.join(K_QUANTS)}, smaller and further from what was trained; {NF4}: a merged model in 4 bit, "
        "as bitsandbytes stores it, instead of 16",
    )
    export.add_argument("--out", type=Path, required=True, metavar="D", help="a new folder")
    export.add_argument("--json", action="store_true")
    export.set_defaults(run=export_command)


def export_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    kind = "merged" if arguments.quant == NF4 else "gguf"
    if arguments.quant and arguments.to != kind:
        raise StudioError(
            f"--quant {arguments.quant} is for --to {kind}.",
            hint=f"Add --to {kind}, or leave out --quant {arguments.quant}.",
        )
    run = open_run(run_folder(arguments.folder))
    out = arguments.out.absolute()
    if out.exists() or out.is_symlink():
        raise StudioError(f"{out} exists already.", hint="Choose a folder that doesn't; nothing was changed.")
    config = run.record.config
    if config.trains_all and arguments.to == "adapter":
        raise StudioError(
            f"{run.folder.name} trained all weights: it has no adapter.",
            hint="--to merged writes the model itself, --to gguf a GGUF file of it.",
        )
    with Told(quiet=arguments.json) as told, Engine(told) as engine:
        engine.need_model(config.model.path)
        prompts = check_prompts(sample.prompt for sample in config.samples)
        model = str(places.sample_model_folder()) if config.model.path == SAMPLE else config.model.path
        if config.trains_all and run.model:
            model = str(run.model)
        with Reader(told) as reader:
            encoded = [
                reader.ask(
                    reading.ChatEncoded,
                    reading.EncodeChat,
                    model=model,
                    messages=(Message("user", prompt),),
                )
                for prompt in prompts
            ]
            made = None
            if arguments.to == "gguf":
                made = reader.ask(reading.ModelfileMade, reading.MakeModelfile, model=model)
        export_id = engine.command(
            commands.Export,
            run=str(run.folder),
            to=arguments.to,
            quant=arguments.quant or "",
            modelfile=made.text if made else "",
            out=str(out),
            prompts=tuple(item.ids for item in encoded),
        )
        stop = commands.StopExport(id=export_id)
        with engine.stopped_by_ctrl_c(lambda: engine.say(stop)):
            finished = _follow(engine, told)
    if arguments.json:
        notes = {"modelfile": made.notes} if made else {}
        print_json({"files": finished.files, "verified": finished.verified, **notes})
        return 0
    for file in finished.files:
        print_text(file)
    for line in verification_lines(finished.verified):
        print_text(line)
    if made:
        print_text(made.notes)
    print_text("\nUse it elsewhere:")
    exported = Exported(
        folder=str(out),
        files=finished.files,
        base=model,
        rank=config.lora.r,
        name=run.folder.name,
        has_source=model_shape(model).decoder is not None,
    )
    for ready in ready_lines(exported):
        print_text(f"  {ready.program}: {ready.text}")
    return 0


def _follow(engine: Engine, told: Told) -> events.ExportFinished:
    for event in engine.events():
        if isinstance(event, events.ExportProgress):
            told(event.words, event.done, event.total)
        elif isinstance(event, events.ExportFinished):
            return event
        elif isinstance(event, events.CommandFailed):
            raise StudioError(event.error.message, event.error.hint)
    raise AssertionError("events() ends by raising")


def verification_lines(verified: events.Verification) -> Iterator[str]:
    """What the check of the written files found."""
    word = "Verified" if verified.passed else "Written, but it differs"
    yield (
        f"{word}: {verified.token_agreement:.1%} of tokens agree on {counted(verified.prompts, 'prompt')} "
        f"(read again with {verified.with_}), largest log-probability drift {verified.max_logprob_drift:.4f}"
    )
    if verified.same_replies is not None:
        yield _replies(verified.same_replies, verified.prompts, verified.first_difference)
    if ran := verified.run:
        yield (
            f"Run by {ran.with_}: {ran.token_agreement:.1%} of tokens agree, "
            f"largest log-probability drift {ran.max_logprob_drift:.4f}"
        )
        yield _replies(ran.same_replies, verified.prompts, ran.first_difference)
    yield from verified.problems
    if verified.merge_base:
        yield verified.merge_base


def _replies(same: int, of: int, first: events.FirstDifference | None) -> str:
    words = f"{same} of {counted(of, 'reply', 'replies')} {'is' if of == 1 else 'are'} the same."
    return f"{words} {first.words}" if first else words
