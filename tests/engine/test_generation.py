from __future__ import annotations

import shutil
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from qlora_studio.data.packing import collate
from qlora_studio.data.tokenized_row import RowsInMemory
from qlora_studio.data.tokenizer import load_tokenizer
from qlora_studio.engine import continuation, loading
from qlora_studio.engine.adapters import MOST_ADAPTERS
from qlora_studio.engine.continuation import SideBySide
from qlora_studio.engine.device import Device
from qlora_studio.engine.fixed_cache import takes_fixed_cache
from qlora_studio.engine.generation import Chat
from qlora_studio.engine.learned_loss import learned_loss
from qlora_studio.engine.model_holder import ModelHolder
from qlora_studio.engine.packed_batch import on_device
from qlora_studio.engine.recorded_step import RecordedStep
from qlora_studio.errors import StudioError
from qlora_studio.protocol.commands import Generate, LoadModel, Sampling
from qlora_studio.protocol.events import GenerationFinished, LoadingProgress, ModelLoaded, TextGenerated
from tests.engine.tiny import CPU, FAMILIES, events_of, make_model, make_rows, make_run
from tests.engine.tuned_run import make_tuned_run

PROMPT = tuple(range(10, 30))
GREEDY = Sampling(greedy=True, max_tokens=12)


def never() -> bool:
    return False


def chat_with(model: Path, holder: ModelHolder | None = None, **changes: Any) -> Chat:
    chat = Chat(holder or ModelHolder(CPU))
    settings = {"quantization": "nf4", "compute_dtype": "float32"} | changes
    list(chat.load(LoadModel(id=1, model=str(model), **settings)))
    return chat


def reply_of(
    chat: Chat,
    adapter: Path | None = None,
    sampling: Sampling = GREEDY,
    stopped: Callable[[], bool] = never,
    prompt: tuple[int, ...] = PROMPT,
    stop_ids: tuple[int, ...] = (),
) -> GenerationFinished:
    *told, finished = chat.answer(
        Generate(
            id=2,
            prompt_ids=prompt,
            adapter=str(adapter) if adapter else None,
            stop_ids=stop_ids,
            sampling=sampling,
        ),
        stopped,
    )
    assert isinstance(finished, GenerationFinished)
    assert "".join(event.text for event in told if isinstance(event, TextGenerated)) == finished.reply
    return finished


def test_the_first_token_is_told_as_soon_as_it_is_there(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qlora_studio.engine.generation._TELL_EVERY_S", 3600.0)
    chat = chat_with(model)
    first, *_, finished = chat.answer(Generate(id=2, prompt_ids=PROMPT, sampling=GREEDY), never)
    assert isinstance(first, TextGenerated) and isinstance(finished, GenerationFinished)
    assert (first.tokens, bool(first.text)) == (1, True)
    assert finished.tokens > 1


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Its end token is said only where a test asks for it."""
    return make_model(tmp_path / "model", "llama", eos_token_id=2)


@pytest.fixture
def run(tmp_path: Path, model: Path) -> Path:
    """A finished run whose adapter says something else than its base."""
    return make_tuned_run(tmp_path, model)


@pytest.fixture
def runs_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card, where the token after the next is begun before the next is read."""
    monkeypatch.setattr(continuation, "_repeats_steps", takes_fixed_cache)


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(seed=3, max_tokens=12),
        Sampling(greedy=True, repeat_penalty=1.5, max_tokens=12),
    ],
)
def test_replies_written_ahead_are_those_written_one_by_one(
    request: pytest.FixtureRequest, model: Path, sampling: Sampling
) -> None:
    chat = chat_with(model)
    one_by_one = reply_of(chat, sampling=sampling)
    request.getfixturevalue("runs_ahead")
    ahead = [reply_of(chat, sampling=sampling) for _ in range(2)]

    said = [(reply.reply, reply.tokens, reply.ended) for reply in (one_by_one, *ahead)]
    assert said == said[:1] * 3
    assert one_by_one.tokens > 3


def test_base_and_adapter_written_ahead_take_turns(
    request: pytest.FixtureRequest, run: Path, model: Path
) -> None:
    chat = chat_with(model)
    wanted = [reply_of(chat, adapter).reply for adapter in (None, run / "adapter")] * 2
    request.getfixturevalue("runs_ahead")

    assert [reply_of(chat, adapter).reply for adapter in (None, run / "adapter") * 2] == wanted


@pytest.fixture
def runs(tmp_path: Path, model: Path) -> list[Path]:
    """Finished runs whose adapters say something else than their base, and than each other."""
    return [make_tuned_run(tmp_path / f"r{rank}", model, lora__r=rank) for rank in (4, 7)]


def replies_of(
    chat: Chat, commands: list[Generate], is_stopped: Callable[[int], bool] = lambda _: False
) -> dict[int, GenerationFinished]:
    """By id; what was told of each is its reply, and nothing is told after its end."""
    told: dict[int, str] = {}
    finished: dict[int, GenerationFinished] = {}
    for event in chat.answer_each(commands, is_stopped):
        assert isinstance(event, TextGenerated | GenerationFinished)
        assert event.id not in finished
        if isinstance(event, TextGenerated):
            told[event.id] = told.get(event.id, "") + event.text
        else:
            finished[event.id] = event
    assert told == {number: event.reply for number, event in finished.items() if event.reply}
    return finished


def asked_of(runs: list[Path], sampling: Sampling = GREEDY) -> list[Generate]:
    """Base and adapters, about prompts of unequal length."""
    adapters = [None, *(str(run / "adapter") for run in runs)]
    return [
        Generate(id=7 + side, prompt_ids=PROMPT[: 20 - 6 * side], adapter=adapter, sampling=sampling)
        for side, adapter in enumerate(adapters)
    ]


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(seed=3, max_tokens=12), Sampling(greedy=True, repeat_penalty=1.5, max_tokens=12)],
)
def test_replies_side_by_side_are_those_one_after_the_other(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    runs: list[Path],
    sampling: Sampling,
) -> None:
    chat, asked = chat_with(model), asked_of(runs, sampling)
    one_after_the_other = replies_of(chat, asked)
    request.getfixturevalue("runs_ahead")
    steps: list[int] = []
    step = RecordedStep.logits_after_each
    monkeypatch.setattr(
        RecordedStep, "logits_after_each", lambda *given: (steps.append(len(given[1])), step(*given))[1]
    )
    beside = [replies_of(chat, asked) for _ in range(2)]

    said = [
        {number: (reply.reply, reply.tokens, reply.ended) for number, reply in replies.items()}
        for replies in (one_after_the_other, *beside)
    ]
    assert said == said[:1] * 3
    assert len({reply.reply for reply in one_after_the_other.values()}) == 3
    assert steps == [3] * len(steps)
    assert 0 < len(steps) <= 2 * 12


def test_a_reply_that_is_stopped_leaves_those_beside_it_alone(
    runs_ahead: None, model: Path, runs: list[Path]
) -> None:
    chat, asked = chat_with(model), asked_of(runs)
    whole = replies_of(chat, asked)
    looks = {command.id: iter(range(100)) for command in asked}
    stopped = replies_of(chat, asked, lambda number: number == 8 and next(looks[number]) >= 3)

    assert (stopped[8].ended, stopped[8].tokens) == ("stopped", 3)
    assert [stopped[number].reply for number in (7, 9)] == [whole[number].reply for number in (7, 9)]


def test_texts_that_do_not_fit_together_take_turns(
    runs_ahead: None, monkeypatch: pytest.MonkeyPatch, model: Path, runs: list[Path]
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    chat, asked = chat_with(model), asked_of(runs)
    wanted = {number: reply.reply for number, reply in replies_of(chat, asked).items()}
    monkeypatch.setattr(SideBySide, "begin", full)

    assert {number: reply.reply for number, reply in replies_of(chat, asked).items()} == wanted


def test_texts_that_take_turns_leave_no_memory_of_all_of_them(
    runs_ahead: None, monkeypatch: pytest.MonkeyPatch, model: Path, runs: list[Path]
) -> None:
    begin, held = SideBySide.begin, []

    def full(texts: SideBySide, prompts: Sequence[Sequence[int]]) -> None:
        begin(texts, prompts)
        held.extend(weakref.ref(what) for what in (texts, texts._cache, texts._step))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    chat = chat_with(model)
    still_held: list[list[bool]] = []
    free = type(chat._holder.device).empty_cache

    def empty_cache(device: Device) -> None:
        still_held.append([what() is not None for what in held])
        free(device)

    monkeypatch.setattr(SideBySide, "begin", full)
    monkeypatch.setattr(type(chat._holder.device), "empty_cache", empty_cache)
    replies_of(chat, asked_of(runs))

    assert still_held == [[False] * 3]


def test_replies_side_by_side_need_no_room_beyond_the_context(runs_ahead: None, tmp_path: Path) -> None:
    model = make_model(tmp_path / "short", "llama", max_position_embeddings=24, eos_token_id=2)
    run = make_tuned_run(tmp_path / "run", model)
    replies = replies_of(chat_with(model), asked_of([run]))

    assert (replies[7].ended, replies[7].tokens) == ("context", 5)
    assert (replies[8].ended, replies[8].tokens) in [("context", 11), ("end", replies[8].tokens)]


def test_a_reply_written_ahead_ends_where_the_model_holds_no_more(runs_ahead: None, tmp_path: Path) -> None:
    chat = chat_with(make_model(tmp_path / "short", "llama", max_position_embeddings=24))
    reply = reply_of(chat)
    assert (reply.ended, reply.tokens) == ("context", 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_replies_are_those_that_transformers_generates(tmp_path: Path, family: str) -> None:
    folder = make_model(tmp_path / "model", family)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    wanted = plain.generate(
        torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=0
    )[0, len(PROMPT) :]

    chat = chat_with(folder, quantization="none")
    reply = reply_of(chat)

    ends = [i for i, token in enumerate(wanted.tolist()) if token == 2]
    kept = wanted.tolist()[: ends[0] if ends else None]
    assert reply.reply == load_tokenizer(folder).decode(kept)
    assert reply.ended == ("end" if ends else "length")


def test_the_adapter_answers_as_it_does_in_plain_peft(model: Path, run: Path) -> None:
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), str(run / "adapter")
    )
    wanted = plain.generate(
        input_ids=torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=0
    )[0, len(PROMPT) :]

    chat = chat_with(model, quantization="none")
    tuned, base = reply_of(chat, run / "adapter"), reply_of(chat)

    assert tuned.reply == load_tokenizer(model).decode([token for token in wanted.tolist() if token != 2])
    assert tuned.reply != base.reply


def test_base_and_adapters_take_turns_without_loading_the_base_again(
    model: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = chat_with(model)
    base, tuned = reply_of(chat), reply_of(chat, run / "adapter")
    monkeypatch.setattr(loading, "_fill", None)  # would raise
    again = [reply_of(chat), reply_of(chat, run / "adapter"), reply_of(chat)]
    assert [reply.reply for reply in again] == [base.reply, tuned.reply, base.reply]
    assert base.reply != tuned.reply


def test_a_chat_after_a_run_uses_the_base_that_is_there(tmp_path: Path, model: Path) -> None:
    holder = ModelHolder(CPU)
    run = make_run(tmp_path, model, training__steps=1)
    events_of(run, holder=holder)
    trained_on = holder.held

    chat = chat_with(model, holder)

    assert holder.held is trained_on
    assert reply_of(chat).reply == reply_of(chat_with(model)).reply


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_chat_changes_no_bit_of_the_gradients(tmp_path: Path, dtype: str) -> None:
    """bitsandbytes rewrites 4-bit weights for inference on a CPU unless it is kept from it."""
    model = make_model(tmp_path / "model", "llama")
    run = make_tuned_run(tmp_path, model, model__compute_dtype=dtype)
    holder = ModelHolder(CPU)
    chat = chat_with(model, holder, compute_dtype=dtype)
    before = gradients(holder, run)

    reply_of(chat)
    reply_of(chat, run / "adapter")
    reply_of(chat, run / "adapter", Sampling(seed=3, max_tokens=5))
    reply_of(chat)

    after = gradients(holder, run)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def gradients(holder: ModelHolder, run: Path) -> dict[str, torch.Tensor]:
    """Of the run's adapter, on rows of its kind."""
    adapted = holder.held
    assert adapted is not None
    name = adapted.add_from(run / "adapter")
    adapted.use(name)
    batch = collate([(0, 1, 2)], RowsInMemory(make_rows(3)), pad_id=0)
    adapted.causal_lm.train()
    learned_loss(adapted.causal_lm, on_device(batch, CPU.torch_device, keep_padding=False)).backward()  # type: ignore[no-untyped-call]
    found = {}
    for key, weight in adapted.trained_parameters(name):
        assert weight.grad is not None
        found[key], weight.grad = weight.grad, None
    return found


def test_a_run_after_a_chat_learns_the_same_as_one_without(tmp_path: Path, model: Path, run: Path) -> None:
    def adapter_after(holder: ModelHolder) -> bytes:
        other = make_run(tmp_path, model, training__steps=2)
        events_of(other, holder=holder)
        return (other / "adapter" / "adapter_model.safetensors").read_bytes()

    holder = ModelHolder(CPU)
    chat = chat_with(model, holder)
    reply_of(chat, run / "adapter")
    assert adapter_after(holder) == adapter_after(ModelHolder(CPU))


def test_the_same_seed_says_the_same(model: Path) -> None:
    chat = chat_with(model)
    warm = Sampling(temperature=2.0, top_k=0, top_p=1.0, seed=5, max_tokens=20)
    other = Sampling(temperature=2.0, top_k=0, top_p=1.0, seed=6, max_tokens=20)
    assert reply_of(chat, sampling=warm).reply == reply_of(chat, sampling=warm).reply
    assert reply_of(chat, sampling=warm).reply != reply_of(chat, sampling=other).reply


def test_a_reply_stops_before_the_next_token(model: Path) -> None:
    asked = iter(range(100))
    reply = reply_of(chat_with(model), stopped=lambda: next(asked) >= 3)
    assert (reply.ended, reply.tokens) == ("stopped", 3)


def test_a_reply_ends_where_the_model_holds_no_more(tmp_path: Path) -> None:
    chat = chat_with(make_model(tmp_path / "short", "llama", max_position_embeddings=24))
    reply = reply_of(chat)
    assert (reply.ended, reply.tokens) == ("context", 5)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_reply_ends_at_a_token_of_the_template(
    request: pytest.FixtureRequest, model: Path, ahead: bool
) -> None:
    if ahead:
        request.getfixturevalue("runs_ahead")
    chat = chat_with(model)
    words = reply_of(chat).reply.split()
    third = ord(words[2]) - 64
    reply = reply_of(chat, stop_ids=(third,))
    assert reply.ended == "end"
    assert reply.reply.split() == words[: words.index(words[2])]


def test_text_comes_at_most_twenty_times_a_second(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(0.01 * tick for tick in range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    events = list(
        chat_with(model).answer(
            Generate(id=1, prompt_ids=PROMPT, sampling=Sampling(greedy=True, max_tokens=60)), never
        )
    )
    assert 2 < len(events) <= 60 * 0.03 / 0.05 + 2


@pytest.mark.parametrize(
    ("prompt", "words"),
    [((), "no token"), ((5, 96), "doesn't know"), (tuple([5] * 256), "256 tokens long; the model holds 256")],
)
def test_a_prompt_that_can_not_be_answered_is_told_why(
    model: Path, prompt: tuple[int, ...], words: str
) -> None:
    with pytest.raises(StudioError, match=words):
        reply_of(chat_with(model), prompt=prompt)


def test_a_chat_without_a_model_says_so() -> None:
    with pytest.raises(StudioError, match="No model is loaded"):
        reply_of(Chat(ModelHolder(CPU)))


def test_an_adapter_that_is_gone_is_named_and_the_chat_goes_on(model: Path, tmp_path: Path) -> None:
    chat = chat_with(model)
    with pytest.raises(StudioError, match="gone"):
        reply_of(chat, tmp_path / "gone")
    assert reply_of(chat).tokens == 12


def test_adapters_used_longest_ago_are_forgotten(tmp_path: Path, model: Path, run: Path) -> None:
    folders = [tmp_path / f"copy-{number}" for number in range(MOST_ADAPTERS + 2)]
    for folder in folders:
        shutil.copytree(run / "adapter", folder)
    holder = ModelHolder(CPU)
    chat = chat_with(model, holder)

    replies = {reply_of(chat, folder).reply for folder in (*folders, *folders)}

    assert len(replies) == 1
    assert holder.held is not None
    assert len(holder.held.names) == MOST_ADAPTERS


def test_a_reply_is_by_the_base_it_was_asked_of_whatever_was_loaded_since(
    tmp_path: Path, model: Path
) -> None:
    chat = chat_with(model)
    asked = Generate(id=5, base=1, prompt_ids=PROMPT, sampling=GREEDY)
    expected = list(chat.answer(asked, never))[-1]
    other = make_model(tmp_path / "other", "qwen2")
    list(chat.load(LoadModel(id=2, model=str(other), quantization="none", compute_dtype="float32")))

    loading, *_, finished = chat.answer(asked, never)

    assert isinstance(loading, LoadingProgress)
    assert isinstance(expected, GenerationFinished)
    assert isinstance(finished, GenerationFinished)
    assert finished.reply == expected.reply


def test_a_base_that_was_never_loaded_is_refused(model: Path) -> None:
    with pytest.raises(StudioError, match="No model is loaded"):
        list(chat_with(model).answer(Generate(id=5, base=7, prompt_ids=PROMPT), never))


@pytest.mark.parametrize("free", [0, 1_000])
def test_what_can_not_fit_beside_a_run_is_not_loaded(  # R14
    model: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """A run of another window has the rest of the device."""
    monkeypatch.setattr(Device, "free_bytes", lambda self: free)
    holder = ModelHolder(CPU)
    with pytest.raises(
        StudioError, match=r"A chat with model needs about .* GiB; 0\.0 GiB are free"
    ) as refused:
        list(Chat(holder).load(LoadModel(id=1, model=str(model), compute_dtype="float32")))
    assert "Pause the run" in refused.value.hint
    assert holder.held is None


def test_what_is_loaded_already_needs_no_room(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat(ModelHolder(CPU))
    list(chat.load(LoadModel(id=1, model=str(model), compute_dtype="float32")))
    monkeypatch.setattr(Device, "free_bytes", lambda self: 0)
    assert len(list(chat.load(LoadModel(id=2, model=str(model), compute_dtype="float32")))) == 1


def test_what_is_loaded_is_told(model: Path) -> None:
    events = list(Chat(ModelHolder(CPU)).load(LoadModel(id=1, model=str(model), compute_dtype="float32")))
    loaded = events[-1]
    assert isinstance(loaded, ModelLoaded)
    assert (loaded.model, loaded.compute_dtype, loaded.trainable_parameters) == (str(model), "float32", 0)
