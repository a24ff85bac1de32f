"""A clean config for the engine: rebuilt from allowed fields, so that no foreign config.json is ever used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlora_studio.errors import StudioError
from qlora_studio.models.families import ENCODER_DECODERS, FAMILIES, Family
from qlora_studio.models.model_folder import ModelFolder, open_folder
from qlora_studio.models.own_head import has_own_head
from qlora_studio.models.strict_json import strict_object

CONFIG = "config.json"
_LONGEST_CONFIG = 2 * 1024**2  # bytes
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_DECODER_START = "decoder_start_token_id"
_MOST_STOP_IDS = 64
# Where the file says null, transformers must hear null: its own default is something else.
_MAY_BE_NULL = {
    "sliding_window",
    "layer_types",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "no_rope_layers",
    "n_inner",
    "clip_qkv",
    "num_key_value_heads",
    "head_dim",
}
_OWN_HEAD = (
    "Its head holds other numbers than its embedding, though config.json calls them one "
    "(tie_word_embeddings). It is used as it is, as transformers 5 does; older programs take the embedding."
)
_REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class CleanConfig:
    """What the engine builds transformers' config from: `AutoConfig.for_model(model_type, **values)`.

    stop_ids: tokens that end a reply, of config.json and generation_config.json
    """

    model_type: str
    values: dict[str, Any]
    stop_ids: tuple[int, ...]
    warnings: tuple[str, ...]


def clean_config(folder: Path) -> CleanConfig:
    """Raises: StudioError naming the file and the field (S2)."""
    source = open_folder(folder)
    where = source.path / CONFIG
    if not source.has(CONFIG):
        raise StudioError(
            f"{where} is missing, so this is no model that can be read.",
            hint="Choose the folder that holds config.json and safetensors files.",
        )
    said = strict_object(source.read(CONFIG, _LONGEST_CONFIG), str(where), non_finite=True)
    model_type = _model_type(said, where)
    values = _clean_values(said, FAMILIES[model_type], where)
    vocab = values["vocab_size"]
    names = _token_ids_of(FAMILIES[model_type])
    warnings = _code_warnings(source, said, model_type)
    if _takes_its_head_for_the_embedding(source.path, values, FAMILIES[model_type]):
        values["tie_word_embeddings"] = False
        warnings.append(_OWN_HEAD)
    for name in names:
        values[name], outside = _token_id(said.get(name), vocab)
        if outside:
            warnings.append(f"{name} {outside} in {CONFIG} lies outside the vocabulary; it is left out.")
    if names != _TOKEN_IDS and not isinstance(values[_DECODER_START], int):
        values[_DECODER_START] = values["pad_token_id"]  # as T5 was trained
        if not isinstance(values[_DECODER_START], int):
            raise StudioError(
                f"{where} names no token that the decoder starts with.",
                hint=f"Add {_DECODER_START} to config.json; T5's is that of its padding, 0.",
            )
    return CleanConfig(model_type, values, _stop_ids(source, values, vocab), tuple(warnings))


def _takes_its_head_for_the_embedding(folder: Path, values: Mapping[str, Any], family: Family) -> bool:
    """Of an encoder-decoder it isn't known: its outputs are scaled by what the config says."""
    return family.decoder is None and values["tie_word_embeddings"] and has_own_head(folder, family)


def decoder_start(folder: Path) -> int | None:
    """The token that the decoder of an encoder-decoder starts with; None where the model is none.

    Raises: StudioError as `clean_config` does, where it is one.
    """
    source = open_folder(folder)
    if not source.has(CONFIG):
        return None
    said = strict_object(source.read(CONFIG, _LONGEST_CONFIG), str(source.path / CONFIG), non_finite=True)
    if said.get("model_type") not in tuple(ENCODER_DECODERS):  # it may be anything, such as a list
        return None
    return int(clean_config(folder).values[_DECODER_START])


def clean_values(said: Mapping[str, Any], where: Path) -> tuple[str, dict[str, Any]]:
    """model_type and clean values of a config that is no folder's, such as a known model's shapes."""
    model_type = _model_type(said, where)
    family = FAMILIES[model_type]
    return model_type, {**_clean_values(said, family, where), **dict.fromkeys(_token_ids_of(family))}


def _model_type(said: Mapping[str, Any], where: Path) -> str:
    model_type = said.get("model_type")
    name = model_type if isinstance(model_type, str) and model_type.isprintable() else "none"
    method = said.get("quantization_config")
    if method not in (None, {}):
        kind = method.get("quant_method") if isinstance(method, dict) else None
        known = kind if isinstance(kind, str) and kind.isidentifier() else "some method"
        raise StudioError(
            f"{where}: the weights are already quantized ({known[:30]}).",
            hint="Choose the model's 16-bit version; it is quantized to NF4 here.",
        )
    if name in FAMILIES:
        return name
    raise StudioError(f"{where}: model_type {name[:60]!r} {_why_not(name, said)}", hint=_known_families())


def _why_not(name: str, said: Mapping[str, Any]) -> str:
    if any(isinstance(said.get(key), dict) for key in ("vision_config", "text_config", "audio_config")):
        return "sees or hears as well as reads; only language models are finetuned here."
    if any(key in said for key in ("num_experts", "num_local_experts", "n_routed_experts")):
        return "is a mixture of experts; their weights can't be held in NF4 here."
    if "auto_map" in said:
        return "is known only to code that comes with the model, and that code is never run."
    if said.get("is_encoder_decoder") is True:
        return f"is an encoder and a decoder; of that kind only {_known(ENCODER_DECODERS)} is finetuned here."
    return "is not among the families that can be finetuned."


def _known_families() -> str:
    return f"Families: {_known(FAMILIES)}."


def _known(names: Iterable[str]) -> str:
    return ", ".join(names)


def _token_ids_of(family: Family) -> tuple[str, ...]:
    return _TOKEN_IDS if family.decoder is None else (*_TOKEN_IDS, _DECODER_START)


def _clean_values(said: Mapping[str, Any], family: Family, where: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, rule in family.fields.items():
        if name not in said:
            if name in family.assumed:
                values[name] = family.assumed[name]
            continue
        if said[name] is None:
            if name in _MAY_BE_NULL:
                values[name] = None
            elif name in family.assumed:
                values[name] = family.assumed[name]
            continue
        try:
            values[name] = rule(said[name])
        except ValueError as error:
            shown = repr(said[name])[:60]
            raise StudioError(f"{where}: {name} is {shown}; it must be {error}.") from error
    for name in (*_REQUIRED, *(() if "n_inner" in family.fields else ("intermediate_size",))):
        key = family.keys.get(name, name)
        if values.get(key) is None:
            raise StudioError(f"{where}: {key} is missing.")
    if "max_position_embeddings" in family.fields and "max_position_embeddings" not in values:
        raise StudioError(f"{where}: max_position_embeddings is missing.")
    if values.get("scale_decoder_outputs") is False:
        # Of a T5 with a head of its own. transformers 5 says of every T5 that it saves that they are tied.
        values["tie_word_embeddings"] = False
    _check_layer_lists(values, values[family.keys.get("num_hidden_layers", "num_hidden_layers")], where)
    return values


def _check_layer_lists(values: Mapping[str, Any], layers: int, where: Path) -> None:
    for name in ("layer_types", "no_rope_layers"):
        items = values.get(name)
        if items is not None and len(items) != layers:
            raise StudioError(f"{where}: {name} has {len(items)} items; the model has {layers} layers.")


def _token_id(said: Any, vocab: int) -> tuple[int | list[int] | None, str]:
    """The ids inside the vocabulary, and in words those outside."""
    listed = said if isinstance(said, list) else [] if said is None else [said]
    listed = listed[:_MOST_STOP_IDS]
    inside = [item for item in listed if type(item) is int and 0 <= item < vocab]
    outside = ", ".join(str(item)[:20] for item in listed if item not in inside)
    if isinstance(said, list) and len(inside) > 1:
        return inside, outside
    return (inside[0] if inside else None), outside


def _stop_ids(source: ModelFolder, values: Mapping[str, Any], vocab: int) -> tuple[int, ...]:
    name = "generation_config.json"
    said: list[Any] = [values["eos_token_id"]]
    if source.has(name):
        data = source.read(name, _LONGEST_CONFIG)
        generation = strict_object(data, str(source.path / name), non_finite=True)
        said.append(_token_id(generation.get("eos_token_id"), vocab)[0])
    flat = [item for ids in said for item in (ids if isinstance(ids, list) else [ids])]
    return tuple(sorted({item for item in flat if item is not None}))


def _code_warnings(source: ModelFolder, said: Mapping[str, Any], model_type: str) -> list[str]:
    has_code = "auto_map" in said or any(name.endswith(".py") for name in source.names())
    if not has_code:
        return []
    return [
        "This model comes with its own code. It was not run. "
        f"The model is read with our {model_type} code instead."
    ]
