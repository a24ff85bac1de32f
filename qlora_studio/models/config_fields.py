"""What may stand under one key of a model's config.json: a kind of value with its bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Rule = Callable[[Any], Any]  # the clean value; raises ValueError with what it must be

MOST_LAYERS = 1024
ACTIVATIONS = (
    "silu",
    "swish",
    "gelu",
    "gelu_new",
    "gelu_fast",
    "gelu_pytorch_tanh",
    "quick_gelu",
    "relu",
    "relu2",
)
LAYER_TYPES = ("full_attention", "sliding_attention")

_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "su")
_ROPE_NEEDS = {
    "linear": {"factor"},
    "dynamic": {"factor"},
    "yarn": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
    "longrope": {"short_factor", "long_factor"},
    "su": {"short_factor", "long_factor"},
}


def count(low: int, high: int) -> Rule:
    """A whole number."""

    def rule(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():  # some writers say 256.0
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number between {low:,} and {high:,}")
        return value

    return rule


def real(low: float, high: float) -> Rule:
    """A finite number."""

    def rule(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError(f"a number between {low:g} and {high:g}")
        return float(value)

    return rule


def flag(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def only(*allowed: Any) -> Rule:
    """One of a few values; what else transformers knows isn't built here."""

    def rule(value: Any) -> Any:
        if not any(value is item or (value == item and type(value) is type(item)) for item in allowed):
            raise ValueError(" or ".join(str(item) for item in allowed))
        return value

    return rule


def list_of(rule: Rule, longest: int = MOST_LAYERS) -> Rule:
    """A list, each item under one rule."""

    def list_rule(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > longest:
            raise ValueError(f"a list of at most {longest:,} items")
        return [rule(item) for item in value]

    return list_rule


def layer_pattern(value: Any) -> int | str:
    """Every how many layers one sees everything, or the kinds spelled out: "LLLG"."""
    if isinstance(value, str):
        if not 1 <= len(value) <= MOST_LAYERS or set(value) - {"L", "G"}:
            raise ValueError("a number of layers, or the letters L and G")
        return value
    return int(count(1, MOST_LAYERS)(value))


def rope(value: Any) -> dict[str, Any]:
    """How positions are turned into angles: one set of numbers, or one for each kind of layer."""
    if not isinstance(value, dict):
        raise ValueError("an object")
    kinds = [kind for kind in LAYER_TYPES if kind in value]
    if kinds:
        return {kind: _rope_numbers(value[kind]) for kind in kinds if value[kind] is not None}
    return _rope_numbers(value)


_share = real(0.0, 1.0)
_factor = real(1.0, 1e6)
_ROPE_FIELDS: Mapping[str, Rule] = {
    "rope_theta": real(1.0, 1e12),
    "partial_rotary_factor": _share,
    "factor": _factor,
    "original_max_position_embeddings": count(1, 2**24),
    "attention_factor": real(0.0, 1e4),
    "beta_fast": real(0.0, 1e6),
    "beta_slow": real(0.0, 1e6),
    "mscale": real(0.0, 1e4),
    "mscale_all_dim": real(0.0, 1e4),
    "truncate": flag,
    "low_freq_factor": real(1e-6, 1e6),
    "high_freq_factor": real(1e-6, 1e6),
    "short_factor": list_of(real(1e-6, 1e6), 4096),
    "long_factor": list_of(real(1e-6, 1e6), 4096),
}


def _rope_numbers(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("an object")
    kind = value.get("rope_type", value.get("type", "default"))
    if kind not in _ROPE_TYPES:
        raise ValueError(f"of a rope_type that is known ({', '.join(_ROPE_TYPES)})")
    clean: dict[str, Any] = {"rope_type": "longrope" if kind == "su" else kind}  # "su": its first name
    for name, rule in _ROPE_FIELDS.items():
        if value.get(name) is not None:
            try:
                clean[name] = rule(value[name])
            except ValueError as error:
                raise ValueError(f"an object whose {name} is {error}") from error
    missing = _ROPE_NEEDS.get(kind, set()) - clean.keys()
    if missing:
        raise ValueError(f"an object with {', '.join(sorted(missing))}, as rope_type {kind} needs")
    if clean.get("high_freq_factor", math.inf) <= clean.get("low_freq_factor", 0.0):
        raise ValueError("an object whose high_freq_factor is above its low_freq_factor")
    return clean
