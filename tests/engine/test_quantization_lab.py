"""What few bits do to a model: each layer's error, the text's loss, and the report that is kept of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from qlora_kernels import quantize_4bit
from safetensors.torch import load_file, save_file

from qlora_studio.data.prepared import open_prepared
from qlora_studio.engine.quantization_lab import half_interval, measure_quantization
from qlora_studio.errors import StudioError
from qlora_studio.models.quantization_report import QuantizationReport, outliers, read_report
from qlora_studio.protocol.commands import MeasureQuantization
from qlora_studio.protocol.events import LoadingProgress, QuantizationMeasured
from qlora_studio.runs.folder import open_run
from tests.engine.tiny import CPU, make_model, make_rows, make_run

LAYER = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("lab") / "model")


def measured(tmp_path: Path, model: Path, **fields) -> QuantizationReport:
    command = MeasureQuantization(
        id=5, model=str(model), out=str(tmp_path / "labs" / "report.json"), **fields
    )
    *progress, last = measure_quantization(command, CPU, lambda: False)
    assert all(isinstance(event, LoadingProgress) for event in progress)
    assert last == QuantizationMeasured(id=5, report=command.out)
    return read_report(Path(command.out))


def error_of(report: QuantizationReport, layer: str, kind: str, block_size: int, double: bool) -> float:
    place = next(
        at
        for at, item in enumerate(report.settings)
        if (item.quant_type, item.block_size, item.double_quant) == (kind, block_size, double)
    )
    return next(item for item in report.layers if item.name == layer).errors[place]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_layers_error_is_that_of_the_weights_as_training_stores_them(tmp_path, model, kind, double):
    weight = load_file(model / "model.safetensors")[f"{LAYER}.weight"]
    stored = quantize_4bit(weight, kind, 64, double).dequantize(torch.float32)
    expected = float((stored - weight).norm() / weight.norm())
    found = error_of(measured(tmp_path, model, quant_types=(kind,)), LAYER, kind, 64, double)
    assert found == pytest.approx(expected, rel=1e-4)


def test_every_linear_layer_is_measured_and_nothing_else(tmp_path, model):
    report = measured(tmp_path, model)
    weights = load_file(model / "model.safetensors")
    linear = {name.removesuffix(".weight") for name in weights if "_proj" in name}
    assert {layer.name for layer in report.layers} == linear
    assert report.weights == sum(weights[f"{name}.weight"].numel() for name in linear)


def test_smaller_blocks_and_more_bits_lose_less(tmp_path, model):
    report = measured(tmp_path, model, block_sizes=(32, 64, 1024))
    errors = {
        (item.quant_type, item.block_size): item.relative_error
        for item in report.settings
        if not item.double_quant
    }
    assert errors["nf4", 32] < errors["nf4", 64] < errors["nf4", 1024]
    assert errors["int8", 64] < errors["nf4", 64] < errors["fp4", 64]


def test_a_stored_weight_of_gpt2_is_measured_as_it_is_trained_turned_round(tmp_path):
    folder = make_model(tmp_path / "gpt2", "gpt2")
    name = "transformer.h.0.mlp.c_fc"
    weight = load_file(folder / "model.safetensors")[f"{name}.weight"].T.contiguous()
    stored = quantize_4bit(weight, "nf4", 64, True).dequantize(torch.float32)
    expected = float((stored - weight).norm() / weight.norm())
    assert error_of(measured(tmp_path, folder), name, "nf4", 64, True) == pytest.approx(expected, rel=1e-4)


def test_levels_and_bins_count_every_weight_once(tmp_path, model):
    report = measured(tmp_path, model)
    assert [levels.quant_type for levels in report.levels] == ["nf4", "fp4", "int4", "int8"]
    for levels in report.levels:
        assert sum(levels.counts) == report.weights
        assert len(levels.values) == len(levels.counts)
    assert sum(report.bins) == report.weights
    assert report.levels[0].entropy_bits > report.levels[1].entropy_bits  # NF4 uses its values more evenly


def test_neurons_whose_weights_are_not_normal_are_counted(tmp_path):
    file = make_model(tmp_path / "model", intermediate_size=256) / "model.safetensors"
    tensors = load_file(file)
    tensors[f"{LAYER}.weight"] = torch.rand(64, 256, generator=torch.Generator().manual_seed(2)) - 0.5
    save_file(tensors, file, metadata={"format": "pt"})
    report = measured(tmp_path, file.parent)
    by_name = {layer.name: layer for layer in report.layers}
    assert (by_name[LAYER].neurons, by_name[LAYER].non_normal) == (64, 64)
    other = by_name[LAYER.replace("layers.1", "layers.0")]
    assert other.non_normal < 0.2 * other.neurons  # made normal; one row in 20 is refused all the same
    assert 0 < report.non_normal_share < 1


def test_a_layer_with_single_large_weights_is_named(tmp_path):
    file = make_model(tmp_path / "model", num_hidden_layers=4) / "model.safetensors"
    tensors = load_file(file)
    tensors[f"{LAYER}.weight"][:, ::64] *= 60
    save_file(tensors, file, metadata={"format": "pt"})
    found = outliers(measured(tmp_path, file.parent))
    assert [layer.name for layer in found] == [LAYER]
    assert found[0].largest > 5


# On a text ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def read(model, tmp_path_factory):
    """A report with perplexities, and the folder of the rows."""
    home = tmp_path_factory.mktemp("read")
    rows = make_rows(120, seed=4, learn_all=True)
    run = make_run(home, model, rows[:1], rows, model__quantization="none")
    prepared = open_run(run).record.prepared.folder
    return measured(home, model, prepared=prepared, text="some.txt"), Path(prepared)


def test_the_loss_of_the_model_as_it_is_is_that_of_transformers(read, model):
    from transformers import AutoModelForCausalLM

    report, prepared = read
    causal_lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    nats, tokens = 0.0, 0
    for row in open_prepared(prepared).validation:
        ids = torch.from_numpy(row.ids.astype(np.int64))[None]
        with torch.no_grad():
            nats += float(causal_lm(ids, labels=ids).loss) * (len(row.ids) - 1)
        tokens += len(row.ids) - 1
    assert report.tokens == tokens
    assert report.perplexities[0].loss == pytest.approx(nats / tokens, rel=0.01)  # bfloat16 on some machines


def test_each_way_of_storing_has_its_loss_and_how_sure_it_is(read):
    report, _ = read
    assert [item.name for item in report.perplexities] == [
        "16 bit", "NF4", "NF4 + DQ", "FP4", "INT4", "int8",
    ]  # fmt: skip
    by_name = {item.name: item for item in report.perplexities}
    assert by_name["16 bit"].more == 0
    assert abs(by_name["int8"].more) < abs(by_name["INT4"].more)
    for item in report.perplexities:
        assert item.error > 0
        assert item.more == pytest.approx(item.loss - by_name["16 bit"].loss, abs=1e-5)


def test_a_text_that_is_too_short_says_how_much_is_needed(tmp_path, model):
    run = make_run(tmp_path, model, make_rows(1), make_rows(3))
    with pytest.raises(StudioError, match=r"too short for a perplexity: \d+ tokens, at least 512") as refused:
        measured(tmp_path, model, prepared=open_run(run).record.prepared.folder)
    assert "longer text" in refused.value.hint


@pytest.mark.parametrize("tokens", [1, 127, 511])
def test_too_few_tokens_are_refused_before_anything_is_measured(tmp_path, model, tokens):
    command = MeasureQuantization(id=1, model=str(model), out=str(tmp_path / "out"), tokens=tokens)
    with pytest.raises(StudioError, match=f"at least 512 tokens, not {tokens}"):
        next(measure_quantization(command, CPU, lambda: False))


def test_the_interval_of_a_constant_loss_is_nothing_and_widens_with_the_spread():
    assert half_interval(np.full(1024, 2.0, np.float32)) == 0
    random = np.random.default_rng(0)
    narrow, wide = (half_interval(random.normal(2, spread, 6400).astype(np.float32)) for spread in (0.1, 1.0))
    assert wide == pytest.approx(10 * narrow, rel=0.5)
    assert wide == pytest.approx(1.96 / math.sqrt(6400), rel=0.4)


def test_what_nobody_waits_for_ends_without_a_report(tmp_path, model):
    command = MeasureQuantization(id=1, model=str(model), out=str(tmp_path / "report.json"))
    with pytest.raises(StudioError, match="stopped"):
        list(measure_quantization(command, CPU, lambda: True))
    assert not (tmp_path / "report.json").exists()


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path):
    file = make_model(tmp_path / "model") / "model.safetensors"
    tensors = load_file(file)
    tensors[f"{LAYER}.weight"][1, 1] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(StudioError, match=rf"{LAYER}.weight holds numbers that are not finite"):
        measured(tmp_path, file.parent)


def test_random_weights_are_refused(tmp_path):
    with pytest.raises(StudioError, match="random weights"):
        measured(tmp_path, Path("shape:llama-7b"))
