"""`evaluate`: how a run's adapter does on a file."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from qlora_studio.cli.children import Engine, Reader
from qlora_studio.cli.counted import counted
from qlora_studio.cli.output import Told, print_json, print_text
from qlora_studio.cli.there import require_file
from qlora_studio.config.encodings import ENCODINGS, encoding_named
from qlora_studio.config.run_config import GENERAL
from qlora_studio.errors import StudioError
from qlora_studio.plain_text import visible_line
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.evaluation_report import evaluation_of, named_file
from qlora_studio.runs.evaluations import Evaluation, add_evaluation, in_points
from qlora_studio.runs.folder import open_run
from qlora_studio.runs.named_run import run_folder

ON_HELP = f"rows as in the run's own data; '{GENERAL}': 100 bundled questions that show what was forgotten"
SHOWN_CHANGES = 10  # questions
LONGEST_QUESTION = 80  # characters


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`qlora-studio evaluate`."""
    evaluate = subparsers.add_parser(
        "evaluate",
        help="loss, perplexity and right answers of a run on a file, beside those of the base model",
    )
    evaluate.add_argument("folder", type=Path, metavar="RUN")
    evaluate.add_argument("--on", required=True, metavar="FILE", help=ON_HELP)
    evaluate.add_argument(
        "--encoding",
        type=encoding_named,
        choices=ENCODINGS,
        default="auto",
        metavar="E",
        help="of that file, where it is neither UTF-8 nor stored as the run's own data",
    )
    evaluate.add_argument(
        "--without-base", action="store_true", help="measure what was trained alone, in half the time"
    )
    evaluate.add_argument("--json", action="store_true")
    evaluate.set_defaults(run=evaluate_command)


def evaluate_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    run = open_run(run_folder(arguments.folder))
    if arguments.on != GENERAL:
        require_file(arguments.on)
    with Told(quiet=arguments.json) as told, Engine(told) as engine:
        engine.need_model(run.record.config.model.path)
        with Reader(told) as reader:
            prepared = reader.ask(
                reading.EvaluationPrepared,
                reading.PrepareEvaluation,
                run=str(run.folder),
                path=named_file(arguments.on),
                encoding=arguments.encoding,
            )
        engine.command(
            commands.Evaluate,
            run=str(run.folder),
            prepared=prepared.prepared,
            with_base=not arguments.without_base,
        )
        report = _follow(engine, told)
    not_kept = _keep(run.folder, evaluation_of(report, arguments.on, prepared.notes))
    if arguments.json:
        print_json(
            {
                "loss": report.loss,
                "perplexity": report.perplexity,
                "base_loss": report.base_loss,
                "accuracy": report.accuracy,
                "rows": report.rows,
                "comparison": msgspec.to_builtins(report.comparison),
                "notes": list(prepared.notes),
                "kept": not not_kept,
            }
        )
        return 0
    print_text(f"{counted(report.rows, 'row')}, {counted(report.learned_tokens, 'token')}")
    for note in prepared.notes:
        print_text(f"note: {note}")
    base = "" if report.base_loss is None else f"; loss of the base model {report.base_loss:.3f}"
    print_text(f"loss {_number(report.loss)}, perplexity {_number(report.perplexity)}{base}")
    if report.accuracy is not None:
        print_text(f"right answers {report.accuracy:.1%} of {counted(report.accuracy_rows, 'row')}")
    if report.comparison is not None:
        for line in comparison_lines(report.comparison):
            print_text(line)
    if not_kept:
        print_text(f"warning: {not_kept}")
    return 0


def _keep(folder: Path, evaluation: Evaluation) -> str:
    """Why it isn't kept with the run: a read-only folder takes no result from who waited."""
    try:
        add_evaluation(folder, evaluation)
    except StudioError as error:
        return str(error)
    return ""


def comparison_lines(compared: events.BaseComparison) -> list[str]:
    """For a person: both shares, how sure the difference is, and the first questions that changed."""
    base, adapter = (right / compared.questions for right in (compared.base_right, compared.adapter_right))
    lines = [
        f"base model {base:.1%}, after training {adapter:.1%}: {in_points(adapter - base)} points",
        f"95% interval {in_points(compared.low)} to {in_points(compared.high)} points (paired bootstrap); "
        f"so uneven a split comes by chance in {_chance(compared.p_value)} of such tests (exact McNemar)",
        f"{counted(compared.gained, 'question')} right only after training, "
        f"{counted(compared.lost, 'question')} only before",
    ]
    lines += [
        f"  row {row.row + 1}: {row.base} became {row.adapter}, {row.right} is right. "
        f"{visible_line(row.question, LONGEST_QUESTION)}"
        for row in compared.changed[:SHOWN_CHANGES]
    ]
    if len(compared.changed) > SHOWN_CHANGES:
        lines.append(f"  and {len(compared.changed) - SHOWN_CHANGES:,} more; --json has them")
    return lines


def _follow(engine: Engine, told: Told) -> events.EvaluationReport:
    for event in engine.events():
        if isinstance(event, events.EvaluationProgress):
            told(event.words or "Evaluating", event.done, event.total)
        elif isinstance(event, events.EvaluationReport):
            return event
        elif isinstance(event, events.CommandFailed):
            raise StudioError(event.error.message, event.error.hint)
    raise AssertionError("events() ends by raising")


def _chance(p_value: float) -> str:
    return "under 0.1%" if p_value < 0.001 else f"{p_value:.1%}"


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.3f}"
