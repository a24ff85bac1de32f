"""The bytes that the memory promise counts for a compiled layer, against what the compiler has it keep."""

from __future__ import annotations

from functools import partial
from typing import Any

import bitsandbytes as bnb
import peft
import pytest
import torch
from functorch.compile import nop
from qlora_kernels import replace_forwards
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.fx import GraphModule
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig

from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import LoraConfig, RunConfig
from qlora_studio.engine import attention
from qlora_studio.engine.attention import Segments
from qlora_studio.engine.compiled_layers import compile_layers
from qlora_studio.memory.parts import bytes_a_layer
from qlora_studio.memory.setting import Setting

TOKENS, HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, RANK = 97, 256, 768, 4, 2, 64, 8
FAMILIES = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_layer_keeps_what_is_promised(family: str, dropout: float) -> None:
    model = in_four_bits(family, dropout)
    kept: list[int] = []
    torch._dynamo.reset()
    compile_layers(model.model.layers, 0, backend=partial(counted, kept))

    segments = Segments.of((40, TOKENS - 40), torch.device("cpu"))
    model.model(
        inputs_embeds=torch.randn(1, TOKENS, HIDDEN, dtype=torch.bfloat16, requires_grad=True),
        position_ids=torch.cat([torch.arange(40), torch.arange(TOKENS - 40)])[None],
        attention_mask=segments.as_starts(longest=64),
        use_cache=False,
    )

    torch._dynamo.reset()
    (found,) = kept
    assert bytes_a_layer(promised_for(model, family, dropout)) == pytest.approx(found, rel=0.01)


def counted(kept: list[int], graph: GraphModule, inputs: Any) -> Any:
    """The front of the compiler with its own way to choose what is kept; that is written down in bytes."""
    from torch._inductor.decomposition import select_decomp_table

    def forward(forward_graph: GraphModule, _: object) -> GraphModule:
        kept.append(bytes_kept(forward_graph))
        return forward_graph

    compiler = aot_autograd(
        fw_compiler=forward,
        bw_compiler=nop,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )
    return compiler(graph, inputs)


def bytes_kept(graph: GraphModule) -> int:
    """Of memory that hangs on the number of tokens, without what all layers share (cosine and sine)."""
    (output,) = graph.graph.find_nodes(op="output")
    _, *saved = output.args[0]
    storages = {}
    for node in saved:
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor) or TOKENS not in value.shape:
            continue
        if node.op != "placeholder" or value.shape[-1] == HIDDEN:
            storage = value.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())


def in_four_bits(family: str, dropout: float) -> PreTrainedModel:
    """One layer, random, its adapter on all linear ones."""
    attention.register()
    config = AutoConfig.for_model(
        family,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        vocab_size=96,
        pad_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.bfloat16, attn_implementation=attention.IMPLEMENTATION
    )
    for name, linear in list(model.named_modules()):
        if isinstance(linear, nn.Linear) and name != "lm_head":
            model.set_submodule(name, _quantized(linear))
    model.is_loaded_in_4bit = True
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=RANK, target_modules="all-linear", lora_dropout=dropout)
    )
    replace_forwards(adapted, keep_dequantized=False)
    trained: PreTrainedModel = model.train()
    return trained


def _quantized(linear: nn.Linear) -> nn.Module:
    dtype = torch.bfloat16
    made = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=False, quant_type="nf4", compute_dtype=dtype
    )
    weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=made)
    made.weight = weight.to("cpu")
    return made


def promised_for(model: PreTrainedModel, family: str, dropout: float) -> Setting:
    linears = tuple(
        (name, module.out_features, module.in_features)
        for name, module in model.model.layers[0].named_modules()
        if name.endswith(FAMILIES[family])
    )
    shape = ModelShape(
        family=family,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        layers=1,
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        vocab_size=96,
        max_position_embeddings=128,
        tied=False,
        linears=linears,
        other_parameters_a_layer=2 * HIDDEN,
        parameters=2 * 96 * HIDDEN + HIDDEN + sum(out * inner for _, out, inner in linears),
    )
    config = RunConfig(lora=LoraConfig(r=RANK, dropout=dropout))
    return Setting(shape, config, device="cuda", compiled=True, tokens=TOKENS, room=None)
