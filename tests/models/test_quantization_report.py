"""The report of a quantization: the paper's claims held against it, its outliers, its tables and pictures."""

from __future__ import annotations

import csv

import msgspec
import pytest

from qlora_studio.errors import StudioError
from qlora_studio.models.quantization_report import (
    Levels,
    Perplexity,
    checks,
    outliers,
    read_report,
    report_file,
    save_report,
    snr_db,
)
from tests.state.reports import quantization_report


def verdicts(**changes) -> dict[str, str]:
    return {item.claim: item.verdict for item in checks(quantization_report(**changes))}


def test_the_papers_claims_are_held_against_what_was_measured():
    assert verdicts() == {
        "Double quantization saves 0.373 bits a weight": "holds",
        "NF4 has a lower perplexity than FP4 at the same size": "holds",
        "FP4 has a lower perplexity than INT4 at the same size": "does not hold here",
        "Double quantization changes the perplexity by less than the noise": "holds",
    }


def test_a_gap_that_is_smaller_than_its_noise_decides_nothing():
    report = quantization_report()
    unsure = tuple(msgspec.structs.replace(item, more_error=0.2) for item in report.perplexities)
    found = verdicts(perplexities=unsure)
    assert found["NF4 has a lower perplexity than FP4 at the same size"] == "within the noise"


def test_a_change_by_double_quantization_beyond_the_noise_is_said():
    worse = Perplexity(quant_type="nf4", double_quant=True, loss=2.2, error=0.05, more=0.2, more_error=0.004)
    changed = (*quantization_report().perplexities[:2], worse)
    claim = "Double quantization changes the perplexity by less than the noise"
    assert verdicts(perplexities=changed)[claim] == "does not hold here"


def test_without_a_text_only_the_size_is_checked():
    assert list(verdicts(perplexities=())) == ["Double quantization saves 0.373 bits a weight"]


def test_layers_like_each_other_are_no_outliers_and_a_worse_one_is():
    report = quantization_report()
    assert outliers(report) == []
    worse = msgspec.structs.replace(
        report.layers[2], errors=tuple(2 * error for error in report.layers[2].errors)
    )
    layers = (*report.layers[:2], worse, report.layers[3])
    assert outliers(msgspec.structs.replace(report, layers=layers)) == [worse]


def test_signal_to_noise_is_in_decibels():
    assert snr_db(0.1) == pytest.approx(20)
    assert snr_db(0.0) is None


def test_values_that_are_used_evenly_say_four_bits():
    even = Levels(quant_type="nf4", values=(0.0,) * 16, counts=(5,) * 16)
    one = Levels(quant_type="nf4", values=(0.0,) * 16, counts=(5, *[0] * 15))
    assert (even.entropy_bits, one.entropy_bits) == (4, 0)


def test_tables_and_pictures_are_saved(tmp_path):
    report = quantization_report()
    files = save_report(report, tmp_path / "out")
    assert {path.name for path in files} == {
        "settings.csv", "layers.csv", "levels.csv", "error.svg", "levels.svg", "layers.svg",
    }  # fmt: skip
    with (tmp_path / "out" / "settings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["type"] for row in rows] == ["none", "nf4", "nf4", "fp4", "fp4", "int4", "int4"]
    assert rows[1]["bits_per_weight"] == "4.5000"
    assert rows[1]["perplexity"] == f"{report.perplexities[1].perplexity:.4f}"
    with (tmp_path / "out" / "layers.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(report.layers) * len(report.settings)
    assert all("</svg>" in path.read_text() for path in files if path.suffix == ".svg")


def test_a_folder_that_can_not_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudioError, match="can't be written"):
        save_report(quantization_report(), tmp_path / "file" / "out")


def test_a_report_is_kept_for_the_weights_it_was_made_of(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    before = report_file(tmp_path)
    assert report_file(tmp_path) == before
    weights.write_bytes(b"12")
    assert report_file(tmp_path) != before


def test_what_is_no_report_is_refused(tmp_path):
    (tmp_path / "report.json").write_bytes(b"{}")
    with pytest.raises(StudioError, match="no report"):
        read_report(tmp_path / "report.json")
