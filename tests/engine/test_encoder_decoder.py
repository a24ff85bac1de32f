"""An encoder-decoder on the device: against transformers alone, trained, resumed, evaluated, exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from qlora_kernels.replacement import disable_cpu_repacking
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, BitsAndBytesConfig

from qlora_studio.config.run_config import LoraConfig
from qlora_studio.data.packing import collate
from qlora_studio.data.prepared import EncodedSample
from qlora_studio.data.tokenized_row import RowsInMemory, TokenizedRow
from qlora_studio.engine.adapter_evaluation import evaluate_adapter
from qlora_studio.engine.adapters import AdaptedModel, decoder_layers
from qlora_studio.engine.exporting import export
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.generation import Chat
from qlora_studio.engine.greedy import continue_greedily, continue_together
from qlora_studio.engine.layer_setup import recompute
from qlora_studio.engine.learned_loss import learned_loss, learned_losses
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.packed_batch import on_device
from qlora_studio.engine.wish import Wish
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Evaluate, Export, Generate, LoadModel, Sampling
from qlora_studio.protocol.events import (
    EvaluationFinished,
    ExportFinished,
    GenerationFinished,
    RunFailed,
    RunFinished,
    SampleReady,
)
from qlora_studio.runs.run_record import read_record
from tests.engine.tiny import CPU, events_of, loaded, losses, make_run, of_kind
from tests.reader.whole_t5 import END, PAD, whole_t5

FLAN: dict[str, Any] = {}
FIRST_T5 = {"feed_forward_proj": "relu", "tie_word_embeddings": True, "num_decoder_layers": 3}
IN_BLOCKS = {"d_model": 64, "d_kv": 16, "d_ff": 128}  # on a CPU bitsandbytes' own NF4 needs blocks in rows
PROMPTS = ((7, 8, 9, 10, END, PAD), (40, 41, END, PAD), (100, 7, 7, 7, 7, 7, END, PAD))
RUN = {"data__packing": False, "data__seq_len": 32}


def row_of(number: int, source: list[int], target: list[int]) -> TokenizedRow:
    ids = np.array([*source, END, PAD, *target, END], np.int32)
    weights = np.zeros(len(ids), np.float32)
    weights[len(source) + 2 :] = 1
    return TokenizedRow(number, ids, weights, len(source) + 1)


def make_pairs(count: int, seed: int = 0) -> list[TokenizedRow]:
    """The target is the source's first tokens, each one up: sources and targets of unequal length."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        source = random.integers(10, 200, int(random.integers(2, 12))).tolist()
        rows.append(row_of(number, source, [token + 1 for token in source[:4]]))
    return rows


@pytest.fixture(params=[FLAN, FIRST_T5], ids=["Flan-T5", "T5"])
def t5(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return whole_t5(tmp_path / "t5", **request.param)


@pytest.fixture
def flan(tmp_path: Path) -> Path:
    return whole_t5(tmp_path / "t5")


def base_of(folder: Path, quantization: str = "none") -> AdaptedModel:
    storage = Storage(quantization, True, torch.float32)
    return AdaptedModel(loaded(load_base(str(folder), storage, CPU)))


def plain(folder: Path, **how: Any) -> Any:
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, **how).eval()


def losses_by_transformers(model: Any, row: TokenizedRow) -> torch.Tensor:
    source = torch.from_numpy(row.ids[: row.second])[None].long()
    labels = torch.from_numpy(row.ids[row.second + 1 :])[None].long()
    logits = model(input_ids=source, labels=labels).logits[0]
    return torch.nn.functional.cross_entropy(logits, labels[0], reduction="none")


def batch_of(rows: list[TokenizedRow]) -> Any:
    batch = collate([(place,) for place in range(len(rows))], RowsInMemory(rows), pad_id=PAD)
    return on_device(batch, torch.device("cpu"), keep_padding=False)


def test_the_loss_of_a_batch_is_that_of_transformers_row_by_row(t5: Path) -> None:
    rows, theirs = make_pairs(5), plain(t5)

    ours = learned_losses(base_of(t5).causal_lm, batch_of(rows))

    expected = torch.cat([losses_by_transformers(theirs, row) for row in rows])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_folder_that_transformers_saved_again_is_the_same_model(t5: Path, tmp_path: Path) -> None:
    theirs, rows = plain(t5), make_pairs(3)
    theirs.save_pretrained(tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "again" / name).write_bytes((t5 / name).read_bytes())

    ours = learned_losses(base_of(tmp_path / "again").causal_lm, batch_of(rows))

    expected = torch.cat([losses_by_transformers(theirs, row) for row in rows])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_row_has_the_loss_alone_that_it_has_among_others(flan: Path) -> None:
    rows, model = make_pairs(4), base_of(flan, "nf4").causal_lm

    together = learned_losses(model, batch_of(rows))

    alone = torch.cat([learned_losses(model, batch_of([row])) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_greedy_replies_are_those_of_transformers(t5: Path) -> None:
    theirs, model = plain(t5), base_of(t5).causal_lm
    expected = []
    for prompt in PROMPTS:
        source = torch.tensor([prompt[:-1]])
        written = theirs.generate(input_ids=source, max_new_tokens=8, do_sample=False)[0, 1:].tolist()
        expected.append(written[: written.index(END)] if END in written else written)

    writing = continue_together(model, PROMPTS, 8, (END,))
    try:
        while True:
            next(writing)
    except StopIteration as finished:
        together = finished.value

    assert [continue_greedily(model, prompt, 8, (END,)) for prompt in PROMPTS] == expected
    assert together == expected


def test_every_linear_layer_of_both_stacks_gets_an_adapter_and_all_but_wo_are_in_nf4(t5: Path) -> None:
    adapted = base_of(t5, "nf4")
    adapted.add_new("new", LoraConfig(r=4), seed=0)

    names = [name for name, _ in adapted.trained_parameters("new")]

    assert len(adapted.linears) == len(names) // 2
    plain_ones = [name.rpartition(".")[2] for name in adapted.replaced.fallbacks]
    assert plain_ones == ["wo"] * len(decoder_layers(adapted.causal_lm))
    assert adapted.replaced.replaced == len(adapted.linears) - len(plain_ones)
    assert any("decoder.block.1.layer.1.EncDecAttention.k" in name for name in names)
    assert any("encoder.block.2.layer.1.DenseReluDense.wo" in name for name in names)
    assert adapted.base.parameters == sum(weight.numel() for weight in plain(t5).parameters())


def test_recomputed_layers_give_the_same_gradients(flan: Path) -> None:
    rows = batch_of(make_pairs(3))
    gradients = []
    for layers in (0, 4):
        adapted = base_of(flan, "nf4")
        adapted.add_new("new", LoraConfig(r=4), seed=0)
        assert len(decoder_layers(adapted.causal_lm)) == 5
        recompute(adapted.causal_lm, layers)
        adapted.causal_lm.train()
        learned_loss(adapted.causal_lm, rows).backward()  # type: ignore[no-untyped-call]
        gradients.append([weight.grad for _, weight in adapted.trained_parameters("new")])
    for plain_one, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain_one, again)


def test_an_update_is_the_same_however_its_rows_are_spread(flan: Path, tmp_path: Path) -> None:
    rows, found = make_pairs(8), []
    for place, (batch_size, times) in enumerate(((8, 1), (2, 4))):
        spread = {"training__batch_size": batch_size, "training__gradient_accumulation": times}
        run = make_run(tmp_path / str(place), flan, rows, [], **RUN, **spread, training__steps=2)
        found.append(losses(events_of(run)))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@dataclass(frozen=True)
class Learned:
    """A run that knows its rows by heart, and has evaluated the very same."""

    model: Path
    rows: list[TokenizedRow]
    run: Path
    events: list[Any]


@pytest.fixture(scope="module", params=[FLAN, FIRST_T5], ids=["Flan-T5", "T5"])
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    home = tmp_path_factory.mktemp("learned")
    model, rows = whole_t5(home / "t5", **request.param, **IN_BLOCKS), make_pairs(4)
    samples = (EncodedSample(prompt="p", ids=PROMPTS[0], max_tokens=4),)
    learning = {"training__learning_rate": 1e-2, "training__max_grad_norm": 1.0, "lora__r": 16}
    at_once = {"training__batch_size": 4, "training__gradient_accumulation": 1, "training__steps": 60}
    seldom = {"checkpoints__every_steps": 60, "checkpoints__evaluate_every_steps": 60}
    run = make_run(home, model, rows, rows, samples, **RUN, **learning, **at_once, **seldom)
    return Learned(model, rows, run, events_of(run))


def test_a_run_learns_evaluates_samples_and_ends_with_an_adapter_that_peft_reads(learned: Learned) -> None:
    measured = of_kind(learned.events, EvaluationFinished)
    assert isinstance(learned.events[-1], RunFinished)
    assert measured[-1].loss < 0.5 * measured[0].loss
    assert of_kind(learned.events, SampleReady)
    with_peft = PeftModel.from_pretrained(plain(learned.model), learned.run / "adapter")
    assert with_peft.peft_config["default"].task_type == "SEQ_2_SEQ_LM"


def test_its_adapter_meets_the_same_base_where_transformers_quantizes_it(learned: Learned) -> None:
    elsewhere = plain(
        learned.model,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )
    disable_cpu_repacking(elsewhere)
    theirs = PeftModel.from_pretrained(elsewhere, learned.run / "adapter").eval()
    adapted = base_of(learned.model, "nf4")
    adapted.use(adapted.add_from(learned.run / "adapter"))

    for row in learned.rows:
        ours = learned_losses(adapted.causal_lm, batch_of([row]))
        torch.testing.assert_close(ours, losses_by_transformers(theirs, row), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("compute", "kept"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float32)],
)
@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_wo_is_stored_as_transformers_stores_it(
    flan: Path, quantization: str, compute: str, kept: torch.dtype
) -> None:
    dtype = getattr(torch, compute)
    model = loaded(load_base(str(flan), Storage(quantization, True, dtype), CPU)).causal_lm
    theirs = AutoModelForSeq2SeqLM.from_pretrained(flan, dtype=dtype)
    for one in (model, theirs):
        stored = [weight.dtype for name, weight in one.named_parameters() if name.endswith(".wo.weight")]
        assert stored == [kept] * 5


RESTLESS: dict[str, Any] = {
    "training__steps": 6,
    "training__neftune_alpha": 5.0,
    "lora__dropout": 0.2,
    "training__schedule": "cosine",
}


def test_a_run_that_went_on_equals_one_that_never_stopped(tmp_path: Path) -> None:
    model = whole_t5(tmp_path / "t5", dropout_rate=0.1)
    at_once = make_run(tmp_path / "a", model, make_pairs(12), make_pairs(3, 1), **RUN, **RESTLESS)
    in_two = make_run(tmp_path / "b", model, make_pairs(12), make_pairs(3, 1), **RUN, **RESTLESS)

    whole = losses(events_of(at_once))
    first = losses(events_of(in_two, Wish.PAUSE, after_step=3))
    second = losses(events_of(in_two))

    assert first + second == whole
    weights = [load_file(run / "adapter" / "adapter_model.safetensors") for run in (at_once, in_two)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"lora__use_dora": True},
        {"lora__init": "loftq"},
        {"lora__use_rslora": True},
        {"training__loraplus_ratio": 4.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_variant_of_the_adapter_learns_too_and_peft_reads_it(
    flan: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run = make_run(tmp_path, flan, make_pairs(8), [], **RUN, **changes, training__steps=12)

    lost = losses(events_of(run))

    assert lost[-1] < lost[0]
    trained = base_of(flan, "nf4")
    trained.use(trained.add_from(run / "adapter"))
    (row,) = make_pairs(1)
    ours = learned_losses(trained.causal_lm, batch_of([row]))
    other = base_of(flan, "nf4").causal_lm
    theirs = PeftModel.from_pretrained(other, run / "adapter").eval()
    torch.testing.assert_close(ours, losses_by_transformers(theirs, row), rtol=1e-3, atol=1e-4)


def test_another_target_length_is_refused_where_a_run_goes_on(flan: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, flan, make_pairs(8), [], **RUN, training__steps=4)
    events_of(run, Wish.PAUSE, after_step=2)
    file = run / "run.json"
    text = file.read_text()
    assert '"target_len": 256' in text
    file.write_text(text.replace('"target_len": 256', '"target_len": 255'))

    failed = events_of(run)[-1]

    assert isinstance(failed, RunFailed)
    assert "target_len" in failed.error.message


def test_its_adapter_is_evaluated_beside_the_base(learned: Learned) -> None:
    own = of_kind(learned.events, EvaluationFinished)[-1]
    prepared = read_record(learned.run).record.prepared.folder
    command = Evaluate(id=4, run=str(learned.run), prepared=prepared, with_base=True)

    *_, report = evaluate_adapter(command, ModelHolder(CPU), lambda: False)

    assert report.loss == pytest.approx(own.loss, rel=1e-4)
    assert report.base_loss > report.loss
    assert report.comparison.base_right == 0
    assert report.accuracy == 1.0
    assert _known_by_heart(learned) == len(learned.rows)


def _known_by_heart(learned: Learned) -> int:
    """Rows whose target is written again, token by token."""
    adapted = base_of(learned.model, "nf4")
    adapted.use(adapted.add_from(learned.run / "adapter"))
    known = 0
    for row in learned.rows:
        prompt, target = row.ids[: row.second + 1].tolist(), row.ids[row.second + 1 : -1].tolist()
        known += continue_greedily(adapted.causal_lm, prompt, len(target) + 4, (END,)) == target
    return known


def test_a_chat_answers_by_base_and_by_adapter(learned: Learned) -> None:
    chat = Chat(ModelHolder(CPU))
    list(chat.load(LoadModel(id=1, model=str(learned.model), quantization="nf4", compute_dtype="float32")))
    row = learned.rows[0]
    prompt = tuple(row.ids[: row.second + 1].tolist())
    greedy = Sampling(greedy=True, max_tokens=12)

    replies = []
    for adapter in (None, str(learned.run / "adapter")):
        *_, finished = chat.answer(Generate(id=2, prompt_ids=prompt, adapter=adapter, sampling=greedy), never)
        assert isinstance(finished, GenerationFinished)
        replies.append(finished)

    assert replies[1].ended == "end"
    assert replies[1].tokens == len(row.ids) - len(prompt) - 1
    assert replies[0].reply != replies[1].reply


@pytest.mark.parametrize(("to", "quant"), [("adapter", ""), ("merged", ""), ("merged", "nf4")])
def test_what_is_exported_answers_as_trained(learned: Learned, tmp_path: Path, to: str, quant: str) -> None:
    out = tmp_path / "out"
    prompts = tuple(tuple(row.ids[: row.second + 1].tolist()) for row in learned.rows)
    command = Export(id=4, run=str(learned.run), to=to, quant=quant, out=str(out), prompts=prompts)

    *_, finished = export(command, ModelHolder(CPU), never)

    assert isinstance(finished, ExportFinished)
    assert finished.verified.passed, finished.verified
    card = (out / "README.md").read_text()
    assert "AutoModelForSeq2SeqLM" in card
    assert "vllm" not in card
    assert "learning the last answer of each chat" in card
    if to == "merged" and not quant:
        _require_same_by_transformers_and_by_us(out, learned.rows[0])


def _require_same_by_transformers_and_by_us(merged: Path, row: TokenizedRow) -> None:
    source, prompt = torch.from_numpy(row.ids[: row.second])[None].long(), row.ids[: row.second + 1].tolist()
    (written,) = plain(merged).generate(input_ids=source, max_new_tokens=12, do_sample=False).tolist()
    target = row.ids[row.second + 1 :].tolist()
    assert written == [PAD, *target]
    assert continue_greedily(base_of(merged).causal_lm, prompt, 12, (END,)) == target[:-1]
    ours = learned_losses(base_of(merged).causal_lm, batch_of([row]))
    torch.testing.assert_close(ours, losses_by_transformers(plain(merged), row), rtol=1e-4, atol=1e-5)


def test_a_gguf_file_of_it_is_refused_with_the_reason(flan: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, flan, make_pairs(8), [], **RUN, training__steps=1)
    events_of(run)
    command = Export(id=4, run=str(run), to="gguf", quant="q8_0", out=str(tmp_path / "out"), prompts=PROMPTS)
    with pytest.raises(StudioError, match="t5 model can't be written as GGUF"):
        list(export(command, ModelHolder(CPU), never))
    assert not (tmp_path / "out").exists()


def never() -> bool:
    return False
