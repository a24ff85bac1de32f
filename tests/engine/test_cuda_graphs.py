"""Passes that are recorded and played: the same gradients, the same run. A card is stood in for."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from qlora_kernels.scratch import forget_scratch, scratch
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from qlora_studio.data.prepared import EncodedSample
from qlora_studio.engine import cuda_graphs, prepared_run, training_job
from qlora_studio.engine.attention import Segments
from qlora_studio.engine.compiled_layers import compile_layers
from qlora_studio.engine.cuda_graphs import CudaGraphs, end_allocation
from qlora_studio.engine.layer_setup import LayerSetup
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.objective import LearnedTokens
from qlora_studio.engine.prepared_run import PreparedRun
from qlora_studio.engine.wish import Wish
from qlora_studio.errors import StudioError
from qlora_studio.protocol.events import EvaluationFinished, SampleReady
from tests.engine.tiny import (
    CPU,
    FAMILIES,
    events_of,
    losses,
    make_model,
    make_rows,
    make_run,
    of_kind,
    tiny_llama,
)

LONGEST, HELD = 32, 7
UNEQUAL, MORE_ROWS, EQUAL = (20, 30, 14), (20, 20, 10, 14), (32, 32)


class Recorder:
    """Plays by running again. played: passes so far"""

    def __init__(self) -> None:
        self.recorded = self.played = 0

    def record(
        self, passes: Sequence[Callable[[], None]], *_: object
    ) -> tuple[list[Callable[[], None]], int]:
        self.recorded += 1
        return [self._player(work) for work in passes], HELD

    def _player(self, work: Callable[[], None]) -> Callable[[], None]:
        def play() -> None:
            self.played += 1
            with torch.enable_grad():
                work()

        return play


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(cuda_graphs, "record", made.record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: torch.get_rng_state())
    monkeypatch.setattr(cuda_graphs, "end_recording", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return made


@pytest.fixture
def model() -> Iterator[PreTrainedModel]:
    llama = tiny_llama().train()
    for name, weight in llama.named_parameters():
        weight.requires_grad_("q_proj" in name or "down_proj" in name)
    yield llama


def graphs_of(model: PreTrainedModel) -> tuple[CudaGraphs, list[Tensor]]:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    kept = [torch.zeros_like(weight) for weight in weights]
    for weight, gradient in zip(weights, kept, strict=True):
        weight.grad = gradient
    return CudaGraphs(model, weights), kept


def step(model: PreTrainedModel, lengths: Sequence[int], seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 96, (1, sum(lengths)), generator=random)
    hidden = model.model(
        inputs_embeds=model.get_input_embeddings()(ids).detach().requires_grad_(),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        attention_mask=Segments.of(lengths, torch.device("cpu")).as_starts(LONGEST),
        use_cache=False,
    ).last_hidden_state
    loss = (hidden * torch.randn(hidden.shape, generator=random)).sum()
    loss.backward()
    return loss.detach()


def test_played_passes_give_the_losses_and_gradients_of_plain_ones(
    model: PreTrainedModel, recorder: Recorder
) -> None:
    batches = [UNEQUAL, UNEQUAL, EQUAL, UNEQUAL, MORE_ROWS, EQUAL, UNEQUAL, MORE_ROWS, EQUAL]
    wanted, sums = [], []
    for seed, lengths in enumerate(batches):  # each backward pass adds to the sum of those before
        wanted.append(step(model, lengths, seed))
        sums.append([weight.grad.clone() for weight in model.parameters() if weight.grad is not None])
    graphs, kept = graphs_of(model)

    for seed, (lengths, loss, gradients) in enumerate(zip(batches, wanted, sums, strict=True)):
        torch.testing.assert_close(step(model, lengths, seed), loss, rtol=0, atol=0)
        torch.testing.assert_close(kept, gradients, rtol=0, atol=0)

    assert (
        recorder.recorded == 3
    )  # three and four rows are of one kind; equal ones, warming up, want the memory
    assert recorder.played == 2 * (len(batches) - 4)  # two of each way to warm up
    assert graphs.held_bytes == HELD


@pytest.mark.parametrize(
    ("learned", "added"),
    [
        (
            ("q_proj", "down_proj"),
            [[f"layers.{number}.self_attn.q_proj", f"layers.{number}.mlp.down_proj"] for number in (1, 0)],
        ),
        (("0.mlp.down_proj",), [["layers.0.mlp.down_proj"]]),
        (("1.mlp.down_proj",), [["layers.1.mlp.down_proj"]]),
        (("model.norm", "0.mlp.up_proj"), [["norm"], ["layers.0.mlp.up_proj"]]),  # one lies in no layer
    ],
)
def test_gradients_of_a_layer_are_added_at_once(
    model: PreTrainedModel,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    learned: tuple[str, ...],
    added: list[list[str]],
) -> None:
    for name, weight in model.named_parameters():
        weight.requires_grad_(any(part in name for part in learned))
    wanted = [step(model, UNEQUAL, seed) for seed in range(4)]
    sums = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    _, kept = graphs_of(model)
    names = {id(weight.grad): name for name, weight in model.named_parameters()}
    told: list[list[str]] = []
    add = torch._foreach_add_

    def note(to: list[Tensor], new: list[Tensor]) -> None:
        told.append([names[id(one)].removeprefix("model.").removesuffix(".weight") for one in to])
        add(to, new)

    monkeypatch.setattr(torch, "_foreach_add_", note)
    assert [step(model, UNEQUAL, seed) for seed in range(4)] == wanted
    torch.testing.assert_close(kept, sums, rtol=0, atol=0)
    assert told == added * 2


@pytest.mark.parametrize("recomputed", [0, 1, 2])
def test_compiled_layers_are_recorded_as_they_are(
    model: PreTrainedModel, recorder: Recorder, recomputed: int
) -> None:
    """Nothing is compiled anew for a recording, which that would break off."""
    torch._dynamo.reset()
    compile_layers(model.model.layers, recomputed, backend="aot_eager")
    wanted = [step(model, UNEQUAL, seed) for seed in range(4)]
    sums = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    graphs_of(model)
    for seed in range(2):
        step(model, UNEQUAL, seed)
    counters.clear()

    _, kept = graphs_of(model)
    found = [step(model, UNEQUAL, seed) for seed in range(4)]

    assert recorder.played == 2 * 2
    assert not counters["stats"]
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    torch.testing.assert_close(kept, sums, rtol=0, atol=0)
    torch._dynamo.reset()


def test_batches_of_unequal_rows_have_room_for_more_and_equal_ones_have_not(
    model: PreTrainedModel, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention tells equal rows by their number alone."""
    seen: list[list[int]] = []
    plain = cuda_graphs.starts_as_mask

    def note(starts: Tensor, longest: int) -> Tensor:
        seen.append(starts.tolist())
        return plain(starts, longest)

    monkeypatch.setattr(cuda_graphs, "starts_as_mask", note)
    graphs_of(model)
    step(model, (32, 30, 2, 16, 16), seed=0)
    step(model, (32, 32, 32), seed=0)
    step(model, (7,), seed=0)
    assert seen == [[0, 32, 62, 64, 80, 96, 96, 96, 96], [0, 32, 64, 96], [0, 7]]


def test_whoever_computes_without_gradients_has_the_memory(
    model: PreTrainedModel, recorder: Recorder
) -> None:
    graphs, _ = graphs_of(model)
    for seed in range(3):
        step(model, UNEQUAL, seed)
    assert graphs.held_bytes == HELD

    with torch.no_grad():
        model.model(input_ids=torch.zeros(1, 4, dtype=torch.int64), use_cache=False)

    assert graphs.held_bytes == 0
    step(model, UNEQUAL, seed=3)  # warm already
    assert recorder.recorded == 2


def test_what_cannot_be_recorded_runs_as_it_is(
    model: PreTrainedModel,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(cuda_graphs, "record", refuse)
    wanted = [step(model, UNEQUAL, seed) for seed in range(4)]
    sums = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    graphs, kept = graphs_of(model)

    found = [step(model, UNEQUAL, seed) for seed in range(4)]

    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    torch.testing.assert_close(kept, sums, rtol=0, atol=0)
    assert graphs.held_bytes == 0
    assert [record.getMessage() for record in caplog.records] == [
        "Layers run without CUDA graphs: RuntimeError: operation not permitted when stream is capturing"
    ]


def test_closed_graphs_leave_the_model_as_it_was(model: PreTrainedModel, recorder: Recorder) -> None:
    graphs, _ = graphs_of(model)
    graphs.close()
    for seed in range(3):
        step(model, UNEQUAL, seed)
    assert recorder.recorded == 0


@pytest.mark.parametrize("ended", [False, True])
def test_a_pool_is_given_back_once(monkeypatch: pytest.MonkeyPatch, ended: bool) -> None:
    """Twice would end the process, or spoil torch's allocator."""
    told: list[str] = []

    def end(*_: object) -> None:
        told.append("end")
        if ended:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda *_: told.append("release"), raising=False)
    end_allocation((0, 1), torch.device("cuda", 0))
    assert told == (["end"] if ended else ["end", "release"])


def test_what_recorded_products_are_dequantized_into_lives_as_long_as_they_are_played(
    model: PreTrainedModel, recorder: Recorder
) -> None:
    forget_scratch()
    written = weakref.ref(scratch((4,), torch.float32, torch.device("cpu")).untyped_storage())
    graphs, _ = graphs_of(model)
    for seed in range(3):
        step(model, UNEQUAL, seed)
    forget_scratch()
    assert written() is not None
    graphs.forget()
    gc.collect()  # the stand-in for a recording holds its passes
    assert written() is None


@pytest.fixture
def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are attended at once, as compiled layers have it. Unpadded, no two batches are alike here."""
    monkeypatch.setattr(cuda_graphs, "_WARM_UP", 0)
    as_if_compiled = LayerSetup(0, None, None, multiplies_in_fp8=False, keeps_dequantized=False, notes=())
    monkeypatch.setattr(prepared_run, "set_layers_up", lambda *_: as_if_compiled)


def test_a_run_that_is_played_learns_what_one_that_is_not_does(
    tmp_path: Path, recorder: Recorder, as_on_a_card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Micro-batches that are summed, evaluations, samples and a resume between them."""
    model = make_model(tmp_path / "model")
    sample = EncodedSample(prompt="A B", ids=(5, 6, 7), max_tokens=4)
    settings = {"training__steps": 6, "checkpoints__evaluate_every_steps": 3}

    def told(recorded: bool) -> tuple[list[float], list[float | None], list[str]]:
        reason = None if recorded else "not here"
        monkeypatch.setattr(PreparedRun, "_not_graphed_reason", lambda _: reason)
        run = make_run(tmp_path, model, samples=(sample,), **settings)
        events = events_of(run, Wish.PAUSE, after_step=4)
        events += events_of(run)
        evaluations = [event.loss for event in of_kind(events, EvaluationFinished)]
        return losses(events), evaluations, [event.reply for event in of_kind(events, SampleReady)]

    plain = told(recorded=False)
    assert recorder.played == 0
    played = told(recorded=True)

    assert recorder.played == 2 * 2 * 6  # both passes, of two micro-batches an update
    assert len(plain[0]) == 6
    torch.testing.assert_close(played[0], plain[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(played[1], plain[1], rtol=1e-6, atol=0)
    assert played[2] == plain[2]


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"gemma2", "gpt2"}))
def test_each_family_that_is_compiled_is_gone_through_layer_by_layer(
    tmp_path: Path, recorder: Recorder, as_on_a_card: None, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = make_model(tmp_path / "model", family, num_hidden_layers=3)
    found = []
    for reason in ("not here", None):
        monkeypatch.setattr(PreparedRun, "_not_graphed_reason", lambda _, reason=reason: reason)
        found.append(losses(events_of(make_run(tmp_path, model, training__steps=3))))
    assert recorder.played == 2 * 2 * 3
    torch.testing.assert_close(*found, rtol=1e-6, atol=0)


def test_after_a_run_the_model_is_as_it_was(
    tmp_path: Path, recorder: Recorder, as_on_a_card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[CudaGraphs] = []
    close = CudaGraphs.close
    monkeypatch.setattr(CudaGraphs, "close", lambda graphs: (made.append(graphs), close(graphs))[1])
    events_of(make_run(tmp_path, make_model(tmp_path / "model"), training__steps=4))
    (graphs,) = made
    assert graphs.held_bytes == 0
    assert "forward" not in vars(graphs._model.base_model)


def test_a_run_that_never_was_whole_leaves_nothing_to_the_next(
    tmp_path: Path, recorder: Recorder, as_on_a_card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be the dead run's adapter that learns."""
    holder = ModelHolder(CPU)
    model = make_model(tmp_path / "model")
    monkeypatch.setattr(PreparedRun, "_not_graphed_reason", lambda _: None)

    def fail(_: PreparedRun) -> None:
        raise StudioError("no multiple choice")

    with monkeypatch.context() as broken:
        broken.setattr(PreparedRun, "_answers", fail)
        failed = events_of(make_run(tmp_path, model), holder=holder)
    assert failed[-1].error.message == "no multiple choice"
    assert holder.held is not None
    assert "forward" not in vars(holder.held.causal_lm.base_model)

    monkeypatch.setattr(PreparedRun, "_not_graphed_reason", lambda _: "not here")
    found = losses(events_of(make_run(tmp_path, model, training__steps=4), holder=holder))
    assert found == losses(events_of(make_run(tmp_path, model, training__steps=4)))
    assert recorder.played == 0


def test_speeds_of_steps_that_record_are_not_remembered(
    tmp_path: Path, recorder: Recorder, as_on_a_card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording takes some steps' time, at first and after each evaluation."""
    steps: list[tuple[int, int]] = []  # recordings so far, speeds so far
    note = training_job._TrainingJob._note_speed

    def noted(job: Any, run: Any, event: Any) -> None:
        note(job, run, event)
        steps.append((recorder.recorded, len(job._speeds)))

    monkeypatch.setattr(training_job._TrainingJob, "_note_speed", noted)
    monkeypatch.setattr(PreparedRun, "_not_graphed_reason", lambda _: None)
    run = make_run(tmp_path, make_model(tmp_path / "model"), rows=make_rows(1) * 32, training__steps=8)
    events_of(run)

    counted = 0
    for (before, _), (recorded, speeds) in itertools.pairwise([(0, 0), *steps]):
        counted += recorded == before
        assert speeds == counted
    assert 0 < counted < len(steps) == 8


def test_nothing_is_left_of_a_micro_batch_as_the_next_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its nodes for the weights belong to another stream than a recording's, which they would break off."""
    losses_made: list[weakref.ref[Tensor]] = []
    plain = LearnedTokens.loss

    def loss(objective: LearnedTokens, *given: Any) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            assert [made() for made in losses_made] == [None] * len(losses_made)
        made, _ = plain(objective, *given)
        losses_made.append(weakref.ref(made))
        return made, None

    monkeypatch.setattr(LearnedTokens, "loss", loss)
    run = make_run(tmp_path, make_model(tmp_path / "model"), training__steps=2)
    assert len(losses(events_of(run))) == 2
    assert len(losses_made) > 4
