"""All the weights of a folder: which tensor lies in which safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qlora_studio.errors import StudioError
from qlora_studio.models.model_folder import ModelFolder, is_bare, open_folder
from qlora_studio.models.pickles import pickle_error
from qlora_studio.models.safetensors_header import StoredTensor, read_header
from qlora_studio.models.strict_json import strict_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LONGEST_INDEX = 64 * 1024**2  # bytes
_MOST_SHARDS = 2000


@dataclass(frozen=True)
class WeightsIndex:
    """tensors: by name as stored; `StoredTensor.file` is a bare name inside `folder`."""

    folder: Path
    tensors: Mapping[str, StoredTensor]
    files: tuple[str, ...]
    bytes: int  # of the tensors, without headers


def read_weights_index(folder: Path) -> WeightsIndex:
    """Headers only; no weight is read. Raises: StudioError naming the file (S3)."""
    source = open_folder(folder)
    if source.has(SINGLE):
        return _index_of(source, {SINGLE: read_header(source, SINGLE)})
    if source.has(INDEX):
        return _read_shards(source)
    raise _no_weights(source)


def _read_shards(source: ModelFolder) -> WeightsIndex:
    where = source.path / INDEX
    index = strict_object(source.read(INDEX, _LONGEST_INDEX), str(where))
    places = index.get("weight_map")
    if (
        not isinstance(places, dict)
        or not places
        or not all(isinstance(shard, str) for shard in places.values())
    ):
        raise StudioError(f"{where}: weight_map must name a file for each tensor.")
    shards = sorted(set(places.values()))
    if len(shards) > _MOST_SHARDS:
        raise StudioError(
            f"{where}: weight_map names {len(shards):,} files; at most {_MOST_SHARDS:,} are read."
        )
    for shard in shards:
        if not is_bare(shard) or not shard.endswith(".safetensors"):
            raise StudioError(
                f"{where}: weight_map: {shard[:200]!r} is not a safetensors file of this folder."
            )
    headers = {shard: read_header(source, shard) for shard in shards}
    for name, shard in places.items():
        if name not in headers[shard]:
            raise StudioError(
                f"{source.path / shard}: tensor {name[:200]!r} is missing; {INDEX} says it is there."
            )
    for shard, tensors in headers.items():
        for name in tensors:
            if places.get(name) != shard:
                raise StudioError(
                    f"{source.path / shard}: tensor {name[:200]!r} isn't listed there by {INDEX}."
                )
    return _index_of(source, headers)


def _index_of(source: ModelFolder, headers: Mapping[str, Mapping[str, StoredTensor]]) -> WeightsIndex:
    tensors = {name: tensor for header in headers.values() for name, tensor in header.items()}
    if not tensors:
        raise StudioError(f"{source.path}: its weights hold no tensor.")
    return WeightsIndex(
        source.path, tensors, tuple(headers), sum(tensor.bytes for tensor in tensors.values())
    )


def _no_weights(source: ModelFolder) -> StudioError:
    names = source.names()
    if "adapter_model.safetensors" in names:
        return StudioError(
            f"{source.path} holds an adapter, not a model.", hint="Choose the folder of its base model."
        )
    shards = [name for name in names if name.endswith(".safetensors")]
    if shards:
        return StudioError(
            f"{source.path / INDEX} is missing; without it {shards[0]} can't be placed.",
            hint="Download the model again, all of its files.",
        )
    if pickled := pickle_error(source):
        return pickled
    if any(name.endswith(".gguf") for name in names):
        return StudioError(
            f"{source.path} holds GGUF files; training needs the safetensors version of the model.",
            hint="Look for the model's original folder, with config.json and safetensors files.",
        )
    return StudioError(
        f"{source.path} holds no weights: neither {SINGLE} nor {INDEX} is there.",
        hint="Choose the folder that holds config.json and safetensors files.",
    )
