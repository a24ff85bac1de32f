"""What was exported beside the adapter as trained: the same prompts, the same replies, token by token."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import AutoConfig, PreTrainedModel

from qlora_studio.data.packing import collate
from qlora_studio.data.tokenized_row import RowsInMemory, TokenizedRow
from qlora_studio.engine.architecture import architecture_of
from qlora_studio.engine.greedy import continue_together
from qlora_studio.engine.learned_loss import Head, learned_hidden_states
from qlora_studio.engine.merging import TensorOf, base_layer, is_turned
from qlora_studio.engine.packed_batch import on_device

REPLY_TOKENS = 32  # of each reply that are compared
_TOGETHER = 16  # replies written at once, in hardly more time than one


@dataclass(frozen=True)
class Talk:
    """A prompt and what the adapter as trained replies, in tokens."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]

    @property
    def compared(self) -> int:
        """Tokens that are predicted: the reply, and the one that follows it."""
        return len(self.reply) + 1


@dataclass(frozen=True, eq=False)
class Reference:
    """The adapter as trained: what it replies, and how likely it finds every token there."""

    talks: list[Talk]
    log_probabilities: list[Tensor]  # float32 [compared, vocabulary] of each, on the CPU


@dataclass(frozen=True)
class Parting:
    """The first token at which a greedy reply is another one than the adapter's.

    talk, place: from 0; the place after the reply's last token is that of its end
    wanted, found: token ids
    nats: by how much the adapter as trained finds its own token likelier
    """

    talk: int
    place: int
    wanted: int
    found: int
    nats: float


@dataclass(frozen=True)
class Difference:
    """Of the probabilities that two models give to what follows, teacher-forced on the same replies.

    agreement: share of tokens of which both think that they are the likeliest
    mean_kl:   nats a token, of the one as trained from the other
    drift:     nats, the largest difference of the log-probability of a token of the replies
    partings:  of each reply that the other would write in another way
    """

    agreement: float
    mean_kl: float
    drift: float
    partings: list[Parting]


def greedy_talks(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    stop_ids: Collection[int],
    go_on: Callable[[], None],
) -> list[Talk]:
    """What the model replies. go_on: called before each token; raises what ends it."""
    talks: list[Talk] = []
    for start in range(0, len(prompts), _TOGETHER):
        together = prompts[start : start + _TOGETHER]
        go_on()
        writing = continue_together(model, together, REPLY_TOKENS, stop_ids)
        while True:
            try:
                next(writing)
            except StopIteration as finished:
                replies: list[list[int]] = finished.value
                break
            go_on()
        talks += [Talk(prompt, tuple(reply)) for prompt, reply in zip(together, replies, strict=True)]
    return talks


@torch.no_grad()
def log_probabilities(model: PreTrainedModel, talks: Sequence[Talk]) -> Iterator[Tensor]:
    """float32 [compared, vocabulary] of each talk, by a model of ours: one forward pass for all of them."""
    model.eval()
    second = architecture_of(model.config).second_chat_of
    rows = RowsInMemory([_row(talk, second(len(talk.prompt))) for talk in talks])
    batch = collate([tuple(range(len(talks)))], rows, pad_id=0)
    hidden = learned_hidden_states(model, on_device(batch, model.device, keep_padding=False))
    head = Head.of(model)
    for part in hidden.split_with_sizes([talk.compared for talk in talks]):
        yield head.logits(part).log_softmax(-1)


@torch.no_grad()
def plain_log_probabilities(
    folder: Path, talks: Sequence[Talk], dtype: torch.dtype, device: torch.device
) -> Iterator[Tensor]:
    """The same by a model that transformers alone loads from `folder`: what any other program will see."""
    architecture = architecture_of(AutoConfig.from_pretrained(folder, local_files_only=True))
    model = architecture.auto_model.from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": str(device)},  # 4-bit weights stay where they are put
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    ).eval()
    for talk in talks:
        ids = torch.tensor([[*talk.prompt, *talk.reply]], device=device)
        logits = architecture.plain_logits(model, ids, talk.compared)
        yield logits.float().log_softmax(-1)


@contextlib.contextmanager
def weights_from(model: PreTrainedModel, linears: Iterable[str], tensor_of: TensorOf) -> Iterator[None]:
    """Within the block these layers multiply with the weight that `tensor_of` gives, without adapter.

    A weight is made when its layer is reached and gone after it: the whole of them is never in memory.
    """
    replaced: list[tuple[str, Any]] = [(name, model.get_submodule(name)) for name in linears]
    for name, module in replaced:
        module.forward = _product_with(tensor_of, f"{name}.weight", module)
    try:
        yield
    finally:
        for _, module in replaced:
            del module.forward


def difference(trained: Reference, exported: Iterable[Tensor]) -> Difference:
    """exported: [compared, vocabulary] log-probabilities of each talk."""
    agree, kl, drift, tokens = 0, 0.0, 0.0, 0
    there: list[list[int]] = []
    for p, other in zip(trained.log_probabilities, exported, strict=True):
        q = other.to(p.device)
        likeliest = p.argmax(-1)
        there.append(q.argmax(-1).tolist())
        agree += int((likeliest == q.argmax(-1)).sum())
        kl += float((p.exp() * (p - q)).nan_to_num(0.0).sum())  # 0 * (-inf - -inf): never possible in both
        at = likeliest[:, None]
        drift = max(drift, float((p.gather(-1, at) - q.gather(-1, at)).abs().max()))
        tokens += len(p)
    return Difference(agree / tokens, max(kl / tokens, 0.0), drift, partings(trained, there))


def partings(trained: Reference, likeliest: Sequence[Sequence[int]]) -> list[Parting]:
    """likeliest: of each talk the token that the other model finds likeliest at each place compared."""
    found = []
    for number, (talk, p, there) in enumerate(
        zip(trained.talks, trained.log_probabilities, likeliest, strict=True)
    ):
        wanted = [*talk.reply, int(p[-1].argmax())]
        for place, (own, other) in enumerate(zip(wanted, there, strict=True)):
            if own != other:
                # Written with other texts beside it and read in one pass, its rounding isn't quite the same.
                nats = max(float(p[place, own] - p[place, other]), 0.0)
                found.append(Parting(number, place, own, other, nats))
                break
    return found


def _row(talk: Talk, second: int) -> TokenizedRow:
    ids = np.array([*talk.prompt, *talk.reply, 0], dtype=np.int32)  # the last one only marks a place
    weights = np.zeros(len(ids), dtype=np.float32)
    weights[-talk.compared :] = 1
    return TokenizedRow(0, ids, weights, second)


def _product_with(tensor_of: TensorOf, name: str, module: Any) -> Callable[[Tensor], Tensor]:
    bias = base_layer(module).bias
    turned = is_turned(module)

    def product(x: Tensor) -> Tensor:
        weight = tensor_of(name).to(device=x.device, dtype=x.dtype)
        return linear(x, weight.T if turned else weight, bias)

    return product
