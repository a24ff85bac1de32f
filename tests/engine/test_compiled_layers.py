"""Compiled layers learn what uncompiled ones do; tried with the front of the compiler alone."""

from __future__ import annotations

import errno
import itertools
import weakref
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import bitsandbytes as bnb
import peft
import pytest
import torch
from functorch.compile import nop
from qlora_kernels import joined, replace_forwards
from qlora_kernels.lora_layers import FrozenLinear4bit, FusedLoraLinear4bit, base_of, keep_in_one
from qlora_kernels.side_by_side import apart
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch.fx import GraphModule
from transformers import PreTrainedModel

from qlora_studio.engine import attention, merged_products
from qlora_studio.engine.attention import Segments
from qlora_studio.engine.compiled_layers import (
    InFp8,
    compile_layers,
    keep_dequantized,
    let_layers_be,
    multiply_in_fp8,
)
from qlora_studio.engine.hosted_inputs import HostedInputs, _Kept
from tests.engine.tiny import tiny_llama

LENGTHS = ((20, 30, 14), (20, 20, 10, 14))


@pytest.fixture(scope="module", params=[False, True], ids=["", "biased"])
def model(request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    llama = tiny_llama(attention_bias=request.param)  # as Qwen2.5 has
    for name, linear in list(llama.named_modules()):
        if isinstance(linear, nn.Linear) and name != "lm_head":
            llama.set_submodule(name, _in_four_bits(linear))
    llama.is_loaded_in_4bit = True
    adapted = peft.get_peft_model(llama, peft.LoraConfig(r=4, target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    replace_forwards(adapted, keep_dequantized=False)
    yield llama.train()
    torch._dynamo.reset()


def _in_four_bits(linear: nn.Linear) -> nn.Module:
    quantized = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=False, quant_type="nf4")
    quantized.bias = linear.bias
    weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=quantized)
    quantized.weight = weight.to("cpu")
    return quantized


def gradients(model: PreTrainedModel, lengths: tuple[int, ...], *, compiled: bool) -> list[Tensor]:
    model.zero_grad()
    torch.manual_seed(len(lengths))
    segments = Segments.of(lengths, torch.device("cpu"))
    ids = torch.randint(0, 96, (1, sum(lengths)))
    output = model.model(
        inputs_embeds=model.get_input_embeddings()(ids).detach().requires_grad_(),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        attention_mask=segments.as_starts(longest=32) if compiled else segments.as_mask(),
        use_cache=False,
    )
    hidden = output.last_hidden_state
    # Not the sum of its squares, which the last norm makes a constant.
    (hidden * torch.randn_like(hidden)).sum().backward()
    return [weight.grad for weight in model.parameters() if weight.grad is not None]


def test_what_an_earlier_run_computed_makes_nothing_of_the_next_one_unknown(model: PreTrainedModel) -> None:
    """The number of rows is left open, but no length, and no scaling of an adapter."""
    unknown: list[list[object]] = []

    def note(graph: GraphModule, inputs: list[object]) -> GraphModule:
        sizes = [size for given in inputs for size in (given.shape if isinstance(given, Tensor) else [given])]
        unknown.append([size for size in sizes if not isinstance(size, int)])
        return graph

    scaled = [module for module in model.modules() if isinstance(module, FusedLoraLinear4bit)]
    for lengths, scaling in zip(((20, 30, 14), (10, 20, 14)), (0.5, 0.25), strict=True):
        for module in scaled:
            module.scaling["default"] = scaling
        compile_layers(model.model.layers, 0, backend=note)
        gradients(model, lengths, compiled=True)

    first, second = unknown
    assert len(scaled) == 14
    assert len(first) == len(second)


@pytest.mark.parametrize("recomputed", [1, 2])
def test_inputs_of_recomputed_layers_go_through_the_host_and_gradients_keep_their_bits(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, recomputed: int
) -> None:
    compile_layers(model.model.layers, recomputed, backend="aot_eager")
    wanted = [gradients(model, lengths, compiled=True) for lengths in LENGTHS]

    fetched: list[int] = []
    fetch = HostedInputs._fetch
    monkeypatch.setattr(
        HostedInputs, "_fetch", lambda self, kept: (fetched.append(kept.number), fetch(self, kept))[1]
    )
    compile_layers(model.model.layers, recomputed, HostedInputs(), backend="aot_eager")
    found = [gradients(model, lengths, compiled=True) for lengths in LENGTHS]

    for ours, reference in zip(itertools.chain(*found), itertools.chain(*wanted), strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=0)
    assert fetched == list(reversed(range(recomputed))) * len(LENGTHS)


def test_what_goes_through_the_host_is_kept_nowhere_else(model: PreTrainedModel) -> None:
    compile_layers(model.model.layers, 2, HostedInputs(), backend="aot_eager")
    kept: list[weakref.ref[Tensor]] = []
    hook = model.model.layers[1].register_forward_pre_hook(
        lambda _, given: kept.append(weakref.ref(given[0]))
    )
    try:
        total = model.model(
            inputs_embeds=torch.randn(1, 20, 64, requires_grad=True),
            position_ids=torch.arange(20)[None],
            attention_mask=Segments.of((20,), torch.device("cpu")).as_starts(longest=32),
            use_cache=False,
        ).last_hidden_state.sum()
    finally:
        hook.remove()
    assert total.requires_grad  # the graph is there, with all it holds
    assert [tensor() for tensor in kept] == [None]


def test_what_a_broken_off_pass_left_behind_is_copied_before_its_memory_is_taken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A card's streams are stood in for."""
    waited: list[object] = []
    current = SimpleNamespace(wait_stream=waited.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
    hosted, beside = HostedInputs(), SimpleNamespace()
    hosted._stream = beside  # type: ignore[assignment]
    given = torch.zeros(1, 2, 4)
    with hosted.of_layer(0, given):
        pass
    assert not waited  # nothing was left

    for left in (1, 0):
        hosted._coming[_Kept(left, given)] = given
        with hosted.of_layer(left, given):
            pass
    assert waited == [beside]  # at the first layer, once
    assert not hosted._coming


@pytest.mark.parametrize("recomputed", [0, 1], ids=["kept", "one of two recomputed"])
def test_gradients_are_those_of_the_layers_as_they_are_written(
    model: PreTrainedModel, recomputed: int
) -> None:
    layers = model.model.layers
    let_layers_be(layers)
    wanted = [gradients(model, lengths, compiled=False) for lengths in LENGTHS]

    compile_layers(layers, recomputed, backend="aot_eager")
    found = [gradients(model, lengths, compiled=True) for lengths in LENGTHS]

    for ours, reference in zip(itertools.chain(*found), itertools.chain(*wanted), strict=True):
        assert (ours - reference).norm() <= 1e-5 * reference.norm()


def test_one_graph_serves_all_layers_and_any_number_of_rows(model: PreTrainedModel) -> None:
    torch._dynamo.reset()
    counters.clear()
    compile_layers(model.model.layers, 0, backend="aot_eager")

    for lengths in LENGTHS:
        gradients(model, lengths, compiled=True)

    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize(
    ("in_fp8", "operations"),
    [
        # query, key and value; output; gate and up, whose outputs are long; down
        (False, {torch.ops.qlora.adapted_4bit.default: 4, apart: 1}),
        (True, {torch.ops.qlora.adapted_fp8.default: 4, apart: 0}),
    ],
    ids=["16 bit", "fp8"],
)
@pytest.mark.parametrize("recomputed", [0, 2], ids=["kept", "recomputed"])
def test_products_with_the_same_input_are_one_operation(
    model: PreTrainedModel, recomputed: int, in_fp8: bool, operations: dict[object, int]
) -> None:
    multiply_in_fp8(model.model.layers, in_fp8)
    products = products_in_a_graph_of(model, recomputed)
    multiply_in_fp8(model.model.layers, wanted=False)
    assert {operation: products[operation] for operation in operations} == operations


def test_where_rows_with_an_adapter_beside_would_begin_askew_each_output_is_its_own(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_products, "has_room_beside", lambda *_: False)
    products = products_in_a_graph_of(model, recomputed=0)
    assert products[torch.ops.qlora.adapted_4bit.default] == 4
    assert not products[apart]


def products_in_a_graph_of(model: PreTrainedModel, recomputed: int) -> Counter[object]:
    torch._dynamo.reset()
    products: Counter[object] = Counter()

    def backend(graph: GraphModule, _: object) -> GraphModule:
        for module in graph.modules():
            if isinstance(module, GraphModule):
                products.update(node.target for node in module.graph.nodes)
        return graph

    compile_layers(model.model.layers, recomputed, backend=backend)
    gradients(model, LENGTHS[0], compiled=True)
    return products


def test_in_fp8_gradients_are_those_in_16_bit_but_for_rounding(model: PreTrainedModel) -> None:
    torch._dynamo.reset()
    layers = model.model.layers
    let_layers_be(layers)
    wanted = gradients(model, LENGTHS[0], compiled=False)
    assert not multiply_in_fp8(layers, wanted=True).refused
    compile_layers(layers, 1, backend="aot_eager")
    found = gradients(model, LENGTHS[0], compiled=True)

    apart = [
        float((ours - reference).norm() / reference.norm())
        for ours, reference in zip(found, wanted, strict=True)
    ]
    assert max(apart) < 0.2
    assert min(apart) > 1e-3  # they were made in fp8

    multiply_in_fp8(layers, wanted=False)
    compile_layers(layers, 1, backend="aot_eager")
    for ours, reference in zip(gradients(model, LENGTHS[0], compiled=True), wanted, strict=True):
        assert (ours - reference).norm() <= 1e-5 * reference.norm()


def test_weights_that_stay_dequantized_give_the_same_but_for_the_order_of_sums(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    layers = model.model.layers
    frozen = [module for module in layers.modules() if isinstance(module, FrozenLinear4bit)]

    def learn() -> list[Tensor]:
        compile_layers(layers, 1, backend="aot_eager")
        return gradients(model, LENGTHS[0], compiled=True)

    reference = learn()
    for layer in layers:
        keep_in_one([module for module in layer.modules() if isinstance(module, FusedLoraLinear4bit)])
    with monkeypatch.context() as patch:
        patch.setattr(joined, "dequantize_into", None)  # nothing is dequantized any more
        kept = learn()
    assert all(len(module._weight(torch.float32)[1]) == 1 for module in frozen)
    for module in frozen:
        module.keep(False)
        assert module._weight_in_use is None  # its memory is free again
    again = learn()

    assert all(map(torch.equal, again, reference))
    for ours, wanted in zip(kept, reference, strict=True):
        assert (ours - wanted).norm() <= 1e-5 * wanted.norm()


def test_kept_weights_with_the_same_input_lie_as_one(model: PreTrainedModel) -> None:
    layer = model.model.layers[0]
    products = [module for module in layer.modules() if isinstance(module, FusedLoraLinear4bit)]
    keep_in_one(products)
    query, key, value, _, gate, up, down = (module.base_layer for module in products)
    try:
        for together, room in (
            ([query, key, value], {}),
            ([gate, up], {"beside": 8}),
            ([down], {"below": 4}),
        ):
            weights = [base._weight_to_learn(torch.float32)[1] for base in together]
            heights = [base.out_features for base in together]
            columns = together[0].in_features
            found = joined.joined(weights, heights, columns, 64, "nf4", torch.float32, **room)
            assert found is not None
            plain = torch.cat([base._weight(torch.float32)[0].dequantize(torch.float32) for base in together])
            assert torch.equal(found[0][: plain.shape[0], : plain.shape[1]], plain)
    finally:
        for module in products:
            module.base_layer.keep(False)


def rooms(layers: list[nn.Module]) -> list[tuple[int, int]]:
    """Rows below and columns beside each weight that stays dequantized, for an adapter."""
    keep_in_one(layers)
    found = []
    for base in map(base_of, layers):
        _, (weight,) = base._weight_to_learn(torch.float32)
        found.append((weight.shape[0] - base.out_features, weight.shape[1] - base.in_features))
        assert base.numbers_of_room == weight.numel() - base.out_features * base.in_features
        base.keep(False)
        assert base.numbers_of_room == 0
    return found


def test_room_lies_beside_kept_weights_that_an_adapter_is_multiplied_with(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    products = [m for m in model.model.layers[0].modules() if isinstance(m, FusedLoraLinear4bit)]
    gate, up, down = products[-3:]
    assert rooms([gate, up, down]) == [(0, 8), (0, 8), (4, 0)]
    assert rooms([gate, base_of(up), base_of(down)]) == [(0, 4), (0, 0), (0, 0)]
    monkeypatch.setitem(gate.lora_dropout._modules, "default", nn.Dropout(0.1))
    assert rooms([gate, up, down]) == [(0, 0), (0, 4), (4, 0)]


def test_on_a_processor_free_memory_decides_whether_weights_stay_dequantized(model: PreTrainedModel) -> None:
    frozen = next(module for module in model.modules() if isinstance(module, FrozenLinear4bit))
    keep_dequantized(model.model.layers, wanted=True)
    assert not frozen.keep_dequantized


def test_a_layer_without_an_adapter_is_multiplied_in_fp8_too() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = _in_four_bits(nn.Linear(64, 128, bias=False))
    FrozenLinear4bit.take_over(layer, keep_dequantized=False)
    x = torch.randn(8, 64, requires_grad=True)
    plain = layer(x).detach()
    assert layer.multiply_in_fp8() is None

    def apart(product: Tensor) -> float:
        return float((product.detach() - plain).norm() / plain.norm())

    assert apart(layer(x)) == 0  # as it is written
    assert 1e-3 < apart(torch.compile(layer, backend="aot_eager", fullgraph=True)(x)) < 0.06


@pytest.mark.parametrize(("count", "in_16_bit"), [(4, set()), (8, {0, 7}), (30, {0, 1, 28, 29})])
def test_the_first_and_last_layers_stay_in_16_bit(count: int, in_16_bit: set[int]) -> None:
    layers = nn.ModuleList(nn.Sequential(_in_four_bits(nn.Linear(64, 64, bias=False))) for _ in range(count))
    for layer in layers:
        FrozenLinear4bit.take_over(layer[0], keep_dequantized=False)
    assert multiply_in_fp8(layers, wanted=True) == InFp8(count - len(in_16_bit), {})
    assert {number for number, layer in enumerate(layers) if layer[0].fp8_scales is None} == in_16_bit


def test_layers_that_can_not_multiply_in_fp8_are_named_beside_those_that_do() -> None:
    layers = nn.ModuleList(
        nn.Sequential(*(_in_four_bits(nn.Linear(64, out, bias=False)) for out in (64, 24))) for _ in range(3)
    )
    for module in (module for layer in layers for module in layer):
        FrozenLinear4bit.take_over(module, keep_dequantized=False)
    found = multiply_in_fp8(layers, wanted=True)
    assert (found.count, list(found.refused)) == (3, ["0.1", "1.1", "2.1"])
    assert found.refused["1.1"] == "fp8 needs rows and columns in whole blocks, it has 24 x 64"


def test_without_gradients_a_layer_stays_as_it_is_written(model: PreTrainedModel) -> None:
    counters.clear()
    compile_layers(model.model.layers, 0, backend="aot_eager")

    with torch.no_grad():
        model(input_ids=torch.ones(1, 5, dtype=torch.long))

    assert not counters["stats"]


def test_a_layer_that_no_compiler_takes_runs_as_it_is_written(
    model: PreTrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no C compiler")

    torch._dynamo.reset()
    let_layers_be(model.model.layers)
    wanted = gradients(model, LENGTHS[0], compiled=False)
    compile_layers(model.model.layers, 0, backend=refuse)

    found = gradients(model, LENGTHS[0], compiled=True)

    assert all(
        (ours - reference).norm() <= 1e-5 * reference.norm()
        for ours, reference in zip(found, wanted, strict=True)
    )
    assert "runs uncompiled" in caplog.text


@pytest.mark.parametrize(
    "full", [OSError(28, "No space left on device"), RuntimeError("In a process beside: [Errno 28]")]
)
def test_a_disk_too_full_for_a_compiled_layer_is_no_reason_to_go_on_slowly(  # R9
    model: PreTrainedModel, full: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise full

    compile_layers(model.model.layers, 0, backend=refuse)

    with pytest.raises(OSError, match="No space left") as raised:
        gradients(model, LENGTHS[0], compiled=True)
    assert raised.value.errno == errno.ENOSPC


def test_a_backward_pass_that_no_compiler_takes_is_known_before_it_is_needed(
    model: PreTrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no C compiler")

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=nop, bw_compiler=refuse)
    compile_layers(model.model.layers, 0, backend=backend)

    gradients(model, LENGTHS[0], compiled=True)

    assert "runs uncompiled" in caplog.text


def test_scores_are_dropped_by_no_compiled_layer() -> None:
    query = torch.randn(1, 2, 6, 16)
    mask = Segments.of((4, 2), torch.device("cpu")).as_starts(longest=4)

    with pytest.raises(AssertionError, match="drop no scores"):
        attention.attention(nn.Module(), query, query, query, mask, dropout=0.5)
