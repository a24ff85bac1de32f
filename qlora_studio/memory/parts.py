"""The bytes of a run by part, computed from the model's sizes and the run's settings."""

from __future__ import annotations

import math

import msgspec

from qlora_studio.config.adapter_layers import is_adapted, ranks
from qlora_studio.config.model_shape import ModelShape
from qlora_studio.config.run_config import LoraConfig, RunConfig
from qlora_studio.memory import encoder_decoder
from qlora_studio.memory.compiling import not_graphed_reason, not_in_ram_reason
from qlora_studio.memory.joined_weights import numbers_at_once, room_of_kept
from qlora_studio.memory.logits import USUAL, logits_at_once
from qlora_studio.memory.setting import Setting

# What a person reads of each part, in the order of the promise's bar
PART_NAMES = {
    "weights": "Base weights",
    "adapter": "Trained + gradients",
    "optimizer": "Optimizer",
    "activations": "Activations",
    "logits": "Logits",
    "other": "Workspace + driver",
}
INPUTS, EMBEDDING = "inputs of recomputed layers", "embedding"  # what may lie in RAM beside a card, in words

_BLOCK = 64  # weights that share a scale
_NESTED_BLOCK = 256  # scales that share a scale, with double quantization
_FP32 = 4  # bytes
# CPU: the product, fp32 logits, their log-softmax, the gradient. A card's kernel works in one place: what it
# makes beyond the usual is counted in the compute dtype; the usual, with which all else was fitted, in fp32.
_BYTES_A_LOGIT = {"cuda": 4, "cpu": 12}
# Counted in the code that inductor writes for the backward pass of a layer (Llama, Qwen2.5 and Phi-3 made
# narrow; torch 2.13): at its most, what lies beside all that the layer keeps. Times hidden and inner size.
_FLOWING = (1, 3)  # the gradients of the output; of what the last product was made of, of gate and up
_LAST_INPUT = 1  # times the inner size, where the last product's adapter learns; with dropout it is kept
_INPUTS_AGAIN = 2  # hidden states of a recomputed layer: what its two norms made
_OF_LOSS = 6  # hidden states of the last norm and the loss, while there are logits
# Where layers aren't compiled, or adapters run as peft has them: fitted to the 62 settings of
# tests/benchmarks/memory_grid.py on an H100, torch 2.11.0+cu130, 2026-11-26. None has more than 8B weights.
_FLOWING_PLAIN = (6, 4)
_IN_TURN_PLAIN = {"eager": 0.6, "peft": 1.9}  # of a layer whose activations are computed again
_CUDA_CONTEXT = 614 * 1024**2  # bytes; driver and kernels of one process; measured there
# What torch reserves beside that: fitted to those of the 62 that are compiled, with what a layer kept that
# day; docs/MEMORY.md has how it does elsewhere.
_RESERVED = 128 * 1024**2  # bytes; two workspaces of cuBLAS, of 32 MiB each, are among them
_BESIDE_FLAT = 0.22  # of what is trained, where its gradients are gathered in one tensor
_MARGIN = 0.015  # rather promised too much than too little
# Where passes are played as CUDA graphs: fitted to 29 settings drawn by lot, see docs/MEMORY.md.
_RESERVED_BY_GRAPHS = 160 * 1024**2  # bytes; four workspaces of cuBLAS: a recording has its own
_MARGIN_OF_GRAPHS = 0.01
# Hidden states: the embedded tokens twice, what is learned of the last ones, two gradients
_OUTSIDE_GRAPHS = 5
_ON_CARD = 3  # inputs of layers, where the others lie in RAM: one in use, one coming, one leaving

# Measured on SmolLM2 (2 cores, float32 and bfloat16, 256 to 2,048 tokens): the process with its libraries,
# and what the C allocator holds beyond the activations, as each thread of a step has an arena of its own.
_CPU_PROCESS = 700_000_000  # bytes
_CPU_SLACK = 0.85  # share of the activations


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes at the peak of a training step, or of another phase, in the order of the promise's bar.

    weights:     the base as it is stored, and dequantized copies where they are kept
    adapter:     its weights and gradients, fp32; of full finetuning the gradients, and the weights in fp32
                 where they are computed with in 16 bit
    activations: what the backward pass needs of each layer, and the gradients that flow through one
    other:       what is dequantized at once, the device's context or the process itself
    """

    weights: int
    adapter: int
    optimizer: int
    activations: int
    logits: int
    other: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.adapter + self.optimizer + self.activations + self.logits + self.other


def parts(setting: Setting, recomputed_layers: int) -> Parts:
    """With this many layers keeping only their input."""
    trained = trained_parameters(setting.shape, setting.config)
    # How both come and go was measured with adapters alone: of all weights each counts whole.
    gradients = 0 if setting.config.trains_all else _FP32 * trained
    activations = _activations(setting, recomputed_layers, gradients)
    return Parts(
        weights=base_bytes(setting),
        adapter=trained_bytes(setting),
        optimizer=optimizer_bytes(setting.config, trained, setting.device),
        activations=int(setting.factor * activations),
        logits=int(setting.factor * logit_bytes(setting, recomputed_layers)),
        other=other_bytes(setting, activations),
    )


def _gradients_stay(setting: Setting) -> bool:
    """Whether they are there as a forward pass begins: those of the micro-batch before, or the memory that
    CUDA graphs add to. Where layers are fitted, it was as if they came and went: that holds for a 33B run of
    16 micro-batches too (docs/PAPER.md).
    """
    several = setting.config.training.gradient_accumulation > 1
    return _is_graphed(setting) or (several and _is_counted(setting))


def _is_graphed(setting: Setting) -> bool:
    """Whether passes are played as CUDA graphs, see `engine.cuda_graphs`."""
    return setting.compiled and may_be_graphed(setting.shape, setting.config)


def may_be_graphed(shape: ModelShape, config: RunConfig) -> bool:
    """Whether layers of this run are played so, where they are compiled."""
    return not_graphed_reason(shape, config, trained_parameters(shape, config)) is None


def pinned_bytes(setting: Setting, recomputed_layers: int) -> dict[str, int]:
    """In the machine's memory, beside all that the card holds, by what lies there. At least: where the
    processor is a step ahead, a layer's old input may still be on its way.
    """
    found = {}
    if setting.inputs_in_ram and recomputed_layers:
        layer_input = setting.tokens * setting.shape.hidden_size * setting.dtype_bytes
        found[INPUTS] = recomputed_layers * _pinned(layer_input)
    if embedding := _embedding_in_ram(setting):
        found[EMBEDDING] = _pinned(embedding)
    return found


def _pinned(size: int) -> int:
    """torch takes a power of two for each (CachingHostAllocator)."""
    return 1 << max(size - 1, 0).bit_length()


def _embedding_in_ram(setting: Setting) -> int:
    """Bytes of it, where it lies there beside a card."""
    asked = setting.device == "cuda" and setting.config.training.embedding_in_ram
    if not asked or not_in_ram_reason(setting.shape, setting.config) is not None:
        return 0
    return setting.shape.vocab_size * setting.shape.hidden_size * setting.weight_bytes


def trained_bytes(setting: Setting) -> int:
    """Gradients of what is trained, and its weights where they lie beside the base's, fp32."""
    in_place = setting.config.trains_all and setting.computes_in_fp32
    return (1 if in_place else 2) * _FP32 * trained_parameters(setting.shape, setting.config)


def trained_parameters(shape: ModelShape, config: RunConfig) -> int:
    """Of the adapter, or all of the model's."""
    return shape.parameters if config.trains_all else adapter_parameters(shape, config.lora)


def adapter_parameters(shape: ModelShape, lora: LoraConfig) -> int:
    """A and B of every layer that is adapted, and DoRA's lengths."""
    trained = 0
    for stack in shape.stacks:
        adapted = [(name, out, inner) for name, out, inner in stack.linears if is_adapted(name, lora)]
        names = [name for name, _, _ in adapted]
        trained += sum(
            times * (r_of[name] * (out + inner) + (out if lora.use_dora else 0))
            for times, r_of in ranks(lora, names, stack.layers)
            for name, out, inner in adapted
        )
    return trained


def optimizer_bytes(config: RunConfig, trained: int, device: str) -> int:
    """Two moments for each trained number: fp32, or 8 bit with a scale for every 256."""
    if config.training.optimizer == "paged_adamw_8bit" and device == "cuda":
        return 2 * trained + 2 * _FP32 * math.ceil(trained / 256)
    return 2 * _FP32 * trained


def _is_adapted(name: str, config: RunConfig) -> bool:
    return not config.trains_all and is_adapted(name, config.lora)


def base_bytes(setting: Setting) -> int:
    """Of the base as it is stored, and of dequantized copies where they are kept."""
    shape = setting.shape
    quantized = unquantized = stored = 0
    for stack in shape.stacks:
        sizes = [out * inner for _, out, inner in stack.quantized]
        quantized += stack.layers * sum(sizes)
        stored += stack.layers * sum(_stored_bytes(size, setting) for size in sizes)
        unquantized += stack.layers * (sum(out * inner for _, out, inner in stack.linears) - sum(sizes))
    stored += unquantized * setting.unquantized_bytes
    rest = (shape.parameters - quantized - unquantized) * setting.weight_bytes
    return stored + rest - _embedding_in_ram(setting) + _kept_dequantized(setting, quantized)


def _stored_bytes(size: int, setting: Setting) -> int:
    """Of a linear weight of `size` numbers."""
    model = setting.config.model
    if model.quantization == "none":
        return size * setting.weight_bytes
    if model.quantization == "int8":
        return size + _FP32 * math.isqrt(size)  # a scale for each row
    scales = math.ceil(size / _BLOCK)
    if not model.double_quant:
        return size // 2 + _FP32 * scales
    return size // 2 + scales + _FP32 * math.ceil(scales / _NESTED_BLOCK)


def _kept_dequantized(setting: Setting, linear: int) -> int:
    """On a CPU each weight stays dequantized, where that takes at most half of what is free; on a card where
    it is to.
    """
    copies = linear * setting.dtype_bytes
    if setting.device == "cuda":
        if not setting.keeps_dequantized:
            return 0
        return copies + room_of_kept(setting) * setting.dtype_bytes
    if not setting.is_4bit:
        return 0
    return copies if setting.room is None or copies <= setting.room // 2 else 0


def logit_bytes(setting: Setting, recomputed_layers: int) -> int:
    """Of those that exist at one time while the loss is made."""
    most = logits_at_once(setting.device, setting.config, recomputed_layers)
    made = min(setting.tokens * setting.shape.vocab_size, most)
    usual = min(made, USUAL[setting.device])
    return _BYTES_A_LOGIT[setting.device] * usual + setting.dtype_bytes * (made - usual)


def _activations(setting: Setting, recomputed_layers: int, gradients: int) -> int:
    """Kept layers whole, recomputed ones by their input, and what is needed of one while its turn is.

    gradients: bytes of the adapter's, which are counted with it. Where they come as the activations go, the
        larger of both counts at the peak.
    """
    shape, tokens = setting.shape, setting.tokens
    whole = bytes_a_layer(setting)
    if shape.decoder is not None:
        inputs = encoder_decoder.input_bytes(setting)
        kept = sum(inputs[:recomputed_layers])
        kept += sum(encoder_decoder.bytes_of_layers(setting)[recomputed_layers:])
        all_inputs = sum(inputs)
    else:
        layer_input = tokens * shape.hidden_size * setting.dtype_bytes
        on_card = min(recomputed_layers, _ON_CARD) if setting.inputs_in_ram else recomputed_layers
        kept = (shape.layers - recomputed_layers) * whole + on_card * layer_input
        all_inputs = (shape.layers - recomputed_layers + on_card) * layer_input
    if setting.device == "cuda":
        logits = logit_bytes(setting, recomputed_layers)
        return _activations_on_card(
            setting, kept, all_inputs if recomputed_layers else None, gradients, logits
        )
    in_turn = whole if recomputed_layers else 0
    flowing = tokens * 3 * (shape.hidden_size + shape.intermediate_size) * setting.dtype_bytes
    if shape.decoder is not None:
        flowing += encoder_decoder.flowing_bytes(setting)
    return kept + in_turn + max(0, flowing - logit_bytes(setting, recomputed_layers))


def _activations_on_card(setting: Setting, kept: int, inputs: int | None, gradients: int, logits: int) -> int:
    """The most of the moments that may be the peak.

    kept:   bytes of all layers as the backward pass begins
    inputs: of all layers, as the first recomputed one goes backward: those that were kept are gone; None: no
        layer is recomputed
    """
    flowing = _flowing_on_card(setting)
    moments = [kept + flowing]
    if inputs is not None:
        moments.append(inputs + _recomputed_in_turn(setting) + flowing)
    go = 0 if _gradients_stay(setting) else gradients
    beside = max(0, max(moments) - go)
    if setting.inputs_in_ram:  # nothing goes as gradients come: the last layer's turn is the peak
        beside = max(moments)
    a_token = setting.shape.hidden_size * setting.dtype_bytes
    if _is_graphed(setting):  # what graphs held is theirs while the loss is made
        return beside + _OUTSIDE_GRAPHS * setting.tokens * a_token
    if not _is_counted(setting):
        return beside
    with_logits = max(0, kept + _OF_LOSS * setting.tokens * a_token - go)
    gathered = gradients if _lies_flat(setting) else 0
    return max(beside - logits, with_logits, gathered - logits)


def _is_counted(setting: Setting) -> bool:
    """Whether it is known what the layers' graphs hold; else it was fitted to what they took."""
    return setting.compiled and setting.fused


def _flowing_on_card(setting: Setting) -> int:
    """Of the layer that goes backward: gradients that flow through it, and what is made again for them."""
    shape = setting.shape
    of_hidden, of_inner = _FLOWING_PLAIN
    if _is_counted(setting):
        of_hidden, of_inner = _FLOWING
        of_inner += _LAST_INPUT if _learns_from_inner(setting) and not setting.config.lora.dropout else 0
    numbers = of_hidden * shape.hidden_size + of_inner * shape.intermediate_size
    return setting.tokens * numbers * setting.dtype_bytes


def _recomputed_in_turn(setting: Setting) -> int:
    """Of a layer whose activations are made again, beside its input and what flows."""
    whole = bytes_a_layer(setting)
    if not _is_counted(setting):
        raised = not setting.fused and setting.config.model.quantization != "int8"
        return int(_IN_TURN_PLAIN["peft" if raised else "eager"] * whole)
    return whole + (_INPUTS_AGAIN - 1) * setting.tokens * setting.shape.hidden_size * setting.dtype_bytes


def _learns_from_inner(setting: Setting) -> bool:
    inner = setting.shape.intermediate_size
    return any(into == inner and _is_adapted(name, setting.config) for name, _, into in setting.shape.linears)


def _lies_flat(setting: Setting) -> bool:
    """Whether gradients are gathered in one tensor before the update, see `engine.optimizer`."""
    config = setting.config
    return setting.device == "cuda" and config.training.optimizer.endswith("32bit") and not config.trains_all


def bytes_a_layer(setting: Setting) -> int:
    """What one layer keeps for the backward pass.

    Eager: counted with saved_tensors_hooks on SmolLM2, fp32 and bf16. Compiled: what is cheap is computed
    again, as norms, rotation and silu.
    """
    shape, size = setting.shape, setting.dtype_bytes
    if shape.decoder is not None:
        return max(encoder_decoder.bytes_of_layers(setting))
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    low_rank = 0 if setting.config.trains_all else _widest(shape, setting.config.lora)
    if setting.compiled:
        numbers = 2 * hidden + 2 * query + 2 * key + 2 * inner + low_rank
        if _has_joined_query(shape):  # kept for the value in it, beside what is made of query and key
            numbers += query + key
        return setting.tokens * (numbers * size + _extra_bytes_a_token(setting))
    norms = min(4, max(2, round(shape.other_parameters_a_layer / max(hidden, 1))))  # a shape may lie
    attention_out = (
        2 * query if setting.device == "cpu" else query
    )  # a CPU takes packed rows apart and joins them
    numbers = norms * hidden + query + attention_out + 2 * key + 4 * inner + low_rank
    raised = norms * hidden * _FP32  # the norms' inputs in fp32
    return setting.tokens * (numbers * size + raised + _extra_bytes_a_token(setting))


def _widest(shape: ModelShape, lora: LoraConfig) -> int:
    """The ranks of one layer together, where they are most."""
    names = [name for name, _, _ in shape.linears if is_adapted(name, lora)]
    return max((sum(r_of.values()) for _, r_of in ranks(lora, names, shape.layers)), default=0)


def _has_joined_query(shape: ModelShape) -> bool:
    return any(name.endswith(("qkv_proj", "query_key_value")) for name, _, _ in shape.linears)


def _extra_bytes_a_token(setting: Setting) -> int:
    """What special settings and architectures keep beside the usual."""
    shape, config, size = setting.shape, setting.config, setting.dtype_bytes
    inputs = sum(inner for name, _, inner in shape.linears if _is_adapted(name, config))
    extra = 0
    if config.lora.dropout:
        extra += inputs * (size + 1)  # what is left of the input, and the mask
    if not setting.fused:
        extra += inputs * _FP32  # peft's own forward raises each input to the adapter's fp32
    if shape.family == "gemma2":  # softcap: no fused attention keeps the scores away
        extra += shape.heads * config.data.seq_len * (2 * size + _FP32)
    return extra


def other_bytes(setting: Setting, activations: int) -> int:
    """What is dequantized at once, what is reserved beyond what is used, and the context or the process."""
    if setting.device == "cuda":
        trained = trained_bytes(setting)
        beside = _BESIDE_FLAT * trained if _lies_flat(setting) else 0.0
        reserved, margin = (_RESERVED, _MARGIN)
        if _is_graphed(setting) and _is_counted(setting):
            beside, reserved, margin = 0.0, _RESERVED_BY_GRAPHS, _MARGIN_OF_GRAPHS
        estimated = reserved + int(numbers_at_once(setting) * setting.dtype_bytes + beside)
        estimated += int(margin * (base_bytes(setting) + trained + activations))
    else:
        estimated = int(_CPU_SLACK * activations)
    return never_estimated(setting.device) + int(setting.factor * estimated)


def never_estimated(device: str) -> int:
    """Of `other`: the device's context, or the process with its libraries."""
    return _CUDA_CONTEXT if device == "cuda" else _CPU_PROCESS
