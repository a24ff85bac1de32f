"""Sharded weights: the index gets no exception from what holds for a single file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from qlora_studio.errors import StudioError
from qlora_studio.models.weights_index import read_weights_index


@pytest.fixture
def sharded(llama):
    (llama.path / "model.safetensors").unlink()
    return llama, llama.write_shards()


def refusal(folder) -> str:
    with pytest.raises(StudioError) as caught:
        read_weights_index(folder.path)
    return caught.value.message


def test_shards_give_the_same_tensors_as_a_single_file(llama):
    single = read_weights_index(llama.path)
    (llama.path / "model.safetensors").unlink()
    llama.write_shards()

    shards = read_weights_index(llama.path)

    assert {name: tensor.shape for name, tensor in shards.tensors.items()} == {
        name: tensor.shape for name, tensor in single.tensors.items()
    }
    assert shards.bytes == single.bytes
    assert len(shards.files) == 2


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    "shard",
    [
        "../model-00001-of-00002.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..\\x.safetensors",
        "weights.bin",
        "a\0.safetensors",
        "",
    ],
)
def test_a_shard_that_is_no_bare_safetensors_name_is_refused(sharded, shard):  # S3
    folder, places = sharded
    folder.write_index(places | {"model.norm.weight": shard})
    assert "weight_map" in refusal(folder)


@pytest.mark.fault(24)
def test_a_shard_that_is_a_link_out_of_the_folder_is_refused(sharded, tmp_path):  # S3
    folder, places = sharded
    shard = folder.path / places["model.norm.weight"]
    outside = tmp_path / "outside.safetensors"
    shard.rename(outside)
    shard.symlink_to(outside)
    assert "outside the model's folder" in refusal(folder)


def test_a_missing_shard_is_named(sharded):
    folder, places = sharded
    (folder.path / places["model.norm.weight"]).unlink()
    assert f"{places['model.norm.weight']} is missing" in refusal(folder)


def test_a_shard_cut_short_is_named(sharded):
    folder, places = sharded
    shard = folder.path / places["model.norm.weight"]
    shard.write_bytes(shard.read_bytes()[:-100])
    message = refusal(folder)
    assert shard.name in message
    assert "cut short" in message


def test_a_tensor_that_is_not_in_its_shard_is_named(sharded):
    folder, places = sharded
    folder.write_index(places | {"extra.weight": places["model.norm.weight"]})
    assert "'extra.weight' is missing" in refusal(folder)


def test_a_tensor_that_the_index_does_not_list_is_named(sharded):
    folder, places = sharded
    del places["model.norm.weight"]
    folder.write_index(places)
    assert "'model.norm.weight' isn't listed" in refusal(folder)


def test_a_tensor_stored_in_two_shards_is_refused(sharded):  # S4: once
    folder, places = sharded
    other = next(file for file in places.values() if file != places["model.norm.weight"])
    tensors = folder.tensors()
    save_file(
        {name: tensors[name] for name in tensors if places[name] == other}
        | {"model.norm.weight": np.ones(32)},
        folder.path / other,
    )
    assert "'model.norm.weight' isn't listed there" in refusal(folder)


@pytest.mark.parametrize("weight_map", [None, {}, [], {"a": 1}, "x"])
def test_a_weight_map_that_is_none_is_refused(sharded, weight_map):
    folder, _ = sharded
    (folder.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "weight_map" in refusal(folder)


def test_an_index_that_names_too_many_files_is_refused(sharded):
    folder, _ = sharded
    folder.write_index({f"t{number}": f"{number}.safetensors" for number in range(2001)})
    assert "2,001 files" in refusal(folder)


def test_shards_without_their_index_are_told_as_that(sharded):
    folder, _ = sharded
    (folder.path / "model.safetensors.index.json").unlink()
    assert "model.safetensors.index.json is missing" in refusal(folder)
