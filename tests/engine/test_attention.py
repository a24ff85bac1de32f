from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qlora_studio.engine.attention import Segments, attention
from qlora_studio.errors import StudioError

QKV = tuple[Tensor, Tensor, Tensor]
LENGTHS = (7, 1, 12, 4)
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16


def plain(
    qkv: QKV, window: int | None = None, softcap: float | None = None, scaling: float | None = None
) -> Tensor:
    """The definition, in float64 and one row at a time."""
    rows = [tensor.double().split_with_sizes(LENGTHS, dim=2) for tensor in qkv]
    parts = [_plain_row(q, k, v, window, softcap, scaling) for q, k, v in zip(*rows, strict=True)]
    return torch.cat(parts, dim=1)


def _plain_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    softcap: float | None,
    scaling: float | None,
) -> Tensor:
    key, value = (tensor.repeat_interleave(HEADS // KV_HEADS, dim=1) for tensor in (key, value))
    scores = query @ key.transpose(2, 3) * (scaling or HEAD_DIM**-0.5)
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    at = torch.arange(query.shape[2])
    seen = at[None, :] <= at[:, None]
    seen &= at[None, :] > at[:, None] - (window or 10_000)
    return (F.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1) @ value).transpose(1, 2)


@pytest.fixture
def qkv() -> QKV:
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, sum(LENGTHS), HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    return query, key, value


@pytest.mark.parametrize(
    "look",
    [{}, {"window": 5}, {"softcap": 2.0}, {"softcap": 2.0, "window": 3}, {"scaling": 0.5}],
    ids=["causal", "window", "softcap", "softcap and window", "scaling"],
)
def test_a_packed_row_sees_its_own_tokens_only(qkv: QKV, look: dict[str, Any]) -> None:
    segments = Segments.of(LENGTHS, torch.device("cpu"))
    named = {"sliding_window" if name == "window" else name: value for name, value in look.items()}

    result, _ = attention(torch.nn.Module(), *qkv, segments.as_mask(), **named)

    torch.testing.assert_close(result.double(), plain(qkv, **look), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_tokens_that_come_one_by_one_see_what_they_would_have_seen_together(
    qkv: QKV, window: int | None, softcap: float | None
) -> None:
    query, key, value = (tensor[:, :, :9] for tensor in qkv)
    together, _ = attention(
        torch.nn.Module(), query, key, value, None, sliding_window=window, softcap=softcap
    )

    one_by_one = [
        attention(
            torch.nn.Module(),
            query[:, :, i : i + 1],
            key[:, :, : i + 1],
            value[:, :, : i + 1],
            None,
            sliding_window=window,
            softcap=softcap,
        )[0]
        for i in range(9)
    ]

    torch.testing.assert_close(torch.cat(one_by_one, dim=1), together, atol=1e-5, rtol=1e-5)


def test_several_tokens_after_a_cache_see_the_past_and_each_other(qkv: QKV) -> None:
    query, key, value = (tensor[:, :, :9] for tensor in qkv)
    together, _ = attention(torch.nn.Module(), query, key, value, None)

    last_four, _ = attention(torch.nn.Module(), query[:, :, 5:], key, value, None)

    torch.testing.assert_close(last_four, together[:, 5:], atol=1e-5, rtol=1e-5)


def test_attention_that_is_not_known_is_refused_not_guessed(qkv: QKV) -> None:
    with pytest.raises(StudioError, match="sinks"):
        attention(torch.nn.Module(), *qkv, None, sinks=torch.zeros(HEADS))
