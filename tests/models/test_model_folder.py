"""Files of a foreign folder are opened by bare name, and only where they really lie in it."""

from __future__ import annotations

import os

import pytest

from qlora_studio.errors import StudioError
from qlora_studio.models.model_folder import ModelFolder, is_bare, open_folder


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "C:x",
        "a\0b",
        "a\nb",
        "con",
        "NUL.txt",
        "x" * 256,
        "a\u202eb",
    ],
)
def test_a_name_that_could_lead_elsewhere_is_not_bare(name):  # S12
    assert not is_bare(name)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model-00001-of-00002.safetensors", "配置.json", "..x", "a b"]
)
def test_ordinary_names_are_bare(name):
    assert is_bare(name)


def test_a_link_out_of_the_folder_is_refused_and_not_opened(tmp_path):  # S3
    (tmp_path / "secret").write_text("s")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(StudioError, match="outside the model's folder"):
        ModelFolder(model).read("config.json", 10)


def test_a_link_to_a_neighbour_in_the_folder_is_followed(tmp_path):
    (tmp_path / "a").write_text("text")
    (tmp_path / "b").symlink_to("a")
    assert ModelFolder(tmp_path).read("b", 10) == b"text"


def test_links_into_the_blobs_of_the_same_hub_cache_entry_are_followed(tmp_path):
    entry = tmp_path / "models--org--name"
    snapshot = entry / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (entry / "blobs").mkdir()
    (entry / "blobs" / "123").write_text("text")
    (snapshot / "config.json").symlink_to("../../blobs/123")
    assert ModelFolder(snapshot).read("config.json", 10) == b"text"


def test_links_into_the_blobs_of_another_hub_cache_entry_are_refused(tmp_path):
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    other = tmp_path / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "123").write_text("text")
    (snapshot / "config.json").symlink_to(other / "123")
    with pytest.raises(StudioError, match="outside the model's folder"):
        ModelFolder(snapshot).read("config.json", 10)


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(StudioError, match="no regular file"):
        ModelFolder(tmp_path).read("config.json", 10)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(StudioError, match=r"config\.json"):
        ModelFolder(tmp_path).read("config.json", 10)


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(StudioError, match="can't be opened"):
        ModelFolder(tmp_path).read("a", 10)


def test_a_file_over_its_limit_is_refused(tmp_path):
    (tmp_path / "config.json").write_bytes(bytes(11))
    with pytest.raises(StudioError, match="longer than 10 bytes"):
        ModelFolder(tmp_path).read("config.json", 10)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StudioError, match=r"config\.json is missing"):
        ModelFolder(tmp_path).read("config.json", 10)


@pytest.mark.parametrize("name", ["absent", "file", "a\0b"])
def test_what_is_no_folder_is_told_so(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudioError, match=r"is not a folder|does not exist"):
        open_folder(tmp_path / name)


def test_a_shape_in_place_of_a_folder_is_told_as_one(tmp_path):
    with pytest.raises(
        StudioError, match=r"shape:llama-7b is a shape with random weights, for `qlora-studio"
    ):
        open_folder(tmp_path / "shape:llama-7b")
