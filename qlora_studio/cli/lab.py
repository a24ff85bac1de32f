"""`lab`: what storing a model in few bits does to it, held against the claims of the QLoRA paper."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import msgspec

from qlora_studio.cli.children import Engine, Reader
from qlora_studio.cli.counted import counted
from qlora_studio.cli.output import Told, print_json, print_text
from qlora_studio.cli.there import require_file
from qlora_studio.config.encodings import ENCODINGS, encoding_named
from qlora_studio.config.run_config import SAMPLE
from qlora_studio.errors import StudioError
from qlora_studio.models.quantization_report import (
    BLOCK_SIZES,
    QUANT_TYPES,
    QuantizationReport,
    QuantSetting,
    checks,
    normal_words,
    outliers,
    perplexity_of,
    read_report,
    require_tokens,
    require_writable,
    save_report,
)
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.evaluation_report import named_file

SHOWN_OUTLIERS = 10  # layers


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`qlora-studio lab`."""
    lab = subparsers.add_parser(
        "lab", help="what NF4, FP4, INT4 and int8 do to a model's weights, and to its loss on a text"
    )
    lab.add_argument("model", metavar="MODEL", help=f"a model folder, or '{SAMPLE}'")
    lab.add_argument(
        "--on", metavar="FILE", help="text or chats for the perplexity; without it there is none"
    )
    lab.add_argument("--types", nargs="+", choices=QUANT_TYPES, default=list(QUANT_TYPES), metavar="TYPE")
    lab.add_argument(
        "--block-sizes", nargs="+", type=int, choices=BLOCK_SIZES, default=list(BLOCK_SIZES), metavar="N"
    )
    lab.add_argument(
        "--block-size",
        type=int,
        choices=BLOCK_SIZES,
        default=64,
        metavar="N",
        help="of perplexity and histogram; 64, as in training",
    )
    lab.add_argument(
        "--tokens",
        type=int,
        default=0,
        metavar="N",
        help="of the text, at most, from 512 (default: 20,000 on a card, 4,000 without)",
    )
    lab.add_argument(
        "--encoding", type=encoding_named, choices=ENCODINGS, default="auto", metavar="E", help="of the text"
    )
    lab.add_argument("--out", type=Path, metavar="FOLDER", help="tables (CSV) and pictures (SVG) go there")
    lab.add_argument("--json", action="store_true")
    lab.set_defaults(run=lab_command)


def lab_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    if arguments.out is not None and arguments.out.exists() and not arguments.out.is_dir():
        raise StudioError(f"{arguments.out} is a file.", hint="--out names a folder.")
    if arguments.tokens:
        require_tokens(arguments.tokens)
    if arguments.on is not None and arguments.on != SAMPLE:
        require_file(arguments.on)
    if arguments.out is not None:
        require_writable(arguments.out)  # before it is measured, not after
    model, text = named_file(arguments.model), named_file(arguments.on) if arguments.on else ""
    notes: tuple[str, ...] = ()
    with (
        tempfile.TemporaryDirectory() as folder,
        Told(quiet=arguments.json) as told,
        Engine(told) as engine,
    ):
        engine.need_model(model)
        prepared = ""
        if text:
            with Reader(told) as reader:
                answer = reader.ask(
                    reading.EvaluationPrepared,
                    reading.PrepareText,
                    model=model,
                    path=text,
                    encoding=arguments.encoding,
                )
            prepared, notes = answer.prepared, answer.notes
        out = Path(folder) / "report.json"
        engine.command(
            commands.MeasureQuantization,
            model=model,
            out=str(out),
            quant_types=tuple(dict.fromkeys(arguments.types)),
            block_sizes=tuple(arguments.block_sizes),
            block_size=arguments.block_size,
            prepared=prepared,
            text=text,
            tokens=arguments.tokens,
        )
        engine.wait_for(events.QuantizationMeasured)
        report = read_report(out)
    files = save_report(report, arguments.out) if arguments.out is not None else []
    if arguments.json:
        print_json(
            {
                **msgspec.to_builtins(report),
                "checks": [
                    {"claim": item.claim, "holds": item.holds, "found": item.found} for item in checks(report)
                ],
                "outliers": [layer.name for layer in outliers(report)],
                "files": [str(path) for path in files],
                "notes": list(notes),
            }
        )
        return 0
    for line in report_lines(report):
        print_text(line)
    for note in notes:
        print_text(f"note: {note}")
    if files:
        print_text(f"written to {arguments.out}: {', '.join(path.name for path in files)}")
    return 0


def report_lines(report: QuantizationReport) -> list[str]:
    """The tables for a person."""
    lines = [
        f"{report.model}: {counted(report.weights, 'weight')} in "
        f"{counted(len(report.layers), 'linear layer')}; "
        f"measured on {report.device} in {report.seconds:.0f} s",
        "",
        f"{'type':<10}{'block':>6}{'bits a weight':>15}{'error':>9}{'SNR':>10}"
        + (f"{'perplexity':>13}" if report.perplexities else ""),
    ]
    base = perplexity_of(report, "none", False)
    if base is not None:
        lines.append(f"{'16 bit':<10}{'':>6}{16:>15.2f}{'':>9}{'':>10}{base.perplexity:>13.3f}")
    lines += [_setting_line(report, setting) for setting in report.settings]
    for item in report.levels:
        if len(item.values) <= 16:
            lines.append(
                f"{item.quant_type}: {item.entropy_bits:.2f} of 4 bits are used (entropy of its levels, "
                f"blocks of {report.block_size})"
            )
    if report.tokens:
        lines.append(
            f"perplexity of {counted(report.tokens, 'token')} of {report.text}, "
            f"blocks of {report.block_size}, "
            f"computed in {report.compute_dtype}"
        )
    lines += [f"{item.verdict}: {item.claim}. {item.found}" for item in checks(report)]
    if report.non_normal_share is not None:
        lines.append(normal_words(report.non_normal_share))
    found = outliers(report)
    if found:
        place = next(at for at, item in enumerate(report.settings) if item.block_size == report.block_size)
        lines.append(f"{counted(len(found), 'layer')} that lose far more than the others:")
        lines += [
            f"  {layer.name}: error {layer.errors[place]:.2%}, its largest weight is "
            f"{layer.largest:.0f} standard deviations"
            for layer in found[:SHOWN_OUTLIERS]
        ]
    else:
        lines.append("no layer loses far more than the others")
    return lines


def _setting_line(report: QuantizationReport, setting: QuantSetting) -> str:
    measured = perplexity_of(report, setting.quant_type, setting.double_quant)
    here = measured is not None and setting.block_size == report.block_size
    snr = "" if setting.snr_db is None else f"{setting.snr_db:.1f} dB"
    return (
        f"{setting.name:<10}{setting.block_size:>6}{setting.bits_per_weight:>15.2f}"
        f"{setting.relative_error:>9.2%}{snr:>10}"
        + (f"{measured.perplexity:>13.3f}" if here and measured is not None else "")
    )
