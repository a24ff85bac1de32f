"""Attention in which each row that was packed into a batch sees its own earlier tokens, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from qlora_kernels import cached_attention, packed_attention
from torch import Tensor, nn
from transformers import PreTrainedModel

from qlora_studio.engine.fixed_cache import Looking
from qlora_studio.engine.pinned_memory import sent
from qlora_studio.errors import StudioError

IMPLEMENTATION = "qlora_studio"  # our name among transformers' attention implementations
# Tokens up to which a row is attended in float32 when a processor trains. In bfloat16 the backward pass of
# torch 2.13 takes about 2 ms for any short row. 9 heads, 2 cores: 113 tokens 2.08 ms, in float32 0.65; 256
# tokens 2.8 and 2.0; 512 tokens the same. A step of the sample model takes 15 % less time.
_SHORT = 256
_UNKNOWN = ("s_aux", "sinks", "position_bias")  # arguments that change the result, which we don't compute


@dataclass(frozen=True, eq=False)
class Segments:
    """Where the rows packed into one long sequence of tokens lie.

    lengths: tokens of each, in their order; together they fill the sequence
    starts:  int32 [rows + 1] on the device: where each begins, and the end
    """

    lengths: tuple[int, ...]
    starts: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Segments:
        """Rows of these lengths, one after the other."""
        starts = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        torch.cumsum(torch.tensor(lengths, dtype=torch.int32), 0, out=starts[1:])
        return cls(tuple(lengths), sent(starts, device))

    def as_mask(self) -> Tensor:
        """For a model's `attention_mask`: the one argument that every family hands through to its attention.

        A mask of four dimensions is handed through untouched; ours holds nothing but these segments.
        """
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.starts.device)
        mask.segments = self  # type: ignore[attr-defined]
        return mask

    def as_starts(self, longest: int) -> Tensor:
        """The same for a compiled layer, see `starts_as_mask`."""
        return starts_as_mask(self.starts, longest)


def starts_as_mask(starts: Tensor, longest: int) -> Tensor:
    """Of `Segments`, for a compiled layer, which sees tensors only: no row is longer than `longest`.

    returns: int32 [1, 1, longest, rows + 1]: the starts, over and over in the same memory
    """
    mask = starts.view(1, 1, 1, -1).expand(1, 1, longest, -1)
    torch._dynamo.mark_dynamic(mask, 3)
    return mask


@dataclass(frozen=True, eq=False)
class LeftPadding:
    """Several texts of unequal length that are written together: the shorter ones begin later.

    before: int64 [texts] on the device, tokens before each text that nobody looks at
    tokens: of the longest text so far, those included that are computed now
    """

    before: Tensor
    tokens: int

    def as_mask(self) -> Tensor:
        """As `Segments.as_mask`."""
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.before.device)
        mask.padding = self  # type: ignore[attr-defined]
        return mask

    def seen(self, q_len: int, k_len: int, window: int | None) -> Tensor:
        """bool [texts, 1, q, k]: True where the query sees the key; the keys are the last positions."""
        at = torch.arange(self.tokens - k_len, self.tokens, device=self.before.device)
        is_text = at >= self.before[:, None]
        # A query before its text sees what it likes: nobody asks for the result, but it must be a number.
        allowed = is_text[:, None, None, :] | ~is_text[:, None, -q_len:, None]
        return allowed & _causal_mask(q_len, k_len, window, self.before.device)


def register() -> None:
    """Makes `IMPLEMENTATION` known to transformers.

    No function for masks goes with it, so models make no mask of their own: what a token sees follows from
    the segments, or, with a cache, from the lengths of queries and keys.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(IMPLEMENTATION, attention)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers' attention layers call.

    attention_mask: of `Segments` or `LeftPadding`; or a true mask that replaces the causal one; or None
    query:      [batch, heads, q, head_dim]
    key, value: [batch, kv_heads, k, head_dim]; the last q of the k positions are the queries'
    returns:    [batch, q, heads, head_dim]
    """
    unknown = [name for name in _UNKNOWN if others.get(name) is not None]
    if unknown:
        raise StudioError(f"This model's attention needs {unknown[0]}, which isn't built yet.")
    look = _Look(scaling, dropout, sliding_window, softcap)
    if attention_mask is not None and attention_mask.dtype == torch.int32:
        assert not dropout, "compiled layers drop no scores"
        assert not softcap, "compiled layers bend no scores"
        starts, longest = attention_mask[0, 0, 0], attention_mask.shape[2]
        return _attend_at_once(query, key, value, look, starts, longest), None
    looking: Looking | None = getattr(attention_mask, "looking", None)
    if looking is not None:
        return _attend_from_one(query, key, value, look, looking), None
    padding: LeftPadding | None = getattr(attention_mask, "padding", None)
    if padding is not None:
        attention_mask = padding.seen(query.shape[2], key.shape[2], sliding_window)
    segments: Segments | None = getattr(attention_mask, "segments", None)
    if segments is None:
        return _attend(query, key, value, look, attention_mask).transpose(1, 2), None
    if _flash_takes(query, value) and not softcap and not dropout:
        longest = max(segments.lengths)
        return _attend_at_once(query, key, value, look, segments.starts, longest), None
    return _attend_one_by_one(query, key, value, look, segments).transpose(1, 2), None


@dataclass(frozen=True)
class _Look:
    """How a layer looks back: scores * scaling, then softcap, then softmax over at most `window` tokens."""

    scaling: float | None
    dropout: float
    window: int | None  # tokens, its own included
    softcap: float | None


def _attend_one_by_one(query: Tensor, key: Tensor, value: Tensor, look: _Look, segments: Segments) -> Tensor:
    queries, keys, values = (
        tensor.split_with_sizes(segments.lengths, dim=2) for tensor in (query, key, value)
    )
    rows = zip(queries, keys, values, strict=True)
    return torch.cat([_attend_row(q, k, v, look) for q, k, v in rows], dim=2)


def _attend_row(query: Tensor, key: Tensor, value: Tensor, look: _Look) -> Tensor:
    if not query.is_cuda and query.requires_grad and query.shape[2] <= _SHORT:
        return _attend(query.float(), key.float(), value.float(), look).to(query.dtype)
    return _attend(query, key, value, look)


def _attend_at_once(
    query: Tensor, key: Tensor, value: Tensor, look: _Look, starts: Tensor, longest: int
) -> Tensor:
    scale = look.scaling if look.scaling is not None else query.shape[-1] ** -0.5
    tokens_first = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out, _ = packed_attention(*tokens_first, starts, longest, scale, look.window or 0)
    assert isinstance(out, Tensor)
    return out[None]


def _attend_from_one(query: Tensor, key: Tensor, value: Tensor, look: _Look, looking: Looking) -> Tensor:
    scale = look.scaling if look.scaling is not None else query.shape[-1] ** -0.5
    keys, values = key.transpose(1, 2), value.transpose(1, 2)  # as the cache has them
    out = cached_attention(
        query[:, :, 0], keys, values, looking.used, looking.starts, scale, look.window or 0
    )
    assert isinstance(out, Tensor)
    return out[:, None]


def _attend(query: Tensor, key: Tensor, value: Tensor, look: _Look, mask: Tensor | None = None) -> Tensor:
    """One row, or several of one length. A mask of the caller's replaces the causal one."""
    q_len, k_len = query.shape[2], key.shape[2]
    if look.softcap:
        mask = mask if mask is not None else _causal_mask(q_len, k_len, look.window, query.device)
        return _attend_with_softcap(query, key, value, look, mask)
    sees_all = q_len == 1 and (look.window is None or k_len <= look.window)
    causal = q_len == k_len and (look.window is None or k_len <= look.window)
    if mask is None and not sees_all and not causal:
        mask = _causal_mask(q_len, k_len, look.window, query.device)
    if mask is not None and query.shape[1] != key.shape[1]:
        # No fast kernel takes both a mask and grouped heads.
        key, value = _repeated(key, query), _repeated(value, query)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=look.dropout,
        is_causal=mask is None and causal and q_len > 1,
        scale=look.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _attend_with_softcap(query: Tensor, key: Tensor, value: Tensor, look: _Look, mask: Tensor) -> Tensor:
    """In plain steps: no fused kernel of torch's bends the scores before the softmax."""
    assert look.softcap is not None
    scaling = look.scaling if look.scaling is not None else query.shape[-1] ** -0.5
    scores = query @ _repeated(key, query).transpose(2, 3) * scaling
    scores = torch.tanh(scores / look.softcap) * look.softcap
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return F.dropout(weights, look.dropout) @ _repeated(value, query)


def _causal_mask(q_len: int, k_len: int, window: int | None, device: torch.device) -> Tensor:
    """bool [q, k]: True where the query sees the key."""
    at = torch.arange(k_len - q_len, k_len, device=device)[:, None]
    seen = torch.arange(k_len, device=device)[None, :]
    mask = seen <= at
    return mask & (seen > at - window) if window else mask


def _repeated(kv: Tensor, query: Tensor) -> Tensor:
    """[batch, kv_heads, k, d] to [batch, heads, k, d]."""
    groups = query.shape[1] // kv.shape[1]
    return kv if groups == 1 else kv.repeat_interleave(groups, dim=1)


def _flash_takes(query: Tensor, value: Tensor) -> bool:
    head_dim = query.shape[-1]
    return head_dim == value.shape[-1] and flash_takes(head_dim, query.dtype, query.device)


def flash_takes(head_dim: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether torch's flash attention over packed rows runs on this device, dtype and shape."""
    return (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and head_dim % 8 == 0
        and head_dim <= 256
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def flash_takes_heads_of(model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> bool:
    """The same for the heads of a model."""
    config = model.config
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    return flash_takes(head_dim, dtype, device)
