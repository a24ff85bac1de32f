"""Full finetuning: all weights learn, are saved whole, go on bit for bit, and leave a plain model folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from qlora_studio.engine.adapters import NonFiniteError
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.learned_loss import Head
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.trained_weights import AllWeights
from qlora_studio.engine.wish import Wish
from qlora_studio.errors import StudioError
from qlora_studio.protocol.events import RunFailed, RunFinished, RunStarted, StepFinished
from qlora_studio.runs.checkpoints import checkpoints
from qlora_studio.runs.folder import open_run
from qlora_studio.runs.metrics import read_metrics
from qlora_studio.runs.run_record import RECORD_FILE
from qlora_studio.runs.space import SPARE_BYTES
from tests.engine.tiny import CPU, events_of, loaded, losses, make_model, make_rows, make_run, of_kind

FULL: dict[str, Any] = {
    "training__finetuning": "full",
    "model__quantization": "none",
    "training__learning_rate": 1e-3,
}
RESTLESS: dict[str, Any] = {
    **FULL,
    "training__steps": 6,
    "training__schedule": "cosine",
    "training__warmup_steps": 2,
    "training__neftune_alpha": 5.0,
    "training__weight_decay": 0.1,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_every_weight_learns(tmp_path: Path, family: str) -> None:
    model = make_model(tmp_path / "model", family)
    run = make_run(tmp_path, model, **FULL, training__steps=12)
    told = losses(events_of(run))
    assert told[-1] < told[0]
    before, after = load_file(model / "model.safetensors"), load_file(run / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    same = [name for name, weight in before.items() if torch.equal(weight.to(after[name].dtype), after[name])]
    assert same == []


def test_the_first_step_is_that_of_plain_torch(tmp_path: Path, model: Path) -> None:
    """One packed batch, AdamW by hand on transformers' own model."""
    rows = make_rows(1)
    run = make_run(
        tmp_path, model, rows, [], **FULL, training__steps=1, training__batch_size=1,
        training__gradient_accumulation=1, training__max_grad_norm=0.0,
    )  # fmt: skip
    events_of(run)

    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0)
    ids, weights = torch.tensor(rows[0].ids[None]).long(), torch.tensor(rows[0].weights)
    logits = plain(ids).logits[0, :-1]
    nats = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none") * weights[1:]
    (nats.sum() / weights[1:].sum()).backward()
    optimizer.step()

    ours = load_file(run / "checkpoints" / "step-000001" / "model.safetensors")
    for name, weight in plain.named_parameters():
        moved = ours[name] - load_file(model / "model.safetensors")[name]
        wanted = weight.detach() - load_file(model / "model.safetensors")[name]
        # Where a gradient is nearly 0, Adam's first step is its sign: rounding decides.
        alike = ((moved - wanted).abs() < 1e-5).float().mean()
        assert alike > 0.99, name


@pytest.mark.parametrize(
    ("wish", "dtype"),
    [(Wish.PAUSE, "float32"), (Wish.STOP, "float32"), (Wish.PAUSE, "bfloat16"), (Wish.PAUSE, "float16")],
)
def test_a_run_that_went_on_equals_one_that_never_stopped(
    tmp_path: Path, model: Path, wish: Wish, dtype: str
) -> None:
    unbroken = make_run(tmp_path, model, **RESTLESS, model__compute_dtype=dtype)
    broken = make_run(tmp_path, model, **RESTLESS, model__compute_dtype=dtype)
    events_of(unbroken)

    events_of(broken, wish, after_step=3)
    assert of_kind(events_of(broken), RunStarted)[0].step == 3

    of_both = [read_metrics(run / "metrics.jsonl").loss.tolist() for run in (unbroken, broken)]
    assert of_both[0] == of_both[1]
    newest = [checkpoints(run, verify=True)[-1] for run in (unbroken, broken)]
    assert all(info.sound and info.step == 6 for info in newest)
    for file in ("model.safetensors", "optimizer.safetensors"):
        one, other = (load_file(info.path / file) for info in newest)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), file
    one, other = (load_file(run / "model" / "model.safetensors") for run in (unbroken, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_in_16_bit_updates_smaller_than_its_steps_are_not_lost(tmp_path: Path, model: Path) -> None:
    tiny = {**FULL, "training__learning_rate": 1e-6, "training__steps": 3, "model__compute_dtype": "bfloat16"}
    run = make_run(tmp_path, model, **tiny)
    events_of(run)
    before = load_file(model / "model.safetensors")
    after = load_file(run / "checkpoints" / "step-000003" / "model.safetensors")
    assert all(weight.dtype == torch.float32 for weight in after.values())
    moved = [not torch.equal(before[name].bfloat16().float(), after[name]) for name in before]
    assert all(moved)


def test_its_end_is_a_model_and_no_adapter(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path, model, **FULL, training__steps=2)
    end = of_kind(events_of(run), RunFinished)[0]
    assert (end.adapter, end.model) == (None, str(run / "model"))
    opened = open_run(run)
    assert (opened.adapter, opened.model) == (None, run / "model")
    assert (run / "model" / "tokenizer.json").is_file()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_plain_transformers_reads_the_model_as_we_do(tmp_path: Path, family: str) -> None:
    base = make_model(tmp_path / "model", family)
    run = make_run(tmp_path, base, **FULL, training__steps=1)
    events_of(run)
    ids = torch.tensor([list(range(10, 25))])
    storage = Storage("none", False, torch.float32)
    ours = loaded(load_base(str(run / "model"), storage, CPU)).causal_lm
    theirs, before = (
        AutoModelForCausalLM.from_pretrained(at, dtype=torch.float32) for at in (run / "model", base)
    )
    with torch.no_grad():
        hidden = ours.base_model(ids, use_cache=False).last_hidden_state
        assert torch.allclose(Head.of(ours).logits(hidden), theirs(ids).logits, atol=1e-5)
        assert not torch.allclose(theirs(ids).logits, before(ids).logits, atol=1e-2)


def test_the_trained_base_is_not_left_for_a_chat(tmp_path: Path, model: Path) -> None:
    holder = ModelHolder(CPU)
    events_of(make_run(tmp_path, model, **FULL, training__steps=1), holder=holder)
    assert holder.held is None


def test_weights_in_4_bit_are_refused_in_words(tmp_path: Path, model: Path) -> None:
    with pytest.raises(StudioError, match="nf4 weights can't be trained"):
        make_run(tmp_path, model, training__finetuning="full")


def test_what_is_held_is_counted(tmp_path: Path, model: Path) -> None:
    """Weights, gradients and two moments in fp32; in 16 bit the fp32 weights beside."""
    size = sum(weight.nbytes for weight in load_file(model / "model.safetensors").values())
    for dtype, weights, trained in (("float32", size, size), ("bfloat16", size // 2, 2 * size)):
        run = make_run(tmp_path, model, **FULL, training__steps=1, model__compute_dtype=dtype)
        held = of_kind(events_of(run), StepFinished)[0].memory
        assert held["weights"] == pytest.approx(weights, rel=0.01)
        assert held["adapter"] == trained
        assert held["optimizer"] == pytest.approx(2 * size, rel=0.01)


def test_out_of_memory_names_what_would_take_less(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("qlora_studio.engine.objective.learned_loss", no_room)
    holder = ModelHolder(CPU)
    run = make_run(tmp_path, model, **FULL, training__steps=1, training__gradient_accumulation=1)
    failed = of_kind(events_of(run, holder=holder), RunFailed)[0]
    assert failed.cause == "out_of_memory"
    assert "an adapter in place of all weights" in failed.error.hint
    assert "rank" not in failed.error.hint
    assert holder.held is None


def test_weights_that_are_no_numbers_are_named_as_what_was_trained(tmp_path: Path, model: Path) -> None:
    weights = AllWeights(loaded(load_base(str(model), Storage("none", False, torch.float32), CPU)))
    next(iter(weights.parameters.values())).data[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"^The trained .*weight is no longer finite"):
        weights.save(tmp_path)


def test_a_paused_run_needs_no_room_again_for_the_checkpoints_it_has(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # R9
    run = make_run(tmp_path, model, **FULL, training__steps=6, checkpoints__every_steps=1)
    events_of(run, Wish.PAUSE, after_step=3)
    one = sum(file.stat().st_size for file in checkpoints(run)[-1].path.iterdir())
    monkeypatch.setattr("qlora_studio.runs.space.free_bytes", lambda folder: SPARE_BYTES + 3 * one // 2)
    assert of_kind(events_of(run), RunFinished)[0].step == 6


def test_a_record_that_names_all_weights_and_an_adapter_is_refused_by_name(
    tmp_path: Path, model: Path
) -> None:  # run folders come from strangers
    for old, new, reason in (
        (b'"start": ""', b'"start": "' + 64 * b"0" + b'"', "names an adapter"),
        (b'"method": "sft"', b'"method": "dpo"', "compares with the model as it was"),
    ):
        run = make_run(tmp_path, model, **FULL, training__steps=1)
        record = (run / RECORD_FILE).read_bytes()
        assert old in record
        (run / RECORD_FILE).write_bytes(record.replace(old, new))
        failed = of_kind(events_of(run), RunFailed)[0]
        assert reason in failed.error.message
        assert RECORD_FILE in failed.error.message
