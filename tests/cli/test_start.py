"""A run in the terminal that trains on the adapter of another, named as that run is called."""

import json

import pytest

from qlora_studio.cli.main import parse, run_command
from qlora_studio.config.run_config import RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.errors import StudioError
from qlora_studio.models.shapes import known_shape
from qlora_studio.protocol.sweep_plan import new_sweep
from qlora_studio.runs.folder import open_run
from tests.cli.test_sweep import SETTINGS
from tests.reader.whole_model import chats_file, whole_model


def command(*words: str) -> int:
    return run_command(parse(words))


@pytest.mark.slow
def test_a_run_is_trained_on_by_its_name_and_estimated_with_its_shape(tmp_path, monkeypatch, capsys):
    whole_model(tmp_path / "tiny")
    chats_file(tmp_path / "chats.jsonl")
    (tmp_path / "my.toml").write_text(SETTINGS, "utf-8")
    monkeypatch.chdir(tmp_path)
    assert command("train", "my.toml", "--name", "first one", "--set", "lora.r=4", "--json") == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])["run"]

    start = ("--set", "lora.start_from=first one", "--json")
    assert command("train", "my.toml", *start) == 0
    following = json.loads(capsys.readouterr().out.splitlines()[-1])["run"]
    estimates = []
    for chosen in (start, ("--set", "lora.r=4", "--json"), ("--json",)):
        assert command("estimate", "my.toml", *chosen) == 0
        estimates.append(json.loads(capsys.readouterr().out)["parts"]["adapter"])

    lora = open_run(tmp_path / following).record.config.lora
    assert (lora.r, lora.start_from) == (4, first)
    assert estimates[0] == estimates[1] < estimates[2]


@pytest.mark.parametrize(
    "asked", [{"over": "ranks"}, {"over": "layers"}, {"vary": "lora.use_dora=true,false"}]
)
def test_what_the_adapter_brings_is_not_compared(tmp_path, asked):
    config = with_changes(RunConfig(), {"lora.start_from": "/runs/first"})
    with pytest.raises(StudioError, match=r"the adapter in lora\.start_from brings its own"):
        new_sweep(config, known_shape("smollm2-135m"), runs_dir=tmp_path, **asked)
    assert new_sweep(config, known_shape("smollm2-135m"), runs_dir=tmp_path, over="precision").points
