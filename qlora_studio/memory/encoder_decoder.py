"""What the layers of an encoder and a decoder keep for the backward pass: an estimate, rather too high.

Counted from the code of T5 layer by layer, as if dropout ran and no fused kernel kept the scores away.
"""

from __future__ import annotations

from dataclasses import dataclass

from qlora_studio.config.architecture import row_limit
from qlora_studio.config.model_shape import StackShape
from qlora_studio.memory.setting import Setting

ROUGH = (
    "Memory of an encoder-decoder is a rough estimate, rather too high. A run that was made here corrects it."
)
_MASK = 1  # byte a number, of what dropout leaves out


@dataclass(frozen=True)
class _Tokens:
    """Of all rows of a batch: sources and targets, and the longest of each."""

    sources: int
    targets: int
    source: int
    target: int


def bytes_of_layers(setting: Setting) -> list[int]:
    """What each layer keeps, the encoder's first."""
    encoder, decoder = setting.shape.stacks
    tokens = _tokens(setting)
    of_source, of_target = tokens.sources, tokens.targets
    read = _attention(setting, of_source, of_source, tokens.source) + _feed_forward(
        setting, encoder, of_source
    )
    written = (
        _attention(setting, of_target, of_target, tokens.target)
        + _attention(setting, of_target, of_source, tokens.source)
        + _feed_forward(setting, decoder, of_target)
    )
    return [
        *[read + _adapters(setting, encoder, of_source)] * encoder.layers,
        *[written + _adapters(setting, decoder, of_target)] * decoder.layers,
    ]


def input_bytes(setting: Setting) -> list[int]:
    """What each layer keeps that is computed again: its input. The encoder's states are there once."""
    encoder, decoder = setting.shape.stacks
    tokens, a_token = _tokens(setting), setting.shape.hidden_size * setting.dtype_bytes
    return [tokens.sources * a_token] * encoder.layers + [tokens.targets * a_token] * decoder.layers


def flowing_bytes(setting: Setting) -> int:
    """Beside what layers keep: the bias of the layer in turn, and the gradients of its scores.

    With all of 8 + 8 layers recomputed a processor was seen to take 2.1 GiB (hidden size 512, 6 heads, r 8,
    8 sources of 512 tokens, float32); without this 1.8 were promised, with it 2.0.
    """
    tokens = _tokens(setting)
    scores = tokens.sources * min(tokens.source, tokens.sources) * setting.shape.heads
    return 3 * scores * setting.dtype_bytes


def _tokens(setting: Setting) -> _Tokens:
    """As the limits have them: how a batch's tokens are spread over sources and targets isn't known."""
    data = setting.config.data
    target = min(data.target_len + 1, setting.tokens)
    targets = setting.tokens * target // row_limit(data, setting.shape)
    return _Tokens(setting.tokens - targets, targets, data.seq_len, target)


def _attention(setting: Setting, queries: int, keys: int, a_key_row: int) -> int:
    """Its norm and the four products, and a score for each pair of tokens, with the mask of dropout.

    a_key_row: tokens of a row that a query sees
    """
    shape, size = setting.shape, setting.dtype_bytes
    inner = shape.heads * shape.head_dim
    scores = queries * min(a_key_row, keys) * shape.heads * (3 * size + _MASK)
    products = (2 * queries + 2 * keys) * inner * size
    return scores + products + queries * shape.hidden_size * (size + 4 + _MASK)


def _feed_forward(setting: Setting, stack: StackShape, tokens: int) -> int:
    """Its norm, and what is made of each inner number: with a gate there are two more."""
    shape, size = setting.shape, setting.dtype_bytes
    made = 5 if any(name.endswith("wi_1") for name, _, _ in stack.linears) else 3
    inner = shape.intermediate_size * (made * size + _MASK)
    return tokens * (inner + shape.hidden_size * (size + 4 + _MASK))


def _adapters(setting: Setting, stack: StackShape, tokens: int) -> int:
    """The narrow product of each; and dropped or raised inputs, where there are such."""
    lora, size = setting.config.lora, setting.dtype_bytes
    inputs = sum(inner for _, _, inner in stack.linears)
    a_token = lora.r * len(stack.linears) * size
    if lora.dropout:
        a_token += inputs * (size + _MASK)
    # peft's own forward raises each input to the adapter's fp32: also that of a layer that isn't quantized.
    raised = [inner for name, _, inner in stack.linears if not setting.fused or name in stack.unquantized]
    return tokens * (a_token + 4 * sum(raised))
