"""The promise for an encoder with a decoder: both stacks are counted, sources and targets apart."""

import math

import msgspec
import pytest

from qlora_studio.cli.main import build_parser, run_command
from qlora_studio.config.architecture import as_trained, row_limit
from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.errors import StudioError
from qlora_studio.memory.parts import adapter_parameters
from qlora_studio.memory.promise import promise
from qlora_studio.models.shapes import folder_plan
from qlora_studio.protocol.sweep_plan import new_sweep
from tests.reader.whole_t5 import whole_t5


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return folder_plan(whole_t5(tmp_path_factory.mktemp("models") / "t5"))


@pytest.fixture(scope="module")
def shape(plan):
    return plan.shape()


def config(**changes):
    return with_changes(RunConfig(), {key.replace("__", "."): value for key, value in changes.items()})


def promised(shape, **changes):
    return promise(shape, config(**changes), device="cpu", device_bytes=2**40)


def test_every_linear_layer_of_both_stacks_counts(plan, shape):
    linears = [(linear.out_features, linear.in_features) for _, linear in plan.linears()]

    trained = adapter_parameters(shape, config(lora__r=4).lora)

    assert trained == sum(4 * (out + inner) for out, inner in linears)
    whole = promised(shape, model__quantization="none", model__compute_dtype="float32")
    assert whole.parts["weights"] == 4 * shape.parameters
    assert shape.parameters == sum(math.prod(size) for _, size in plan.tensors())


@pytest.mark.parametrize(("compute_dtype", "bytes_kept"), [("bfloat16", 2), ("float16", 4), ("float32", 4)])
def test_the_last_layer_of_an_mlp_counts_as_it_is_kept_beside_4_bit(plan, shape, compute_dtype, bytes_kept):
    sizes = {name: linear.out_features * linear.in_features for name, linear in plan.linears()}
    kept = sum(size for name, size in sizes.items() if name.endswith(".wo"))
    in_4_bit = sum(sizes.values()) - kept
    number = 4 if compute_dtype == "float32" else 2
    rest = (shape.parameters - kept - in_4_bit) * number

    needed = promise(
        shape,
        config(model__compute_dtype=compute_dtype, model__double_quant=False),
        device="cuda",
        device_bytes=2**40,
    ).parts["weights"]

    assert needed == kept * bytes_kept + rest + in_4_bit // 2 + 4 * (in_4_bit // 64)


def test_a_comparison_that_trains_all_weights_is_refused_before_its_first_run(shape, tmp_path):
    with pytest.raises(StudioError, match="only adapters are trained here") as refused:
        new_sweep(config(), shape, over="finetuning", runs_dir=tmp_path)
    assert "training.finetuning" in refused.value.hint
    assert new_sweep(config(), shape, over="precision", runs_dir=tmp_path).points
    assert new_sweep(config(), shape, over="layers", runs_dir=tmp_path).points


def test_no_memory_is_promised_of_what_an_encoder_decoder_is_not_trained_by(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text(f'[model]\npath = "{whole_t5(tmp_path / "t5")}"\n[training]\nmethod = "dpo"\n')
    assert run_command(build_parser().parse_args(["estimate", str(file)])) == 2
    assert "can't be trained by dpo" in capsys.readouterr().err


def test_rows_are_never_packed(shape):
    assert not as_trained(config(), shape).data.packing
    assert as_trained(config(), shape).data.seq_len == 2048
    causal = msgspec.structs.replace(shape, decoder=None)
    assert as_trained(config(), causal).data.packing


def test_a_row_is_source_and_target_and_one_token_between(shape):
    data = config(data__seq_len=100, data__target_len=20).data
    assert row_limit(data, shape) == 121
    assert row_limit(data, msgspec.structs.replace(shape, decoder=None)) == 100


@pytest.mark.parametrize("key", ["data__seq_len", "data__target_len"])
def test_longer_sources_and_longer_targets_each_need_more(shape, key):
    needed = [
        promised(shape, data__seq_len=256, data__target_len=64).parts["activations"],
        promised(shape, **{"data__seq_len": 256, "data__target_len": 64, key: 512}).parts["activations"],
    ]
    assert needed[1] > needed[0]


def test_rows_without_a_token_are_promised_in_words_too(shape):
    assert promise(shape, config(), device="cpu", device_bytes=2**40, longest_row=0).fits


def test_all_layers_of_both_stacks_can_be_recomputed(shape):
    whole = promised(shape, training__recompute="none")
    again = promised(shape, training__recompute="all")
    assert (whole.recompute_layers, again.recompute_layers) == (0, 5)
    assert again.parts["activations"] < whole.parts["activations"]


def test_no_inputs_in_ram_are_offered_where_that_is_not_built(shape):
    asked = config(lora__r=512, training__recompute=0)
    needed = promise(shape, asked, device="cuda", device_bytes=2**40).total
    found = promise(shape, asked, device="cuda", device_bytes=int(0.4 * needed))
    assert found.suggestions  # of several changes together
    assert all("training.recompute" in way.changes for way in found.suggestions)
    assert not any("RAM" in way.words for way in found.suggestions)
