"""A header that lies in any field is refused by name, and nothing is allocated for it."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from qlora_studio.errors import StudioError
from qlora_studio.models.model_folder import ModelFolder
from qlora_studio.models.safetensors_header import LONGEST_HEADER, StoredTensor, read_header


def entry(dtype: Any = "F32", shape: Any = (2, 3), offsets: Any = (0, 24), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def refusal(path: Any) -> str:
    with pytest.raises(StudioError) as caught:
        read_header(ModelFolder(path.parent), path.name)
    assert path.name in caught.value.message
    return caught.value.message


def test_a_sound_file_gives_names_types_shapes_and_places(tmp_path):
    save_file({"b": np.ones((2, 3), np.float32), "a": np.zeros(4, np.float16)}, tmp_path / "x.safetensors")

    tensors = read_header(ModelFolder(tmp_path), "x.safetensors")

    assert {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()} == {
        "a": ("F16", (4,)),
        "b": ("F32", (2, 3)),
    }
    stored = (tmp_path / "x.safetensors").read_bytes()
    place = tensors["b"]
    assert np.frombuffer(stored[place.offset : place.offset + place.bytes], np.float32).tolist() == [1.0] * 6


def test_metadata_is_passed_over(raw_safetensors):
    path = raw_safetensors({"__metadata__": {"format": "pt"}, "a": entry()}, bytes(24))
    assert read_header(ModelFolder(path.parent), path.name) == {
        "a": StoredTensor("F32", (2, 3), path.name, path.stat().st_size - 24, 24)
    }


# S3, fault 24: each header field
@pytest.mark.fault(24)
@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (entry(dtype="F3"), "dtype 'F3' is not known"),
        (entry(dtype=7), "dtype"),
        (entry(dtype=["F32"]), "dtype"),
        (entry(shape=[2, -3]), "shape"),
        (entry(shape=[2, 3.0]), "shape"),
        (entry(shape=[2, True]), "shape"),
        (entry(shape="2x3"), "shape"),
        (entry(shape=[2**70]), "shape"),
        (entry(shape=[1] * 9), "shape"),
        (entry(shape=[2, 4]), "need 32 bytes, data_offsets give 24"),
        (entry(shape=[2**62, 2**62]), "data_offsets give 24"),
        (entry(offsets=[0, 25]), "data_offsets give 25"),
        (entry(offsets=[24, 0]), "data_offsets"),
        (entry(offsets=[-24, 0]), "data_offsets"),
        (entry(offsets=[0, 24, 48]), "data_offsets"),
        (entry(offsets=[0.0, 24.0]), "data_offsets"),
        (entry(offsets=None), "data_offsets"),
        (entry(extra=1), "dtype, shape and data_offsets, nothing else"),
        ({"dtype": "F32", "shape": [1]}, "dtype, shape and data_offsets"),
        ([], "dtype, shape and data_offsets"),
    ],
)
def test_a_lying_field_is_named(raw_safetensors, broken, field):
    assert field in refusal(raw_safetensors({"w": broken}, bytes(24)))


@pytest.mark.fault(24)
def test_overlapping_tensors_are_refused(raw_safetensors):
    header = {"a": entry(), "b": entry(offsets=(12, 36))}
    assert "'b': data_offsets: it overlaps" in refusal(raw_safetensors(header, bytes(36)))


def test_two_names_for_the_same_bytes_are_refused(raw_safetensors):
    assert "overlaps" in refusal(raw_safetensors({"a": entry(), "b": entry()}, bytes(24)))


@pytest.mark.fault(24)
def test_a_gap_between_tensors_is_refused(raw_safetensors):
    header = {"a": entry(), "b": entry(offsets=(32, 56))}
    assert "'b': data_offsets: it leaves a gap" in refusal(raw_safetensors(header, bytes(56)))


def test_a_first_tensor_that_does_not_start_at_the_start_is_refused(raw_safetensors):
    assert "leaves a gap" in refusal(raw_safetensors({"a": entry(offsets=(8, 32))}, bytes(32)))


def test_weights_cut_short_say_how_short(raw_safetensors):
    path = raw_safetensors({"a": entry()}, bytes(20))
    size = path.stat().st_size
    assert f"describes {size + 4:,} bytes, the file has {size:,}" in refusal(path)


def test_bytes_beyond_the_end_are_refused(raw_safetensors):
    assert "5 bytes beyond the end" in refusal(raw_safetensors({"a": entry()}, bytes(29)))


def test_a_name_said_twice_is_refused(raw_safetensors):
    text = json.dumps(entry()).encode()
    assert "'a' stands there twice" in refusal(
        raw_safetensors(b'{"a":' + text + b',"a":' + text + b"}", bytes(24))
    )


@pytest.mark.parametrize("length", [0, 1, LONGEST_HEADER + 1, 2**63, 2**64 - 1])
def test_an_impossible_header_length_is_refused_before_anything_is_read(raw_safetensors, length):
    assert "no safetensors header" in refusal(raw_safetensors(b"{}", length=length))


def test_a_header_longer_than_the_file_is_refused(raw_safetensors):
    assert "its header alone takes" in refusal(raw_safetensors(b"{}", length=1000))


@pytest.mark.parametrize("size", range(8))
def test_a_file_without_a_whole_length_is_refused(tmp_path, size):
    (tmp_path / "x.safetensors").write_bytes(bytes(size))
    assert f"it has {size} bytes" in refusal(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[]", "no JSON object"),
        (b"\xef\xbb\xbf{}", "doesn't begin with {"),
        (b" {}", "doesn't begin with {"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b'{"a": 1,}', "not valid JSON"),
        (b'{"\xff": 1}', "not UTF-8"),
        (b'{"__metadata__": {"a": 1}}', "__metadata__"),
        (b'{"__metadata__": []}', "__metadata__"),
    ],
)
def test_a_header_that_is_no_strict_json_is_refused(raw_safetensors, text, words):
    assert words in refusal(raw_safetensors(text))


def test_a_git_lfs_pointer_is_told_as_that(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"
    )
    assert "pointer" in refusal(tmp_path / "x.safetensors")


@pytest.mark.fault(24)
def test_a_header_that_promises_terabytes_allocates_nothing(raw_safetensors):
    path = raw_safetensors({"a": entry(shape=[2**40], offsets=(0, 2**42))}, bytes(24))
    tracemalloc.start()
    refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.fault(24)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.dictionaries(
        st.text(max_size=8),
        _JUNK
        | st.fixed_dictionaries(
            {"dtype": st.sampled_from(["F32", "U8"]) | _JUNK, "shape": _JUNK, "data_offsets": _JUNK}
        ),
        max_size=3,
    ),
    data=st.binary(max_size=40),
)
def test_any_header_is_read_or_refused_never_a_crash(raw_safetensors, header, data):
    path = raw_safetensors(json.dumps(header, default=str).encode(), data)
    try:
        tensors = read_header(ModelFolder(path.parent), path.name)
    except StudioError:
        return
    assert sum(tensor.bytes for tensor in tensors.values()) == len(data)
