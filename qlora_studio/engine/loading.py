"""Puts a base model on the device: a weight at a time, quantized there. No 16-bit model is ever in memory."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedModel

from qlora_studio.config.run_config import SHAPE_PREFIX
from qlora_studio.engine.architecture import architecture_of
from qlora_studio.engine.device import Device
from qlora_studio.engine.frozen_weights import Storage, place, stored_bytes, use_quantized_linears
from qlora_studio.engine.staged_reading import StagedReading
from qlora_studio.errors import StudioError
from qlora_studio.models.check import model_folder
from qlora_studio.models.clean_config import clean_config
from qlora_studio.models.model_folder import open_folder
from qlora_studio.models.safetensors_header import StoredTensor
from qlora_studio.models.shapes import folder_plan, known_config
from qlora_studio.models.stored_weights import stored_weights
from qlora_studio.models.tensor_plan import tensor_plan
from qlora_studio.protocol.events import LoadingProgress

_PROGRESS_S = 0.1
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(eq=False)
class BaseModel:
    """A frozen model on the device, in evaluation mode.

    source:      its folder, or "shape:NAME"
    stop_ids:    tokens that end a reply
    unquantized: full names of the linear layers that are stored as they are, whatever becomes of the others
    """

    causal_lm: PreTrainedModel
    source: str
    storage: Storage
    device: Device
    parameters: int
    weight_bytes: int
    stop_ids: tuple[int, ...]
    seconds: float
    unquantized: frozenset[str]


Loading = Generator[LoadingProgress, None, BaseModel]
_Weights = Iterator[tuple[str, Tensor]]  # (name in the model, numbers), on the CPU or the device


def load_base(model: str, storage: Storage, device: Device) -> Loading:
    """`model` as a run's settings name it: a folder, "sample" or "shape:NAME".

    Raises: StudioError naming the tensor that is missing, left over, misshapen or holds NaN or Inf (S4).
    """
    if model.startswith(SHAPE_PREFIX):
        return _load_random(model, storage, device)
    return _load_folder(model_folder(model), storage, device)


def _load_folder(folder: Path, storage: Storage, device: Device) -> Loading:
    start = time.monotonic()
    config = clean_config(folder)
    plan = folder_plan(folder)
    stored = stored_weights(folder, plan)
    empty = _empty_model(config.model_type, config.values, storage)
    _require_same(_expected(empty), {name: tensor.shape for name, tensor in stored.items()}, folder)
    unquantized = plan.unquantized_names()
    use_quantized_linears(empty, storage, unquantized)
    weights = _read(folder, stored, device)
    yield from _fill(empty, weights, len(stored), str(folder), storage, device, unquantized)
    return _finished(empty, str(folder), storage, device, config.stop_ids, start, unquantized)


def _load_random(source: str, storage: Storage, device: Device) -> Loading:
    """Random weights in a known model's shapes, made and quantized one at a time. For benchmarks."""
    start = time.monotonic()
    model_type, values = known_config(source.removeprefix(SHAPE_PREFIX))
    empty = _empty_model(model_type, values, storage)
    shapes = _expected(empty)
    unquantized = tensor_plan(model_type, values).unquantized_names()
    use_quantized_linears(empty, storage, unquantized)
    weights = _random_weights(shapes, storage.compute_dtype, device.torch_device)
    yield from _fill(empty, weights, len(shapes), source, storage, device, unquantized)
    return _finished(empty, source, storage, device, (), start, unquantized)


def _empty_model(model_type: str, values: Mapping[str, Any], storage: Storage) -> PreTrainedModel:
    """The model's code with no weight in memory; what it computes from its config is there."""
    config = CONFIG_MAPPING[model_type](**values)
    with init_empty_weights(include_buffers=False):
        return architecture_of(config).empty_model(config, values, storage.compute_dtype)


def _expected(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Every weight that must come from somewhere."""
    tied = architecture_of(model.config).tied_names(model)
    weights = model.named_parameters(remove_duplicate=False)
    return {name: tuple(weight.shape) for name, weight in weights if name not in tied}


def _require_same(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], folder: Path
) -> None:
    """The folder was checked against our plan; this is the model's own word."""
    for name in expected.keys() | found.keys():
        if expected.get(name) != found.get(name):
            raise StudioError(
                f"{folder}: the model's code wants {name} as {expected.get(name, 'nothing')}, "
                f"the weights have {found.get(name, 'nothing')}.",
                hint="This variant of the model isn't supported yet.",
            )


def _read(folder: Path, stored: Mapping[str, StoredTensor], device: Device) -> _Weights:
    """File by file, front to back."""
    source = open_folder(folder)
    with ExitStack() as stack:
        staged = StagedReading(device.torch_device) if device.is_cuda else None
        if staged is not None:
            stack.callback(staged.close)
        for file_name in sorted({tensor.file for tensor in stored.values()}):
            here = [(name, tensor) for name, tensor in stored.items() if tensor.file == file_name]
            here.sort(key=lambda item: item[1].offset)
            with source.open(file_name) as file:
                for name, tensor in here:
                    if staged is None:
                        yield name, read_stored(file, tensor, folder)
                        continue
                    dtype, path = _DTYPES[tensor.dtype], folder / tensor.file
                    yield name, staged.read(file, tensor.offset, tensor.bytes, dtype, tensor.shape, path)


def read_stored(file: BinaryIO, tensor: StoredTensor, folder: Path) -> Tensor:
    """A tensor's numbers as the file has them. Raises: StudioError where they end too early."""
    file.seek(tensor.offset)
    data = bytearray(tensor.bytes)
    if file.readinto(data) != tensor.bytes:  # type: ignore[attr-defined]  # BinaryIO lacks it
        raise StudioError(f"{folder / tensor.file} became shorter while it was read.")
    return torch.frombuffer(data, dtype=_DTYPES[tensor.dtype]).reshape(tensor.shape)


def _random_weights(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> _Weights:
    random = torch.Generator(device).manual_seed(0)
    for name, shape in shapes.items():
        tensor = torch.empty(shape, dtype=dtype, device=device)
        if len(shape) > 1:
            tensor.normal_(0.0, 0.02, generator=random)
        else:
            tensor.fill_(0.0 if name.endswith("bias") else 1.0)
        yield name, tensor


def _fill(
    model: PreTrainedModel,
    weights: _Weights,
    count: int,
    source: str,
    storage: Storage,
    device: Device,
    unquantized: frozenset[str],
) -> Iterator[LoadingProgress]:
    doing = "Loading" if storage.quantization == "none" else "Quantizing"
    words = f"{doing} {Path(source).name}"
    told = -_PROGRESS_S
    finite: dict[str, Tensor] = {}
    for done, (name, tensor) in enumerate(weights):
        if time.monotonic() - told >= _PROGRESS_S:
            told = time.monotonic()
            yield LoadingProgress(done=done, total=count, words=words)
        owner, _, own_name = name.rpartition(".")
        on_device = place(
            model.get_submodule(owner),
            own_name,
            tensor,
            storage,
            device.torch_device,
            unquantized=owner in unquantized,
        )
        # Looked at below: no wait for the card at each. isfinite alone would copy an embedding twice.
        finite[name] = torch.isfinite(torch.stack(torch.aminmax(on_device))).all()
    yield LoadingProgress(done=count, total=count, words=words)
    _require_finite(finite, source)


def _require_finite(finite: Mapping[str, Tensor], source: str) -> None:
    for name, all_finite in finite.items():
        if not bool(all_finite):
            raise StudioError(
                f"{source}: {name} holds numbers that are not finite (NaN or Inf).",
                hint="The weights are damaged, or too large for float16; download the model again.",
            )


def _finished(
    model: PreTrainedModel,
    source: str,
    storage: Storage,
    device: Device,
    stop_ids: tuple[int, ...],
    start: float,
    unquantized: frozenset[str],
) -> BaseModel:
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device.torch_device))
    device.empty_cache()  # what weights were turned into others in
    architecture_of(model.config).tie(model)
    model.eval()
    model.name_or_path = source  # peft writes it into adapter_config.json
    return BaseModel(
        causal_lm=model,
        source=source,
        storage=storage,
        device=device,
        parameters=_parameters(model),
        weight_bytes=stored_bytes(model),
        stop_ids=stop_ids,
        seconds=time.monotonic() - start,
        unquantized=unquantized,
    )


def _parameters(model: nn.Module) -> int:
    """Numbers learned before quantization; a tied head counts once."""
    count = 0
    for weight in model.parameters():
        state = getattr(weight, "quant_state", None)
        count += weight.numel() if state is None else state.shape.numel()
    return count
