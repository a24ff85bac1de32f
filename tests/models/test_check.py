"""What a person hears when choosing a model folder, sound or not."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from qlora_studio.errors import StudioError
from qlora_studio.models.check import check_model, model_name


def refusal(path) -> StudioError:
    with pytest.raises(StudioError) as caught:
        check_model(str(path))
    assert caught.value.hint
    return caught.value


def test_a_sound_model_is_described(llama):
    (llama.path / "chat_template.jinja").write_text("{{ messages }}")
    (llama.path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny")

    report = check_model(str(llama.path))

    assert (report.name, report.family, report.tensors) == ("tiny-llama", "llama", 21)
    assert (
        report.parameters
        == report.shape.parameters
        == sum(tensor.size for tensor in llama.tensors().values())
    )
    assert report.bytes == 4 * report.parameters
    assert report.template_sha256 == hashlib.sha256(b"{{ messages }}").hexdigest()
    assert report.licence == "apache-2.0"
    assert report.target_modules == (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    assert report.warnings == ()


def test_progress_is_told_to_the_end(llama):
    told = []
    check_model(str(llama.path), lambda done, total, words: told.append((done, total)))
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_model_without_a_template_is_sound_and_says_so(llama):
    report = check_model(str(llama.path))
    assert not report.has_template
    assert report.template_sha256 is None
    assert report.warnings == ("It has no chat template; a plain one is used for chats.",)


@pytest.mark.parametrize(
    "said", ["{{ a }}", [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ a }}"}]]
)
def test_a_template_in_the_tokenizers_config_is_found(llama, said):
    (llama.path / "tokenizer_config.json").write_text(json.dumps({"chat_template": said}))
    assert check_model(str(llama.path)).template_sha256 == hashlib.sha256(b"{{ a }}").hexdigest()


def test_a_template_over_64_kb_is_refused(llama):  # S6
    (llama.path / "chat_template.jinja").write_text("x" * (64 * 1024 + 1))
    with pytest.raises(StudioError, match=r"chat_template\.jinja is longer than 65,536 bytes"):
        check_model(str(llama.path))


@pytest.mark.fault(23)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.pkl"])
def test_pickle_weights_are_refused_by_name_and_not_opened(llama, name):  # S1, fault 23
    (llama.path / "model.safetensors").unlink()
    (llama.path / name).symlink_to("/dev/zero")  # reading it would never end
    error = refusal(llama.path)
    assert "Only safetensors files are read; this folder has ." in error.message
    assert "which can run code" in error.message
    assert error.hint == "Look for a safetensors version."


def test_pickles_beside_safetensors_do_no_harm(llama):
    (llama.path / "pytorch_model.bin").symlink_to("/dev/zero")
    assert check_model(str(llama.path)).family == "llama"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "holds no weights"),
        (["model.gguf"], "GGUF"),
        (["adapter_model.safetensors", "adapter_config.json"], "holds an adapter, not a model"),
    ],
)
def test_a_folder_without_weights_says_what_it_is_instead(tmp_path, files, words):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}")
    assert words in refusal(folder).message


def test_weights_cut_short_are_named(llama):
    weights = llama.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    error = refusal(llama.path)
    assert "model.safetensors is cut short" in error.message
    assert "fetch it again" in error.hint


@pytest.mark.parametrize("name", ["absent", "file"])
def test_what_is_no_folder_is_told_so(tmp_path, name):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / name) in refusal(tmp_path / name).message


def test_a_folder_without_a_tokenizer_is_refused(llama):
    (llama.path / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in refusal(llama.path).message


def test_a_tokenizer_with_more_ids_than_the_embedding_is_refused(llama):  # S4
    llama.write_tokenizer(highest_id=100)
    assert "token id 100; the model's embedding has 100 rows" in refusal(llama.path).message


def add_token(llama, id: int, content: str) -> None:
    tokenizer = json.loads((llama.path / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [{"id": id, "content": content, "special": True}]
    (llama.path / "tokenizer.json").write_text(json.dumps(tokenizer))


def test_an_added_token_that_the_template_writes_needs_a_row(llama):  # S4
    add_token(llama, 500, "<x>")
    (llama.path / "chat_template.jinja").write_text("<x>{{ messages }}")
    assert "token id 500" in refusal(llama.path).message


def test_an_added_token_that_ends_replies_needs_a_row(llama):  # S4
    add_token(llama, 100, "<x>")
    (llama.path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<x>"}}')
    assert "token id 100" in refusal(llama.path).message


def test_an_added_token_beyond_the_embedding_that_no_chat_needs_is_left_out(llama):
    add_token(llama, 100, "<image_soft_token>")
    assert any("'<image_soft_token>'" in warning for warning in check_model(str(llama.path)).warnings)


def test_a_broken_tokenizer_is_named(llama):
    (llama.path / "tokenizer.json").write_text("{")
    with pytest.raises(StudioError, match=r"tokenizer\.json is not a tokenizer"):
        check_model(str(llama.path))


def test_a_model_without_an_end_token_is_refused(llama):  # S4
    llama.write_config(eos_token_id=None)
    (llama.path / "tokenizer_config.json").write_text("{}")
    assert "no end token" in refusal(llama.path).message


def test_sizes_that_do_not_go_together_name_the_config(llama):
    llama.write_config(num_key_value_heads=3)
    with pytest.raises(StudioError, match=r"config\.json: num_attention_heads 4"):
        check_model(str(llama.path))


def test_the_sample_model_before_its_first_use_says_how_it_is_made():
    assert "prepared on first use" in refusal("sample").hint


def test_a_model_in_a_hub_cache_is_called_by_its_repository(tmp_path):
    assert model_name(tmp_path / "models--org--Tiny-1B" / "snapshots" / "0a1b") == "Tiny-1B"


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("README.md", "---\nlicense: other\nlicense_name: 'qwen-research'\n---\n", "qwen-research"),
        ("README.md", "# no front matter\nlicense: mit", None),
        ("README.md", "---\nlicense: a\x1b[31mb\n---\n", "a[31mb"),
        ("LICENSE", "\n                  Apache License\n  Version 2.0", "apache-2.0"),
        ("LICENSE.txt", "Own terms\nmore", "Own terms"),
    ],
)
def test_the_licence_is_a_short_plain_text(llama, name, text, licence):
    (llama.path / name).write_text(text)
    assert check_model(str(llama.path)).licence == licence


def test_checking_loads_neither_torch_nor_numpy(llama):
    code = (
        "import sys; from qlora_studio.models.check import check_model; check_model(sys.argv[1]);"
        "print({'torch', 'numpy', 'transformers', 'PySide6'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(llama.path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "set()"
