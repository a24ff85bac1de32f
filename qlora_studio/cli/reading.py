"""`data`, `model`, `adapter` and `estimate`: what would be trained, on what, and at what cost."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from qlora_studio.cli import data_doctor
from qlora_studio.cli.children import Engine, Reader, RefusedError
from qlora_studio.cli.counted import counted
from qlora_studio.cli.output import Told, print_json, print_text
from qlora_studio.cli.room import Room, room_here
from qlora_studio.cli.there import require_model
from qlora_studio.config import places
from qlora_studio.config.data_check import check_data
from qlora_studio.config.data_parts import MixPart
from qlora_studio.config.encodings import ENCODINGS, encoding_named
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import SAMPLE, DataConfig, RunConfig
from qlora_studio.config.setting import fields_of, problem_with
from qlora_studio.data.conversation import Row
from qlora_studio.data.report import Finding, ImportReport
from qlora_studio.errors import StudioError
from qlora_studio.plain_text import visible_line
from qlora_studio.protocol import reading

Subparsers = argparse._SubParsersAction  # the type argparse gives back, without a public name


def add_commands(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """`qlora-studio data`, `model` and `adapter`."""
    data = subparsers.add_parser("data", help="import a file and say what was counted")
    data.add_argument(
        "files", nargs="+", metavar="FILE", help="the data, or 'sample'; several are mixed into one data set"
    )
    data.add_argument("--format", default="auto", metavar="F", help="where the guess is wrong")
    data.add_argument(
        "--encoding",
        type=encoding_named,
        choices=ENCODINGS,
        default="auto",
        metavar="E",
        help=f"how letters are stored, where the file isn't UTF-8: {', '.join(ENCODINGS[1:])}",
    )
    data.add_argument(
        "--alternatives",
        choices=("best", "all"),
        default="best",
        help="of several answers to one question (default: the best)",
    )
    data.add_argument(
        "--map", action="append", default=[], metavar="FIELD=COLUMN", help="name a column's role"
    )
    data.add_argument("--model", metavar="M", help="also count tokens: a model folder, or 'sample'")
    data.add_argument("--seq-len", type=int, default=2048, metavar="N")
    data.add_argument(
        "--target-len",
        type=int,
        default=256,
        metavar="N",
        help="of an encoder-decoder: tokens of a target; --seq-len is then that of the source",
    )
    data.add_argument("--show", type=int, default=0, metavar="N", help="show the first N rows")
    data_doctor.add_options(data)
    data.add_argument("--json", action="store_true")
    data.set_defaults(run=data_command)

    model = subparsers.add_parser("model", help="check a model folder")
    model.add_argument("folder", metavar="FOLDER", help="a model folder, or 'sample'")
    model.add_argument("--json", action="store_true")
    model.set_defaults(run=model_command)

    adapter = subparsers.add_parser("adapter", help="check an adapter against its base model")
    adapter.add_argument("folder", type=Path, metavar="FOLDER")
    adapter.add_argument("--base", required=True, metavar="MODEL")
    adapter.add_argument("--json", action="store_true")
    adapter.set_defaults(run=adapter_command)


@dataclass(frozen=True)
class _ShownRow:
    """tokens: where a model is named; refused: why it has none, in words"""

    row: Row
    tokens: reading.TokensShown | None = None
    refused: str = ""


def data_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    data = _data(arguments)
    if arguments.show < 0:
        raise StudioError(f"--show is {arguments.show}; it must be a number of rows.")
    if arguments.model:
        require_model(arguments.model)
    with Told(quiet=arguments.json) as told:
        model = _model_folder(arguments.model, told) if arguments.model else None
        with Reader(told) as reader:
            imported = reader.ask(reading.DataImported, reading.ImportData, data=data)
            tokens = _count(reader, imported.dataset, model, data) if model else None
            rows = _rows(reader, imported, model, data, arguments.show)
            findings = data_doctor.findings_of(reader, imported, data, model, arguments)
            copy = (
                data_doctor.save_copy(reader, imported, arguments.save_copy) if arguments.save_copy else None
            )
    if arguments.json:
        value = _data_object(imported.report, findings, tokens, rows, shown=arguments.show > 0)
        print_json(value | ({"copy": msgspec.to_builtins(copy)} if copy else {}))
        return 0
    _tell_report(imported.report)
    data_doctor.tell_findings(findings, imported.report)
    data_doctor.tell_fixes(imported.report)
    if copy:
        print_text(f"saved {counted(copy.rows, 'row')}: {copy.path}")
    if tokens:
        _tell_lengths(tokens, data)
    for shown in rows:
        _tell_row(shown)
    return 0


def _data(arguments: argparse.Namespace) -> DataConfig:
    paths = [path if path == SAMPLE else str(Path(path).absolute()) for path in arguments.files]
    how = {
        "format": arguments.format,
        "encoding": arguments.encoding,
        "alternatives": arguments.alternatives,
        "map": _mapping(arguments.map),
    }
    what: dict[str, Any] = {"path": paths[0], **how}
    if len(paths) > 1:
        what = {"path": "", "mix": tuple(MixPart(path=path, **how) for path in paths)}
    _check_length("data.seq_len", arguments.seq_len, "--seq-len")
    _check_length("data.target_len", arguments.target_len, "--target-len")
    data = DataConfig(
        seq_len=arguments.seq_len,
        target_len=arguments.target_len,
        recipe=data_doctor.recipe_of(arguments),
        **what,
    )
    check_data(data, "The command")
    return data


def _check_length(key: str, tokens: int, option: str) -> None:
    setting = next(item for item in fields_of(RunConfig) if item.key == key)
    if problem := problem_with(setting, tokens):
        raise StudioError(problem.replace(key, option))


def model_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    with Told(quiet=arguments.json) as told:
        folder = _model_folder(arguments.folder, told)
        with Reader(told) as reader:
            report = reader.ask(reading.ModelChecked, reading.CheckModel, folder=folder, numbers=True).report
    room = room_here()
    needs = _needs_gib(report.shape, room)
    if arguments.json:
        print_json(
            {
                "family": report.family,
                "parameters": report.parameters,
                "tensors": report.tensors,
                "template_sha256": report.template_sha256,
                "warnings": list(report.warnings),
                "needs_gib": needs,
            }
        )
        return 0
    print_text(
        f"{report.name}: {report.family}, {report.parameters:,} parameters, {report.tensors:,} tensors"
    )
    print_text(f"template: {report.template_sha256 or 'none'}")
    for preset, gib in needs.items():
        print_text(f"to train with the preset {preset!r}: {gib:.1f} GiB {room.words}")
    for warning in report.warnings:
        print_text(f"warning: {warning}")
    return 0


def adapter_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    with Told(quiet=arguments.json) as told:
        base = _model_folder(arguments.base, told)
        with Reader(told) as reader:
            checked = reader.ask(
                reading.AdapterChecked,
                reading.CheckAdapter,
                folder=str(arguments.folder.absolute()),
                base=base,
            )
    if arguments.json:
        print_json(
            {
                "r": checked.r,
                "target_modules": list(checked.target_modules),
                "warnings": list(checked.warnings),
            }
        )
        return 0
    print_text(f"rank {checked.r} on {counted(len(checked.target_modules), 'layer')}")
    for warning in checked.warnings:
        print_text(f"warning: {warning}")
    return 0


def _mapping(pairs: list[str]) -> dict[str, str]:
    mapping = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not equals or not name or not column:
            lacks = "has no =" if not equals else "names no field" if not name else "names no column"
            raise StudioError(
                f"--map {pair} {lacks}.",
                hint="Write the field, = and the column of your file, such as --map answer=reply.",
            )
        mapping[name] = column
    return mapping


def _model_folder(model: str, told: Told) -> str:
    """The folder itself; the bundled model is made where it isn't there yet."""
    if model != SAMPLE:
        return str(Path(model).absolute())
    if not (places.sample_model_folder() / "config.json").exists():
        with Engine(told) as engine:
            engine.make_sample_model()
    return str(places.sample_model_folder())


def _count(reader: Reader, dataset: str, model: str, data: DataConfig) -> reading.TokensCounted:
    return reader.ask(reading.TokensCounted, reading.CountTokens, dataset=dataset, model=model, data=data)


def _rows(
    reader: Reader, imported: reading.DataImported, model: str | None, data: DataConfig, count: int
) -> list[_ShownRow]:
    if count <= 0:
        return []
    shown = reader.ask(reading.RowsShown, reading.ShowRows, dataset=imported.dataset, start=0, count=count)
    if model is None:
        return [_ShownRow(row) for row in shown.rows]
    return [_with_tokens(reader, imported.dataset, model, data, row) for row in shown.rows]


def _with_tokens(reader: Reader, dataset: str, model: str, data: DataConfig, row: Row) -> _ShownRow:
    try:
        tokens = reader.ask(
            reading.TokensShown, reading.ShowTokens, dataset=dataset, model=model, data=data, row=row.row
        )
    except RefusedError as error:
        return _ShownRow(row, refused=f"{error.message} {error.hint}".strip())
    return _ShownRow(row, tokens)


def _data_object(
    report: ImportReport,
    findings: tuple[Finding, ...] | None,
    tokens: reading.TokensCounted | None,
    rows: list[_ShownRow],
    shown: bool,
) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(report)
    value["left_out_by_fixes"] = report.left_out_by_fixes
    value["doctor"] = findings is not None
    if findings is not None:
        value["findings"] = msgspec.to_builtins(findings)
    value["lengths"] = _lengths_object(tokens) if tokens else {}
    if shown:
        value["rows"] = [_row_object(shown) for shown in rows]
    return value


def _lengths_object(tokens: reading.TokensCounted) -> dict[str, Any]:
    lengths: dict[str, Any] = msgspec.to_builtins(tokens.lengths)
    del lengths["file"]
    return lengths | {
        "too_long": tokens.too_long,
        **(
            {"longest_source": tokens.longest_source, "longest_target": tokens.longest_target}
            if tokens.has_source
            else {}
        ),
        "bins": list(tokens.bins),
        "bin_width": tokens.bin_width,
    }


def _row_object(shown: _ShownRow) -> dict[str, Any]:
    row, tokens = shown.row, shown.tokens
    value: dict[str, Any] = msgspec.to_builtins(row)
    if row.rejected:
        value["chosen"] = value.pop("messages")
    if tokens is not None:
        value["tokens"] = [
            {"text": token.text, "id": token.id, "fate": token.fate} for token in tokens.tokens
        ]
    elif shown.refused:
        value |= {"tokens": [], "refused": shown.refused}
    return value


def _tell_report(report: ImportReport) -> None:
    print_text(
        f"{counted(report.rows_in, 'row')} in the file = {report.imported:,} imported + "
        f"{report.skipped:,} skipped + {report.merged:,} merged"
    )
    print_text(f"format {report.format}, {report.encoding}; {counted(report.conversations, 'conversation')}")
    if report.guess and report.guess not in {finding.words for finding in report.findings}:
        print_text(report.guess)  # one that is unsure is told with what is odd
    for problem in report.problems:
        print_text(f"skipped {problem.count:,}: {problem.reason} (first: line {problem.line:,})")


def _tell_lengths(tokens: reading.TokensCounted, data: DataConfig) -> None:
    lengths = tokens.lengths
    print_text(
        f"{counted(lengths.tokens, 'token')}, {lengths.learned_tokens:,} learned; "
        f"median {lengths.median:,}, longest {lengths.longest:,}"
    )
    longer = counted(tokens.too_long, "row is", "rows are")
    target = f" of source or {data.target_len:,} of target" if tokens.has_source else ""
    print_text(f"{longer} longer than {data.seq_len:,} tokens{target}")
    if tokens.has_source:
        print_text(f"longest source {tokens.longest_source:,}, longest target {tokens.longest_target:,}")
    if lengths.nothing_to_learn:
        why = f": {lengths.refused}" if lengths.refused else ""
        print_text(f"{counted(lengths.nothing_to_learn, 'row has', 'rows have')} no token to learn{why}")


_STYLES = {
    "learned": "\033[42;30m",
    "avoided": "\033[43;30m",
    "context": "\033[100;37m",
    "cut": "\033[9;41;37m",
}


def _tell_row(shown: _ShownRow) -> None:
    row, tokens = shown.row, shown.tokens
    print_text(f"\nrow {row.row:,} (line {row.line:,})")
    if tokens is None:
        for message in row.messages:
            print_text(f"{message.role}: {message.content}")
        for message in row.rejected[row.shared_turns :]:
            print_text(f"rejected {message.role}: {message.content}")
        if row.label is not None:
            print_text(f"rated {'good' if row.label else 'bad'}")
        if row.text is not None:
            print_text(row.text)
        if shown.refused:
            print_text(f"no tokens: {shown.refused}")
        return
    coloured = sys.stdout.isatty()
    pieces = []
    for token in tokens.tokens:
        text = visible_line(token.text)
        pieces.append(f"{_STYLES[token.fate]}{text}\033[0m" if coloured else _marked(text, token.fate))
    print("".join(pieces), flush=True)


def _marked(text: str, fate: str) -> str:
    """Learned in [brackets], of a worse answer in {braces}, cut in ~waves~: without colour too."""
    return {"learned": f"[{text}]", "avoided": f"{{{text}}}", "cut": f"~{text}~"}.get(fate, text)


def _needs_gib(shape: ModelShape, room: Room) -> dict[str, float]:
    """Preset -> GiB at the peak, as `estimate` promises them."""
    from qlora_studio.config.presets import presets
    from qlora_studio.memory.correction import correction
    from qlora_studio.memory.devices import device_name
    from qlora_studio.memory.promise import promise

    totals, name = {}, device_name(room.device)
    for preset in presets():
        totals[preset.name] = promise(
            shape,
            preset.config,
            device=room.device,
            free_bytes=room.free_bytes,
            corrected=correction(name, shape, preset.config.model.quantization),
        ).total
    return {name: round(total / 2**30, 2) for name, total in totals.items()}
