"""The weights of a folder against what the model needs: every tensor, once, in its shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from qlora_studio.errors import StudioError
from qlora_studio.models.families import FAMILIES
from qlora_studio.models.own_head import HEAD, differ
from qlora_studio.models.safetensors_header import StoredTensor
from qlora_studio.models.tensor_plan import TensorPlan
from qlora_studio.models.weights_index import WeightsIndex, read_weights_index

_FLOATS = ("BF16", "F16", "F32", "F64")
# Left in files by older versions of transformers; computed anew, never learned.
_BUFFERS = re.compile(
    r"\.(rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias|attention\.bias|attention\.masked_bias)$"
)


def stored_weights(folder: Path, plan: TensorPlan) -> dict[str, StoredTensor]:
    """Each tensor the model needs, by the name it has in the model.

    Raises: StudioError naming the tensor that is missing, misshapen, of another type or not needed (S3, S4).
    """
    index = read_weights_index(folder)
    stored = _named_as_in_the_model(index, plan)
    found: dict[str, StoredTensor] = {}
    for name, shape in plan.tensors():
        tensor = stored.pop(name, None)
        if tensor is None:
            raise StudioError(
                f"{folder}: tensor {name} is missing in {_files_in_words(index)}.",
                hint="The model is incomplete or config.json belongs to another; download it again.",
            )
        if tensor.shape != shape:
            raise StudioError(
                f"{folder / tensor.file}: tensor {name} is {_by(tensor.shape)}; "
                f"config.json makes it {_by(shape)}."
            )
        if tensor.dtype not in _FLOATS:
            raise StudioError(
                f"{folder / tensor.file}: tensor {name} is stored as {tensor.dtype}; "
                "weights must be BF16, F16, F32 or F64.",
                hint="Choose the model's 16-bit version.",
            )
        found[name] = tensor
    _refuse_rest(stored, folder, plan, found[plan.embedding])
    return found


def _named_as_in_the_model(index: WeightsIndex, plan: TensorPlan) -> dict[str, StoredTensor]:
    """Without old buffers; names of older files, and of files saved without the head, as they are now."""
    renamed = {**FAMILIES[plan.model_type].renamed, **_embedding_by_another_name(index, plan)}
    prefix = plan.stacks[0].prefix.partition(".")[0] + "."
    bare = not any(name.startswith(prefix) for name in index.tensors)
    named: dict[str, StoredTensor] = {}
    for stored_name, tensor in index.tensors.items():
        if _BUFFERS.search(stored_name) or stored_name in plan.unused:
            continue
        name = renamed.get(stored_name, stored_name)
        if bare and not name.startswith("lm_head."):
            name = prefix + name
        if name in named:
            raise StudioError(f"{index.folder / tensor.file}: tensor {name[:200]!r} is stored twice.")
        named[name] = tensor
    return named


def _embedding_by_another_name(index: WeightsIndex, plan: TensorPlan) -> dict[str, str]:
    """Of what is tied together a file may keep any one name."""
    if plan.embedding in index.tensors:
        return {}
    names = (*plan.copies, *((HEAD,) if plan.copies and plan.sizes.tied else ()))
    return dict.fromkeys([name for name in names if name in index.tensors][:1], plan.embedding)


def _refuse_rest(
    rest: Mapping[str, StoredTensor], folder: Path, plan: TensorPlan, embedding: StoredTensor
) -> None:
    for name, tensor in rest.items():
        again = name in plan.copies or (name == HEAD and plan.sizes.tied)
        if again and tensor.shape == embedding.shape:  # the embedding written a second time
            if not differ(folder, tensor, embedding):
                continue
            raise StudioError(
                f"{folder / tensor.file}: {name} holds other numbers than {plan.embedding}; by config.json "
                "they are one.",
                hint="If the model has a head of its own, set tie_word_embeddings to false in config.json.",
            )
        raise StudioError(
            f"{folder / tensor.file}: tensor {name[:200]!r} has no place in a {plan.model_type} model "
            f"with {sum(stack.layers for stack in plan.stacks)} layers.",
            hint="config.json may belong to another model.",
        )


def _files_in_words(index: WeightsIndex) -> str:
    return index.files[0] if len(index.files) == 1 else f"{len(index.files)} files"


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape) or "a single number"
