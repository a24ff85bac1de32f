"""What only a card shows: attention at once over packed rows, paged optimizers, memory by part."""

import ctypes
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from qlora_kernels.cuda import equal_rows
from qlora_kernels.cuda.launching import driver
from qlora_kernels.cuda.managed_memory import bring_to_card
from safetensors.torch import load_file

from qlora_studio.config.run_config import LoraConfig
from qlora_studio.data.packing import Batch
from qlora_studio.engine import attention as attention_module
from qlora_studio.engine import compiler_ahead, continuation, cuda_graphs
from qlora_studio.engine.adapters import AdaptedModel
from qlora_studio.engine.attention import Segments, attention
from qlora_studio.engine.continuation import Continuation, KeptSteps, SideBySide, can_go_on_side_by_side
from qlora_studio.engine.device import find_device
from qlora_studio.engine.frozen_weights import Storage
from qlora_studio.engine.loading import load_base
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.packed_batch import on_device
from qlora_studio.engine.prepared_run import PreparedRun
from qlora_studio.engine.wish import Wish
from qlora_studio.protocol.events import StepFinished
from tests.engine.tiny import events_of, loaded, losses, make_model, make_run, of_kind

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no card here")
LENGTHS = (70, 1, 120, 65)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.mark.parametrize("heads", [(4, 4), (8, 2)], ids=["each its own", "grouped"])
@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("lengths", [LENGTHS, (96, 96, 96)], ids=["unequal", "equal"])
def test_rows_attended_at_once_give_what_they_give_one_by_one(
    monkeypatch: pytest.MonkeyPatch, heads: tuple[int, int], window: int | None, lengths: tuple[int, ...]
) -> None:
    def result() -> list[torch.Tensor]:
        torch.manual_seed(0)
        shapes = [(1, count, sum(lengths), 64) for count in (heads[0], heads[1], heads[1])]
        query, key, value = (
            torch.randn(shape, dtype=torch.bfloat16, device="cuda", requires_grad=True) for shape in shapes
        )
        mask = Segments.of(lengths, torch.device("cuda")).as_mask()
        out, _ = attention(torch.nn.Module(), query, key, value, mask, sliding_window=window)
        out.float().square().sum().backward()  # type: ignore[no-untyped-call]
        return [out, *(tensor.grad for tensor in (query, key, value) if tensor.grad is not None)]

    at_once = result()
    monkeypatch.setattr(attention_module, "_flash_takes", lambda *_: False)
    one_by_one = result()

    for ours, reference in zip(at_once, one_by_one, strict=True):
        assert (ours - reference).norm() <= 0.02 * reference.norm()


def test_on_hopper_rows_of_one_length_are_attended_by_cudnn_and_no_others() -> None:
    query = torch.zeros(96, 8, 64, dtype=torch.bfloat16, device="cuda")
    key = query[:, :2]

    def takes(*starts: int, window: int = 0) -> bool:
        where = torch.tensor(starts, dtype=torch.int32, device="cuda")
        return equal_rows.takes(query, key, key, where, 32, window)

    is_hopper = torch.cuda.get_device_capability() >= (9, 0)
    assert takes(0, 32, 64, 96) == takes(0, 32, 64, 96, window=32) == is_hopper
    assert not takes(0, 31, 63, 80, 96)
    assert not takes(0, 32, 64, 96, window=16)


@pytest.mark.parametrize("optimizer", ["paged_adamw_32bit", "paged_adamw_8bit", "adamw_32bit"])
def test_a_run_on_a_card_goes_on_with_the_state_it_had(tmp_path: Path, model: Path, optimizer: str) -> None:
    settings: dict[str, Any] = {
        "training__steps": 6,
        "training__optimizer": optimizer,
        "lora__r": 64,
        "model__compute_dtype": "auto",
    }
    device = find_device()
    unbroken, broken = (make_run(tmp_path, model, device="cuda", **settings) for _ in range(2))

    straight = of_kind(events_of(unbroken, holder=ModelHolder(device)), StepFinished)
    first = of_kind(events_of(broken, Wish.PAUSE, after_step=4, holder=ModelHolder(device)), StepFinished)
    rest = of_kind(events_of(broken, holder=ModelHolder(device)), StepFinished)

    again = [*first, *rest]
    for kept in ("step", "rows", "learning_rate", "tokens"):
        assert [getattr(step, kept) for step in again] == [getattr(step, kept) for step in straight]
    assert losses(again) == pytest.approx(losses(straight), rel=1e-2)
    states = [
        load_file(run / "checkpoints" / "step-000006" / "optimizer.safetensors") for run in (unbroken, broken)
    ]
    assert states[0].keys() == states[1].keys()


def test_the_compiler_is_tried_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    device = find_device().torch_device
    compiler_ahead.compile_something.__wrapped__(device)  # what libraries keep for themselves is there now
    held, random = torch.cuda.memory_allocated(), torch.cuda.get_rng_state(device)

    compiler_ahead.compile_something.__wrapped__(device)

    assert not [record for record in caplog.records if record.name == compiler_ahead.__name__]
    assert torch.cuda.memory_allocated() == held
    assert torch.equal(torch.cuda.get_rng_state(device), random)


def test_a_batch_is_put_on_the_card_while_that_computes() -> None:
    places = np.arange(4 * 2048)
    batch = Batch(
        input_ids=places.reshape(4, 2048),
        position_ids=places.reshape(4, 2048) % 2048,
        segment_ids=np.zeros((4, 2048), np.int32),
        learned=places[:-1],
        targets=places[1:],
        weights=np.ones(len(places) - 1, np.float32),
        chats=np.zeros(len(places) - 1, np.int64),
        rows=(0, 1, 2, 3),
        tokens=len(places),
    )
    device = find_device().torch_device
    on_device(batch, device, keep_padding=True)  # memory is pinned at the first call
    torch.cuda.synchronize()
    torch.cuda._sleep(1 << 30)  # clock cycles: about half a second

    placed = on_device(batch, device, keep_padding=True)

    assert not torch.cuda.current_stream().query()
    assert placed.input_ids.tolist() == [places.tolist()]
    assert placed.segments.starts.tolist() == [0, 2048, 4096, 6144, 8192]
    assert placed.targets.tolist() == places[1:].tolist()


def test_paged_memory_comes_to_the_card_beside_what_that_computes() -> None:
    device = find_device().torch_device
    paged = bnb.functional.get_paged(1 << 20, device=device).fill_(1)
    bring_to_card([paged], device)  # the first call makes the stream
    torch.cuda.synchronize()
    paged.fill_(1)  # by the processor, to which it goes back
    torch.cuda._sleep(1 << 30)  # clock cycles: about half a second
    bring_to_card([paged], device)
    computes = not torch.cuda.current_stream().query()
    is_where, last_brought_to = ctypes.c_int(-2), 4  # CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION
    start, size = ctypes.c_uint64(paged.data_ptr()), ctypes.c_size_t(paged.nbytes)
    failed = driver().cuMemRangeGetAttribute(
        ctypes.byref(is_where), ctypes.c_size_t(4), last_brought_to, start, size
    )

    assert computes
    torch.cuda.synchronize()
    assert (failed, is_where.value) == (0, device.index)
    assert (paged == 1).all()


def test_after_a_run_the_card_has_the_paged_state_no_more(tmp_path: Path, model: Path) -> None:
    settings: dict[str, Any] = {"training__steps": 2, "lora__r": 256, "model__compute_dtype": "auto"}
    holder, left = ModelHolder(find_device()), []
    for _ in range(3):
        events_of(make_run(tmp_path, model, device="cuda", **settings), holder=holder)
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        left.append(total - free - torch.cuda.memory_reserved())

    assert not bnb.functional.GlobalPageManager.get_instance().paged_tensors
    assert left[2] - left[1] < 2**20


def test_memory_by_part_adds_up_to_what_torch_counted(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path, model, device="cuda", training__steps=2, model__compute_dtype="auto")

    step = of_kind(events_of(run, holder=ModelHolder(find_device())), StepFinished)[-1]

    assert step.memory.keys() == {"weights", "adapter", "optimizer", "activations", "other"}
    assert sum(step.memory.values()) >= torch.cuda.max_memory_allocated()


def test_a_card_and_a_processor_learn_the_same(tmp_path: Path, model: Path) -> None:
    settings: dict[str, Any] = {"training__steps": 4, "model__compute_dtype": "float32"}
    on_card = make_run(tmp_path, model, device="cuda", **settings)
    on_processor = make_run(tmp_path, model, **settings)

    found = losses(events_of(on_card, holder=ModelHolder(find_device())))

    assert found == pytest.approx(losses(events_of(on_processor)), rel=1e-3)


def test_compiled_layers_learn_what_uncompiled_ones_do(tmp_path: Path, model: Path) -> None:
    settings: dict[str, Any] = {"training__steps": 4, "model__compute_dtype": "bfloat16"}
    compiled = make_run(tmp_path, model, device="cuda", **settings)
    plain = make_run(tmp_path, model, device="cuda", training__compile="off", **settings)

    found = losses(events_of(compiled, holder=ModelHolder(find_device())))

    assert found == pytest.approx(losses(events_of(plain, holder=ModelHolder(find_device()))), rel=5e-3)


def test_passes_that_are_played_learn_what_plain_ones_do(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"training__steps": 8, "model__compute_dtype": "bfloat16"}
    played, plain = (make_run(tmp_path, model, device="cuda", **settings) for _ in range(2))
    recorded: list[int] = []
    record = cuda_graphs.record
    monkeypatch.setattr(cuda_graphs, "record", lambda *given: (recorded.append(1), record(*given))[1])

    found = losses(events_of(played, holder=ModelHolder(find_device())))
    assert recorded
    monkeypatch.setattr(PreparedRun, "_not_graphed_reason", lambda _: "not here")

    assert found == pytest.approx(losses(events_of(plain, holder=ModelHolder(find_device()))), rel=5e-3)


@pytest.mark.parametrize(
    ("setting", "takes_more"), [("training__keep_dequantized", True), ("training__embedding_in_ram", False)]
)
def test_where_weights_lie_changes_nothing_but_memory(tmp_path: Path, setting: str, takes_more: bool) -> None:
    model = make_model(tmp_path / "model", tie_word_embeddings=False)
    settings: dict[str, Any] = {"training__steps": 6, "model__compute_dtype": "bfloat16"}
    asked, plain = (
        make_run(tmp_path, model, device="cuda", **{setting: on}, **settings) for on in (True, False)
    )

    found = [events_of(run, holder=ModelHolder(find_device())) for run in (asked, plain)]

    # Weights that lie otherwise may be multiplied by another kernel.
    assert losses(found[0]) == pytest.approx(losses(found[1]), rel=5e-3)
    weights = [of_kind(events, StepFinished)[-1].memory["weights"] for events in found]
    assert weights[0] > weights[1] if takes_more else weights[0] < weights[1]


@pytest.mark.parametrize("how", ["a look at what was made", "an error", "want of memory"])
def test_a_recording_that_is_broken_off_breaks_nothing_else(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The first by the driver, so that torch can't end it; the others by us, and it can."""
    plain = cuda_graphs.CudaGraphs._run

    def fail(*given: Any, **named: Any) -> Any:
        made = plain(*given, **named)
        if not torch.cuda.is_current_stream_capturing():
            return made
        if how == "an error":
            raise RuntimeError(how)
        if how == "want of memory":
            raise torch.OutOfMemoryError(how)
        float(made.detach().sum())
        return made

    settings: dict[str, Any] = {"training__steps": 6, "model__compute_dtype": "bfloat16"}

    def learn() -> list[float]:
        run = make_run(tmp_path, model, device="cuda", **settings)
        return losses(events_of(run, holder=ModelHolder(find_device())))

    reference = learn()
    monkeypatch.setattr(cuda_graphs.CudaGraphs, "_run", fail)
    broken = learn()
    torch.cuda.empty_cache()
    monkeypatch.undo()
    after = learn()

    assert broken == pytest.approx(reference, rel=5e-3)
    assert after == pytest.approx(reference, rel=5e-3)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.isfinite(torch.randn(1000, device="cuda")).all()


@pytest.mark.parametrize("heads", [2, 8], ids=["grouped", "each its own"])
def test_a_recorded_step_gives_the_logits_of_a_growing_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, heads: int
) -> None:
    folder = make_model(
        tmp_path / "wide", hidden_size=256, num_attention_heads=8, num_key_value_heads=heads, head_dim=32
    )
    adapted = AdaptedModel(
        loaded(load_base(str(folder), Storage("nf4", True, torch.bfloat16), find_device()))
    )
    adapted.add_new("random", LoraConfig(r=16), seed=0)
    for _, parameter in adapted.trained_parameters("random"):
        parameter.data.normal_(0, 0.05)
    ids = [3 + place % 20 for place in range(20)]

    def logits(adapter: str | None, kept: KeptSteps | None = None) -> torch.Tensor:
        adapted.use(adapter)
        text = Continuation(adapted.causal_lm, kept)
        after = [text.extend(ids).clone()]
        return torch.stack([*after, *(text.extend([token]).clone() for token in ids)])

    monkeypatch.setattr(continuation, "_MORE_TOKENS", 16)  # so that it must grow, and be recorded again
    kept, turns = KeptSteps(), (None, "random", None, "random")
    recorded = [logits(adapter, kept) for adapter in turns]
    alone = logits("random")
    monkeypatch.setattr(continuation, "_repeats_steps", lambda _: False)
    growing = [logits(adapter) for adapter in turns]

    assert (growing[0] - growing[1]).norm() > 0.1 * growing[0].norm()
    for found, wanted in zip([*recorded, alone], [*growing, growing[1]], strict=True):
        assert (found - wanted).norm() <= 0.02 * wanted.norm()


def test_texts_side_by_side_give_the_logits_of_each_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = make_model(
        tmp_path / "wide", hidden_size=256, num_attention_heads=8, num_key_value_heads=2, head_dim=32
    )
    adapted = AdaptedModel(
        loaded(load_base(str(folder), Storage("nf4", True, torch.bfloat16), find_device()))
    )
    for number in range(3):
        adapted.add_new(f"random {number}", LoraConfig(r=8 + 8 * number), seed=number)
        for _, parameter in adapted.trained_parameters(f"random {number}"):
            parameter.data.normal_(0, 0.05)
    names = (None, "random 0", "random 1", "random 2")
    prompts = [[3 + (place + text) % 20 for place in range(5 + 4 * text)] for text in range(4)]
    ids = [3 + place % 20 for place in range(20)]
    assert can_go_on_side_by_side(adapted, names)

    def alone(text: int) -> torch.Tensor:
        adapted.use(names[text])
        written = Continuation(adapted.causal_lm)
        return torch.stack([written.extend(some).clone() for some in (prompts[text], *([i] for i in ids))])

    monkeypatch.setattr(continuation, "_MORE_TOKENS", 16)  # so that it must grow, and be recorded again
    texts = SideBySide(adapted, names, KeptSteps())
    found = [torch.stack(texts.begin(prompts))]
    for token in ids:
        given = [torch.tensor(token, device="cuda")] * 4
        found.append(texts.extend_by(given, [True] * 4).clone())
    for text in range(4):
        wanted = alone(text)
        assert (torch.stack(found)[:, text] - wanted).norm() <= 0.02 * wanted.norm()
