"""`lab`: a model measured in the terminal, by real children, and what is said of it."""

from __future__ import annotations

import json

import msgspec
import pytest

from qlora_studio.cli import lab as cli_lab
from qlora_studio.cli.lab import report_lines
from qlora_studio.cli.main import parse, run_command
from tests.reader.whole_model import whole_model
from tests.state.reports import quantization_report


def lab(*words: str) -> int:
    return run_command(parse(["lab", *words]))


@pytest.mark.slow
def test_a_model_is_measured_and_its_tables_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # children work in another folder
    whole_model(tmp_path / "tiny")
    text = tmp_path / "some.txt"
    text.write_text("\n\n".join(f"hello {number}, answer me" for number in range(200)), "utf-8")
    words = ("--on", "some.txt", "--block-sizes", "32", "64", "--types", "nf4", "fp4", "int4", "int8")
    assert lab("tiny", *words, "--out", "out", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {(item["quant_type"], item["block_size"]) for item in found["settings"]} == {
        (kind, size) for kind in ("nf4", "fp4", "int4", "int8") for size in (32, 64)
    }
    assert len(found["perplexities"]) == 6
    assert found["tokens"] > 512
    assert {item["claim"] for item in found["checks"]} > {
        "NF4 has a lower perplexity than FP4 at the same size"
    }
    assert (tmp_path / "out" / "error.svg").is_file()


@pytest.mark.parametrize("tokens", ["-1", "1", "511"])
def test_too_few_tokens_are_refused_before_a_child_starts(tmp_path, monkeypatch, capsys, tokens):
    monkeypatch.setattr("qlora_studio.cli.lab.Engine", lambda told: pytest.fail("an engine was started"))
    assert lab(str(tmp_path), "--tokens", tokens) != 0
    assert f"at least 512 tokens, not {tokens}" in capsys.readouterr().err


def test_a_person_reads_bits_errors_perplexities_and_claims():
    said = "\n".join(report_lines(quantization_report()))
    assert "NF4 + DQ      64           4.13    8.00%   21.9 dB" in said
    assert "nf4: 4.00 of 4 bits are used" in said
    assert "holds: Double quantization saves 0.373 bits a weight. 0.373 bits: 4.500 to 4.127" in said
    assert "no layer loses far more than the others" in said
    assert "neurons" not in said  # none was tested


def test_neurons_that_are_not_normal_are_said():
    report = quantization_report()
    tested = tuple(msgspec.structs.replace(layer, neurons=50, non_normal=5) for layer in report.layers)
    said = "\n".join(report_lines(msgspec.structs.replace(report, layers=tested)))
    assert "The weights of 10.0% of the neurons aren't normally distributed" in said


def test_layers_that_lose_more_are_named():
    report = quantization_report()
    worse = msgspec.structs.replace(report.layers[0], errors=(0.5,) * len(report.settings), largest=81.0)
    said = report_lines(msgspec.structs.replace(report, layers=(worse, *report.layers[1:])))
    assert said[-1] == (
        "  model.layers.0.mlp.down_proj: error 50.00%, its largest weight is 81 standard deviations"
    )


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert lab("sample", "--out", str(tmp_path / "out")) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_folder_that_can_not_be_written_is_refused_before_anything_is_measured(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(cli_lab, "Engine", lambda told: pytest.fail("measured first"))
    (tmp_path / "file").write_text("")
    assert lab("sample", "--out", str(tmp_path / "file" / "out")) == 2
    assert f"{tmp_path / 'file' / 'out'} can't be written" in capsys.readouterr().err


def test_a_text_that_is_not_there_is_refused_before_anything_begins(tmp_path, capsys):
    assert lab("sample", "--on", str(tmp_path / "gone.txt")) == 2
    assert "gone.txt" in capsys.readouterr().err
