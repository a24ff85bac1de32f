"""What a run may train on: the door that every foreign adapter goes through, and what it brings with it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qlora_studio.errors import StudioError
from qlora_studio.memory.parts import adapter_parameters
from qlora_studio.models.shapes import model_shape
from qlora_studio.protocol import reading
from qlora_studio.runs.folder import create_run, open_run
from qlora_studio.runs.run_record import Hashes, RunRecord
from qlora_studio.runs.start import START_FILE
from tests.reader.test_run_jobs import prepare, refusal, settings
from tests.reader.whole_model import CONFIG, chats_file

SAID = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none"}
HIDDEN, INNER = CONFIG["hidden_size"], CONFIG["intermediate_size"]


def adapter(folder: Path, ranks: dict[int, int] | None = None, **said) -> Path:
    """Rank 4 on `down_proj` of both layers, or the ranks of these layers."""
    folder.mkdir(parents=True)
    tensors = {}
    for layer, r in (ranks or {0: 4, 1: 4}).items():
        name = f"base_model.model.model.layers.{layer}.mlp.down_proj"
        tensors[f"{name}.lora_A.weight"] = np.full((r, INNER), 0.5, np.float32)
        tensors[f"{name}.lora_B.weight"] = np.full((HIDDEN, r), 0.25, np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(SAID | said))
    return folder


def checked(jobs, config):
    return jobs.answer(reading.CheckStart(id=1, config=config))


def test_rank_alpha_layers_and_kind_are_the_adapters_own(jobs, model, tmp_path):
    start = adapter(tmp_path / "foreign", use_rslora=True)
    config = settings(model, tmp_path / "x.jsonl", lora__start_from=str(start), lora__dropout=0.1)

    found = checked(jobs, config)

    assert (found.lora.r, found.lora.alpha, found.lora.target_modules) == (4, 8, ("down_proj",))
    assert (found.lora.use_rslora, found.lora.use_dora, found.lora.dropout) == (True, False, 0.1)
    assert found.words == "rank 4, alpha 8, down_proj, rsLoRA"
    assert adapter_parameters(model_shape(str(model)), found.lora) == 2 * 4 * (HIDDEN + INNER)


@pytest.mark.parametrize(
    ("ranks", "said", "layers", "own_ranks", "own_alphas"),
    [
        ({0: 4}, {}, "0", {}, {}),
        ({1: 4}, {"alpha_pattern": {"down_proj": 16}}, "1", {}, {}),
        (
            {0: 4, 1: 2},
            {
                "rank_pattern": {"layers.1.mlp.down_proj": 2},
                "alpha_pattern": {"^model.layers.0.mlp.down_proj$": 3},
            },
            "all",
            {"1.mlp.down_proj": 2},
            {"0.mlp.down_proj": 3},
        ),
    ],
)
def test_layers_and_ranks_of_its_own_are_taken_over(
    jobs, model, tmp_path, ranks, said, layers, own_ranks, own_alphas
):
    start = adapter(tmp_path / "foreign", ranks, **said)

    lora = checked(jobs, settings(model, "x", lora__start_from=str(start))).lora

    assert (lora.layers, lora.ranks) == (layers, own_ranks)
    counted = adapter_parameters(model_shape(str(model)), lora)
    assert counted == sum(r * (HIDDEN + INNER) for r in ranks.values())
    if own_alphas:
        assert lora.alphas == own_alphas


def test_the_run_keeps_the_weights_and_says_what_it_starts_from(jobs, model, tmp_path):
    start = adapter(tmp_path / "foreign")
    weights = (start / "adapter_model.safetensors").read_bytes()
    config = settings(model, chats_file(tmp_path / "chats.jsonl"), lora__start_from=str(start))

    made = prepare(jobs, tmp_path, config)
    shutil.rmtree(start)

    record = open_run(Path(made.run)).record
    assert (Path(made.run) / START_FILE).read_bytes() == weights
    assert len(record.hashes.start) == 64
    assert (record.config.lora.r, record.config.lora.start_from) == (4, str(start))
    assert f"It trains on the adapter in {start}, which brings rank 4, alpha 8, down_proj." in made.notes
    assert jobs.answer(reading.CheckResume(id=2, run=made.run)).step == 0


def not_finite(folder):
    file = folder / "adapter_model.safetensors"
    save_file({name: tensor * np.nan for name, tensor in load_file(file).items()}, file)


def other_base(folder):
    file = folder / "adapter_model.safetensors"
    save_file({name: np.ones((9, 9), np.float32) for name in load_file(file)}, file)


def no_weights(folder):
    (folder / "adapter_model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (not_finite, "holds numbers that are not finite"),
        (other_base, "rank 9 on this base makes it"),
        (no_weights, "adapter_model.safetensors is missing"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_a_bad_adapter_is_named_before_anything_is_read(jobs, model, tmp_path, spoil, reason):
    start = adapter(tmp_path / "foreign")
    spoil(start)
    config = settings(model, tmp_path / "missing.jsonl", lora__start_from=str(start))

    refused = refusal(jobs, reading.PrepareRun(id=1, config=config, name="", runs_dir=str(tmp_path / "runs")))

    assert str(start) in refused.message and reason in refused.message
    assert refused.hint
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("ranks", "said", "reason"),
    [
        (None, {"lora_alpha": 8.5}, "a lora_alpha of 8.5 stands in it"),
        (None, {"alpha_pattern": {"down_proj": 2.5}}, "a lora_alpha of 8 stands in it"),
        ({0: 600, 1: 600}, {"r": 600}, "r is 600; it must be between 1 and 512"),
        (None, {"init_lora_weights": "pissa"}, "trained on changed base weights"),
    ],
)
def test_what_no_settings_can_say_is_refused_with_a_way_on(jobs, model, tmp_path, ranks, said, reason):
    start = adapter(tmp_path / "foreign", ranks, **said)

    refused = refusal(
        jobs, reading.CheckStart(id=1, config=settings(model, "x", lora__start_from=str(start)))
    )

    assert str(start) in refused.message and reason in refused.message
    assert refused.hint


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_methods_that_compare_with_the_base_are_refused(jobs, model, tmp_path, method):
    start = adapter(tmp_path / "foreign")
    config = settings(model, "x", lora__start_from=str(start), training__method=method)
    assert (
        f"{method.upper()} compares with the base"
        in refusal(jobs, reading.CheckStart(id=1, config=config)).message
    )
    assert checked(jobs, settings(model, "x", lora__start_from=str(start), training__method="orpo"))


def test_a_run_stands_for_its_adapter_and_must_be_of_the_same_base(jobs, model, tmp_path):
    data = chats_file(tmp_path / "chats.jsonl")
    own, other = (
        create_run(
            tmp_path / "before",
            RunRecord(
                name=name,
                created=1_795_000_000.0,
                config=settings(model, data),
                model_name="Other-7B",
                hashes=Hashes(model=digest),
            ),
        )
        for name, digest in (("own", ""), ("other", "0" * 64))
    )
    refused = refusal(jobs, reading.CheckStart(id=1, config=settings(model, data, lora__start_from=str(own))))
    assert "neither an adapter nor a sound checkpoint" in refused.message
    for run in (own, other):
        adapter(run / "adapter")

    for named in (own, own / "adapter"):
        made = prepare(jobs, tmp_path, settings(model, data, lora__start_from=str(named)))
        assert open_run(Path(made.run)).record.config.lora.r == 4
    for named in (other, other / "adapter"):
        with pytest.raises(StudioError) as raised:
            prepare(jobs, tmp_path, settings(model, data, lora__start_from=str(named)))
        assert "was trained on Other-7B, and not on these weights" in raised.value.message


def test_a_run_that_trained_all_weights_has_no_adapter_to_go_on_from(jobs, model, tmp_path):
    data = chats_file(tmp_path / "chats.jsonl")
    full = settings(model, data, training__finetuning="full", model__quantization="none")
    run = create_run(tmp_path / "before", RunRecord(name="full", created=1_795_000_000.0, config=full))
    config = settings(model, data, lora__start_from=str(run))
    refused = refusal(jobs, reading.CheckStart(id=1, config=config))
    assert "trained all weights and has no adapter" in refused.message
    assert str(run / "model") in refused.hint


def test_an_adapter_that_makes_up_for_4_bits_goes_on_with_the_same_4_bits(jobs, model, tmp_path):  # LoftQ
    data = chats_file(tmp_path / "chats.jsonl")
    config = settings(model, data, lora__init="loftq")
    run = create_run(tmp_path / "before", RunRecord(name="own", created=1_795_000_000.0, config=config))
    adapter(run / "adapter")
    assert prepare(jobs, tmp_path, settings(model, data, lora__start_from=str(run)))
    for changes in ({"model__quantization": "none"}, {"model__double_quant": False}):
        with pytest.raises(StudioError, match="makes up for what nf4 with double quantization loses"):
            prepare(jobs, tmp_path, settings(model, data, lora__start_from=str(run), **changes))
