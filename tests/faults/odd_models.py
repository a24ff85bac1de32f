"""Model folders and adapters that are odd but good, and some that only seem to be good.

Each is a change to a sound tiny folder, by name, and what must come of it: None where it must be taken, else
words of the refusal.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.tiny_tokenizer import CHATML, byte_level
from tests.models.conftest import TINY_LLAMA, Folder

Change = Callable[[Folder], None]
Odd = Mapping[str, tuple[Change, str | None]]

VOCAB = 272
SINGLE = "model.safetensors"
_TYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I8": np.int8, "U16": np.uint16}


def sound_model(path: Path) -> Folder:
    """A Llama of two layers with a tokenizer of 264 tokens and a template."""
    folder = Folder(path, {**TINY_LLAMA, "vocab_size": VOCAB})
    folder.write_config()
    folder.write_weights()
    byte_level().save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "<|im_end|>"}))
    (path / "chat_template.jinja").write_text(CHATML)
    return folder


def config(**changes: Any) -> Change:
    """Keys of config.json changed, or left out where they are `...`."""

    def write(folder: Folder) -> None:
        folder.write_config(**changes)
        folder.config = {name: value for name, value in folder.config.items() if value is not ...}

    return write


def config_text(change: Callable[[str], str | bytes]) -> Change:
    """The text of config.json changed."""
    return text_of("config.json", change)


def text_of(name: str, change: Callable[[str], str | bytes]) -> Change:
    """The text of a file changed."""

    def changed(folder: Folder) -> None:
        said = change((folder.path / name).read_text("utf-8"))
        (folder.path / name).write_bytes(said if isinstance(said, bytes) else said.encode("utf-8"))

    return changed


def file(name: str, content: bytes | str) -> Change:
    """A file beside the others, or in the place of one."""
    data = content if isinstance(content, bytes) else content.encode("utf-8")

    def write(folder: Folder) -> None:
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_bytes(data)

    return write


def removed(name: str) -> Change:
    """A file that isn't there."""
    return lambda folder: (folder.path / name).unlink()


def linked(name: str, target: str) -> Change:
    """A link in the place of a file."""

    def link(folder: Folder) -> None:
        (folder.path / name).unlink(missing_ok=True)
        (folder.path / name).symlink_to(target)

    return link


def all_of(*changes: Change) -> Change:
    """One after the other."""

    def change(folder: Folder) -> None:
        for one in changes:
            one(folder)

    return change


def weights(change: Callable[[dict[str, np.ndarray]], object]) -> Change:
    """Tensors changed, left out or added."""

    def write(folder: Folder) -> None:
        tensors = folder.tensors()
        change(tensors)
        folder.write_weights(tensors)

    return write


def one_number(
    value: float, kind: type = np.float32, name: str = "model.layers.1.mlp.up_proj.weight"
) -> Change:
    """Weights of a type, one number of which is this."""

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        for key, tensor in tensors.items():
            tensors[key] = tensor.astype(kind)
        tensors[name].flat[-1] = value

    return weights(spoil)


def header(change: Callable[[dict[str, Any]], object], more: bytes = b"") -> Change:
    """The header of the weights as a JSON object, changed; the numbers stay, with `more` behind them."""

    def write(folder: Folder) -> None:
        said, numbers = _parts(folder.path / SINGLE)
        change(said)
        text = json.dumps(said).encode()
        (folder.path / SINGLE).write_bytes(struct.pack("<Q", len(text)) + text + numbers + more)

    return write


def raw_header(change: Callable[[bytes], bytes], length: int | None = None) -> Change:
    """The header's text changed, and where given the length that is said of it."""

    def write(folder: Folder) -> None:
        said, numbers = _parts(folder.path / SINGLE)
        text = change(json.dumps(said).encode())
        said_length = len(text) if length is None else length
        (folder.path / SINGLE).write_bytes(struct.pack("<Q", said_length) + text + numbers)

    return write


def stored_as(dtype: str) -> Change:
    """All weights said to be of a type of two bytes."""

    def write(folder: Folder) -> None:
        weights(lambda tensors: tensors.update({k: t.astype(np.float16) for k, t in tensors.items()}))(folder)
        header(lambda said: [entry.update(dtype=dtype) for entry in said.values()])(folder)

    return write


def sharded(change: Callable[[dict[str, Any]], object] = lambda index: None) -> Change:
    """Two files and an index, which is changed."""

    def write(folder: Folder) -> None:
        (folder.path / SINGLE).unlink()
        index = {"metadata": {"total_size": 1}, "weight_map": folder.write_shards()}
        change(index)
        (folder.path / f"{SINGLE}.index.json").write_text(json.dumps(index))

    return write


def json_changed(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    def write(folder: Folder) -> None:
        said = json.loads((folder.path / name).read_text("utf-8"))
        change(said)
        (folder.path / name).write_text(json.dumps(said))

    return write


def _parts(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _first(said: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = next(value for key, value in said.items() if key != "__metadata__")
    return entry


_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_QUANTIZED = {"quant_method": "gptq", "bits": 4}
_BUFFER = "model.layers.0.self_attn.rotary_emb.inv_freq"
_BF16_NAN = 0x7FC0

# Judged without meeting text: quick, one process for all.
CONFIGS: Odd = {
    "as it is": (config(), None),
    "unknown keys": (config(foo={"bar": [1, None]}, _name_or_path="../../x", architectures=None), None),
    "no dtype": (config(torch_dtype=..., dtype=...), None),
    "dtype of both spellings": (config(torch_dtype="bfloat16", dtype="float32"), None),
    "dtype unknown": (config(torch_dtype="float4_e2m1fn_x2"), None),
    "no architectures": (config(architectures=...), None),
    "no head_dim, kv heads or tying": (
        all_of(
            config(num_key_value_heads=..., tie_word_embeddings=...), lambda folder: folder.write_weights()
        ),
        None,
    ),
    "kv heads null": (
        all_of(config(num_key_value_heads=None), lambda folder: folder.write_weights()),
        None,
    ),
    "whole numbers with a point": (config(hidden_size=32.0, vocab_size=float(VOCAB)), None),
    "rope of old": (config(rope_scaling={"type": "linear", "factor": 2.0}), None),
    "rope of new": (config(rope_parameters={"rope_type": "linear", "factor": 2, "rope_theta": 1e4}), None),
    "rope of both spellings": (config(rope_scaling={"type": "yarn", "rope_type": "yarn", "factor": 4}), None),
    "rope of llama 3": (
        config(rope_scaling={"rope_type": "llama3", **_LLAMA3, "original_max_position_embeddings": 8192}),
        None,
    ),
    "rope null": (config(rope_scaling=None, rope_theta=None), None),
    "rope of nothing": (config(rope_scaling={}), None),
    "rope with more": (config(rope_scaling={"type": "dynamic", "factor": 2, "note": "x", "alpha": 1}), None),
    "rope finetuned": (config(rope_scaling={"type": "yarn", "factor": 2, "finetuned": True}), None),
    "rope null by kind": (config(rope_parameters={"full_attention": None, "rope_theta": 1e4}), None),
    "quantized to nothing": (config(quantization_config={}), None),
    "quantized to null": (config(quantization_config=None), None),
    "auto_map": (config(auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"}), None),
    "code beside": (file("modeling_evil.py", "raise SystemExit(9)"), None),
    "folder of code": (file("evil/__init__.py", "raise SystemExit(9)"), None),
    "byte order mark": (config_text(lambda text: b"\xef\xbb\xbf" + text.encode()), None),
    "other line ends": (
        config_text(lambda text: json.dumps(json.loads(text), indent=2).replace("\n", "\r\n")),
        None,
    ),
    "spaces around": (config_text(lambda text: f"\n\n\t {text} \n\n"), None),
    "keys escaped": (config_text(lambda text: text.replace('"model_type"', '"\\u006dodel_type"')), None),
    "infinity where nothing reads it": (config(time_step_limit=[0.0, float("inf")]), None),
    "not a number where nothing reads it": (config(best_metric=float("nan")), None),
    "huge number where nothing reads it": (config(model_max_length=10**30), None),
    "eos list": (config(eos_token_id=[258, 259]), None),
    "eos out of range beside a good one": (config(eos_token_id=[258, 10**6]), None),
    "eos null": (config(eos_token_id=None, bos_token_id=None), None),
    "pad -1": (config(pad_token_id=-1), None),
    "generation config empty": (file("generation_config.json", "{}"), None),
    "generation config odd": (
        file("generation_config.json", '{"eos_token_id": [258, "x", null], "temperature": NaN}'),
        None,
    ),
    "readme not utf-8": (file("README.md", b"---\nlicense: \xff\xfe\n---\n"), None),
    "pickles beside": (linked("pytorch_model.bin", "/dev/zero"), None),
    "trainer's files beside": (
        all_of(linked("training_args.bin", "/dev/zero"), file("trainer_state.json", "{}")),
        None,
    ),
    "names of other scripts beside": (file("\u202eтест 模型.txt", "x"), None),
    "not a number": (config(rms_norm_eps=float("nan")), "rms_norm_eps"),
    "infinity": (config(rope_theta=float("inf")), "rope_theta"),
    "huge number": (config(hidden_size=10**30), "hidden_size"),
    "number of 5,000 digits": (
        config_text(lambda text: text[:-1] + ', "x": ' + "9" * 5000 + "}"),
        "config.json",
    ),
    "size below 0": (config(num_hidden_layers=-2), "num_hidden_layers"),
    "size of text": (config(hidden_size="32"), "hidden_size"),
    "size true": (config(num_hidden_layers=True), "num_hidden_layers"),
    "a million layers": (config(num_hidden_layers=10**6), "num_hidden_layers"),
    "key twice": (config_text(lambda text: text[:-1] + ', "vocab_size": 272}'), "stands there twice"),
    "list": (config_text(lambda text: f"[{text}]"), "holds no JSON object"),
    "empty": (config_text(lambda text: ""), "config.json"),
    "cut": (config_text(lambda text: text[:-20]), "config.json"),
    "utf-16": (config_text(lambda text: text.encode("utf-16")), "not UTF-8"),
    "deep": (
        config_text(lambda text: text[:-1] + ', "x": ' + "[" * 200_000 + "]" * 200_000 + "}"),
        "config.json",
    ),
    "NUL inside": (config_text(lambda text: text.replace("{", "{\0", 1)), "config.json"),
    "comment": (config_text(lambda text: "// mine\n" + text), "config.json"),
    "half a surrogate pair": (config(model_type="\ud800"), "model_type"),
    "escapes in a name": (config(model_type="\x1b[31mllama\u202e"), "model_type"),
    "model_type of a list": (config(model_type=["llama"]), "model_type"),
    "model_type a path": (config(model_type="../../etc/passwd"), "model_type"),
    "nested text_config": (
        config(model_type="gemma3", text_config=dict(TINY_LLAMA), vision_config={}),
        "sees or hears",
    ),
    "quantized": (config(quantization_config=_QUANTIZED), "already quantized (gptq)"),
    "rope unknown": (config(rope_scaling={"type": "spiral", "factor": 2}), "rope_scaling"),
    "rope huge": (config(rope_scaling={"type": "linear", "factor": 1e300}), "rope_scaling"),
    "rope of a list": (config(rope_scaling=[1, 2]), "rope_scaling"),
    "heads that don't divide": (config(num_attention_heads=5, num_key_value_heads=5), "num_attention_heads"),
    "config is a folder": (
        all_of(removed("config.json"), lambda folder: (folder.path / "config.json").mkdir()),
        "is no regular file",
    ),
    "config is a device": (linked("config.json", "/dev/zero"), "outside the model's folder"),
    "config links to itself": (linked("config.json", "config.json"), "config.json"),
    "config is a pipe": (
        all_of(removed("config.json"), lambda folder: os.mkfifo(folder.path / "config.json")),
        "is no regular file",
    ),
    "generation config broken": (file("generation_config.json", "{"), "generation_config.json"),
}

WEIGHTS: Odd = {
    "half numbers": (stored_as("F16"), None),
    "bfloat16": (stored_as("BF16"), None),
    "double numbers": (one_number(0.5, np.float64), None),
    "metadata": (
        header(lambda said: said.update(__metadata__={"format": "pt", "note": "\u202e\x1b[2J" * 50})),
        None,
    ),
    "metadata empty": (header(lambda said: said.update(__metadata__={})), None),
    "spaces behind the header": (raw_header(lambda text: text + b" " * 5000), None),
    "header in another order": (
        header(lambda said: [said.update({key: said.pop(key)}) for key in sorted(said, reverse=True)]),
        None,
    ),
    "old buffers": (weights(lambda tensors: tensors.update({_BUFFER: np.ones(4, np.float32)})), None),
    "empty buffer": (weights(lambda tensors: tensors.update({_BUFFER: np.ones(0, np.float32)})), None),
    "tied, head written too": (
        lambda folder: (
            weights(lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"]}))(
                folder
            ),
            folder.write_config(tie_word_embeddings=True),
        )[0],
        None,
    ),
    "sharded": (sharded(), None),
    "sharded, no metadata": (sharded(lambda index: index.pop("metadata")), None),
    "sharded, size told wrong": (sharded(lambda index: index.update(metadata={"total_size": 1e30})), None),
    "sharded beside one whole file": (
        lambda folder: (sharded()(folder), folder.write_weights())[0],
        None,
    ),
    "shards are links": (
        all_of(
            sharded(),
            lambda folder: (
                [
                    (path.rename(path.with_suffix(".real")), path.symlink_to(path.with_suffix(".real").name))
                    for path in folder.path.glob("model-*.safetensors")
                ]
                and None
            ),
        ),
        None,
    ),
    "largest numbers": (one_number(6e4, np.float16), None),
    "numbers below all others": (one_number(1e-45), None),
    "one NaN": (one_number(float("nan")), "model.layers.1.mlp.up_proj.weight"),
    "one infinity": (one_number(float("inf"), np.float16), "model.layers.1.mlp.up_proj.weight"),
    "one NaN in F64": (one_number(float("nan"), np.float64), "model.layers.1.mlp.up_proj.weight"),
    "one NaN in BF16": (
        all_of(
            weights(
                lambda tensors: (
                    tensors.update({k: np.zeros(t.shape, np.uint16) for k, t in tensors.items()}),
                    tensors["model.norm.weight"].put(3, _BF16_NAN),
                )
            ),
            header(lambda said: [entry.update(dtype="BF16") for entry in said.values()]),
        ),
        "model.norm.weight",
    ),
    "eight-bit integers": (
        weights(lambda tensors: tensors.update({k: t.astype(np.int8) for k, t in tensors.items()})),
        "stored as I8",
    ),
    "eight-bit floats": (
        all_of(
            weights(lambda tensors: tensors.update({k: t.astype(np.uint8) for k, t in tensors.items()})),
            header(lambda said: [entry.update(dtype="F8_E4M3") for entry in said.values()]),
        ),
        "stored as F8_E4M3",
    ),
    "type unknown": (header(lambda said: _first(said).update(dtype="F3")), "dtype"),
    "extra tensor": (weights(lambda tensors: tensors.update({"evil": np.ones(2, np.float32)})), "evil"),
    "tensor without numbers": (
        weights(lambda tensors: tensors.update({"evil": np.ones(0, np.float32)})),
        "evil",
    ),
    "tensor missing": (weights(lambda tensors: tensors.pop("model.norm.weight")), "model.norm.weight"),
    "tied, another head": (
        lambda folder: (folder.write_weights(), folder.write_config(tie_word_embeddings=True))[0],
        None,
    ),
    "head missing": (weights(lambda tensors: tensors.pop("lm_head.weight")), "lm_head.weight"),
    "tensor reshaped": (
        weights(
            lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"].reshape(2, 16)})
        ),
        "model.norm.weight",
    ),
    "tensor in two": (header(lambda said: said.update(a=_first(said), b=_first(said))), "overlaps"),
    "gap": (header(lambda said: said.pop(next(iter(said)))), "gap"),
    "bytes behind": (header(lambda said: None, more=b"\0" * 64), "beyond the end"),
    "offsets turned round": (header(lambda said: _first(said)["data_offsets"].reverse()), "data_offsets"),
    "offsets below 0": (header(lambda said: _first(said).update(data_offsets=[-4, 0])), "data_offsets"),
    "offsets with a point": (
        header(lambda said: _first(said).update(data_offsets=[0.0, 4.0])),
        "data_offsets",
    ),
    "shape that overflows": (header(lambda said: _first(said).update(shape=[2**62, 2**62])), "shape"),
    "shape of 1,000 sizes": (header(lambda said: _first(said).update(shape=[1] * 1000)), "shape"),
    "another key": (header(lambda said: _first(said).update(code="x")), "nothing else"),
    "metadata of numbers": (header(lambda said: said.update(__metadata__={"a": 1})), "__metadata__"),
    "name of escapes": (
        weights(lambda tensors: tensors.update({"\x1b]0;owned\x07\u202e": np.ones(2, np.float32)})),
        "has no place",
    ),
    "name of a million letters": (
        weights(lambda tensors: tensors.update({"x" * 10**6: np.ones(2, np.float32)})),
        "has no place",
    ),
    "name twice": (raw_header(lambda text: text[:-1] + b"," + text[1:]), "stands there twice"),
    "header not utf-8": (raw_header(lambda text: text.replace(b"model.norm", b"model.\xff\xffrm")), "UTF-8"),
    "header a list": (raw_header(lambda text: b"[" + text + b"]"), "holds no JSON object"),
    "header deep": (raw_header(lambda text: b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}"), SINGLE),
    "header of exabytes": (raw_header(lambda text: text, length=2**63), "no safetensors header"),
    "header longer than the file": (raw_header(lambda text: text, length=10**7), "cut short"),
    "header of nothing": (raw_header(lambda text: text, length=0), "no safetensors header"),
    "no bytes": (file(SINGLE, b""), "cut short"),
    "seven bytes": (file(SINGLE, b"\1\0\0\0\0\0\0"), "cut short"),
    "git lfs": (file(SINGLE, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "only a pointer"),
    "a web page": (file(SINGLE, "<!DOCTYPE html><title>404</title>"), SINGLE),
    "a pickle by that name": (file(SINGLE, b"\x80\x04cos\nsystem\n(S'id'\ntR."), SINGLE),
    "a zip by that name": (file(SINGLE, b"PK\3\4" + bytes(60)), SINGLE),
    "a device": (linked(SINGLE, "/dev/zero"), "outside the model's folder"),
    "a link out": (linked(SINGLE, "../outside.safetensors"), SINGLE),
    "cut": (
        lambda folder: os.truncate(folder.path / SINGLE, (folder.path / SINGLE).stat().st_size - 1),
        "cut short",
    ),
    "pickles alone": (all_of(removed(SINGLE), file("pytorch_model.bin", b"\x80\x04.")), "Only safetensors"),
    "gguf alone": (all_of(removed(SINGLE), file("model.gguf", b"GGUF")), "GGUF"),
    "index out of the folder": (
        sharded(lambda index: index["weight_map"].update(evil="../../etc/passwd.safetensors")),
        "not a safetensors file of this folder",
    ),
    "index absolute": (
        sharded(lambda index: index["weight_map"].update(evil="/etc/passwd.safetensors")),
        "not a safetensors file of this folder",
    ),
    "index to a pickle": (
        sharded(lambda index: index["weight_map"].update(evil="pytorch_model.bin")),
        "not a safetensors file of this folder",
    ),
    "index to no file": (
        sharded(lambda index: index["weight_map"].update(evil="model-3.safetensors")),
        "model-3.safetensors is missing",
    ),
    "index names too much": (
        sharded(lambda index: index["weight_map"].update(evil="model-00001-of-00002.safetensors")),
        "evil",
    ),
    "index names too little": (
        sharded(lambda index: index["weight_map"].pop("model.norm.weight")),
        "model.norm.weight",
    ),
    "index of numbers": (sharded(lambda index: index.update(weight_map={"a": 1})), "weight_map"),
    "index empty": (sharded(lambda index: index.update(weight_map={})), "weight_map"),
    "index a list": (sharded(lambda index: index.update(weight_map=[])), "weight_map"),
}
