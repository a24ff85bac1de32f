"""A foreign adapter against its base: rebuilt from its tensors, its own words only compared (S5)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qlora_studio.errors import StudioError
from qlora_studio.models.check import model_folder
from qlora_studio.models.families import ENCODER_DECODERS
from qlora_studio.models.finite import not_finite
from qlora_studio.models.layouts import Linear
from qlora_studio.models.model_folder import ModelFolder, open_folder
from qlora_studio.models.pickles import pickle_error
from qlora_studio.models.safetensors_header import StoredTensor, read_header
from qlora_studio.models.shapes import folder_plan
from qlora_studio.models.strict_json import strict_object

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
HIGHEST_RANK = 1024
CAUSAL_LM, SEQ_2_SEQ_LM = "CAUSAL_LM", "SEQ_2_SEQ_LM"  # peft's words for the kinds of model
_LONGEST_CONFIG = 1024**2  # bytes
_PREFIX = "base_model.model."
_A, _B, _LENGTHS = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
_OUTSIDE = (
    "lm_head",
    "embed_tokens",
    "embed_in",
    "embed_out",
    "wte",
    "shared",
)  # linear or not, they are in no block
_FLOATS = ("F32", "F16", "BF16")
# Ways to begin that take a part out of the base's weights: on the weights as they are it'd count twice.
_CHANGES_THE_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", re.ASCII)
# Methods that change what the tensors mean. Empty or false is how peft says "not used".
_REFUSED = (
    "modules_to_save",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)


@dataclass(frozen=True)
class CheckedAdapter:
    """What the tensors say, and alpha and the two switches of the file.

    r, alpha:       of the layers that `ranks` and `alphas` don't name
    target_modules: exact names in the base model
    dora:           each weight's columns have a length of their own
    ranks, alphas:  by exact name, of the layers where they are others
    task_type:      what peft calls models of the base's kind
    """

    r: int
    alpha: float
    rslora: bool
    dora: bool
    target_modules: tuple[str, ...]
    parameters: int
    warnings: tuple[str, ...]
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    task_type: str = CAUSAL_LM

    def peft_config(self) -> dict[str, Any]:
        """Arguments of peft's LoraConfig. Nothing of theirs but numbers and switches."""
        config: dict[str, Any] = {
            "r": self.r,
            "lora_alpha": self.alpha,
            "use_rslora": self.rslora,
            "use_dora": self.dora,
            "target_modules": list(self.target_modules),
            "lora_dropout": 0.0,
            "bias": "none",
            "task_type": self.task_type,
        }
        for name, values in (("rank_pattern", self.ranks), ("alpha_pattern", self.alphas)):
            if values:
                config[name] = {re.escape(module): value for module, value in values.items()}
        return config


def clean_adapter_config(folder: Path, base: str) -> dict[str, Any]:
    """Arguments of peft's LoraConfig for the engine. Raises: StudioError as `check_adapter` does."""
    return check_adapter(folder, base).peft_config()


def check_adapter(folder: Path, base: str) -> CheckedAdapter:
    """`base` is the user's choice, never the file's. Raises: StudioError naming the file and the field."""
    source = open_folder(folder, hint="Choose an adapter's folder, which holds adapter_config.json.")
    tensors = _tensors(source)
    plan = folder_plan(model_folder(base))
    linears = dict(plan.linears())
    modules = _modules(tensors, linears, source.path / WEIGHTS, base)
    ranks = _ranks(tensors, modules, linears, source.path / WEIGHTS)
    dora = any(name.endswith(_LENGTHS) for name in tensors)
    said = _said(source)
    where = source.path / CONFIG
    task_type = SEQ_2_SEQ_LM if plan.model_type in ENCODER_DECODERS else CAUSAL_LM
    r, alpha, rslora = _compare(said, ranks, dora, task_type, where)
    alphas = {name: _alpha(value, where) for name, value in _by_module(said, "alpha_pattern", modules, where)}
    bad = not_finite(source, tensors)
    if bad:
        raise StudioError(
            f"{source.path / WEIGHTS}: tensor {bad[0]} holds numbers that are not finite (NaN or Inf).",
            hint="The training that made it broke down; use an earlier checkpoint.",
        )
    return CheckedAdapter(
        r=r,
        alpha=alpha,
        rslora=rslora,
        dora=dora,
        target_modules=modules,
        parameters=sum(tensor.elements for tensor in tensors.values()),
        warnings=_warnings(source, said, ranks, linears),
        ranks={module: rank for module, rank in ranks.items() if rank != r},
        alphas={module: value for module, value in alphas.items() if value != alpha},
        task_type=task_type,
    )


def _tensors(source: ModelFolder) -> dict[str, StoredTensor]:
    if source.has(WEIGHTS):
        return read_header(source, WEIGHTS)
    if pickled := pickle_error(source):
        raise pickled
    raise StudioError(
        f"{source.path / WEIGHTS} is missing, so this is no adapter that can be read.",
        hint=f"Choose a folder with {CONFIG} and {WEIGHTS}.",
    )


def _modules(
    tensors: Mapping[str, StoredTensor], linears: Mapping[str, Linear], where: Path, base: str
) -> tuple[str, ...]:
    """The base's layers that it adapts, in the model's order; each with A and B."""
    found: dict[str, set[str]] = {}
    for name in tensors:
        part = next((part for part in (_A, _B, _LENGTHS) if name.endswith(part)), None)
        module = name.removeprefix(_PREFIX).removesuffix(part or "")
        if part is None or not name.startswith(_PREFIX):
            raise StudioError(f"{where}: tensor {name[:200]!r} is no part of a LoRA on linear layers.")
        if module not in linears and module.rpartition(".")[2] in _OUTSIDE:
            raise StudioError(
                f"{where}: tensor {name[:200]!r} adapts the model's {module.rpartition('.')[2]}; only "
                "adapters of the linear layers in its blocks are read."
            )
        if module not in linears:
            raise StudioError(
                f"{where}: tensor {name[:200]!r} belongs to a layer that {base} doesn't have.",
                hint="Choose the base model that the adapter was trained on.",
            )
        found.setdefault(module, set()).add(part)
    if not found:
        raise StudioError(f"{where} holds no tensor.")
    dora = any(_LENGTHS in parts for parts in found.values())
    for module, parts in found.items():
        missing = ({_A, _B, _LENGTHS} if dora else {_A, _B}) - parts
        if missing:
            raise StudioError(f"{where}: tensor {_PREFIX}{module}{min(missing)} is missing.")
    return tuple(module for module in linears if module in found)


def _ranks(
    tensors: Mapping[str, StoredTensor], modules: tuple[str, ...], linears: Mapping[str, Linear], where: Path
) -> dict[str, int]:
    """Of each layer, from the shapes. Raises: StudioError where a shape doesn't fit the base."""
    ranks: dict[str, int] = {}
    for module in modules:
        linear = linears[module]
        first = tensors[f"{_PREFIX}{module}{_A}"].shape
        r = ranks[module] = first[0] if first else 0
        if not 1 <= r <= HIGHEST_RANK:
            raise StudioError(f"{where}: its rank is {r:,}; it must be between 1 and {HIGHEST_RANK:,}.")
        shapes = {_A: (r, linear.in_features), _B: (linear.out_features, r), _LENGTHS: (linear.out_features,)}
        for part, shape in shapes.items():
            name = f"{_PREFIX}{module}{part}"
            tensor = tensors.get(name)
            if tensor is None:
                continue  # of a plain LoRA; that none is missing was seen before
            if tensor.shape != shape:
                raise StudioError(
                    f"{where}: tensor {name} is {_by(tensor.shape)}; "
                    f"rank {r} on this base makes it {_by(shape)}.",
                    hint="Choose the base model that the adapter was trained on.",
                )
            if tensor.dtype not in _FLOATS:
                raise StudioError(
                    f"{where}: tensor {name} is stored as {tensor.dtype}, not as F32, F16 or BF16."
                )
    return ranks


def _said(source: ModelFolder) -> dict[str, Any]:
    if not source.has(CONFIG):
        raise StudioError(
            f"{source.path / CONFIG} is missing; without its alpha the adapter's strength isn't known.",
            hint="Copy the whole folder of the adapter.",
        )
    data = source.read(CONFIG, _LONGEST_CONFIG)
    return strict_object(data, str(source.path / CONFIG), non_finite=True)


def _compare(
    said: Mapping[str, Any], ranks: Mapping[str, int], dora: bool, task_type: str, where: Path
) -> tuple[int, float, bool]:
    """r, alpha and rslora, once everything else of the file agrees with the tensors."""
    if said.get("peft_type") != "LORA":
        raise StudioError(f"{where}: peft_type is {_short(said.get('peft_type'))}; only LORA is read.")
    if said.get("task_type") not in (None, task_type):
        raise StudioError(f"{where}: task_type is {_short(said['task_type'])}; it must be {task_type}.")
    if said.get("bias", "none") != "none":
        raise StudioError(f"{where}: bias is {_short(said['bias'])}; only none is read.")
    for name in _REFUSED:
        if said.get(name):
            raise StudioError(f"{where}: {name} is {_short(said[name])}; an adapter that uses it isn't read.")
    begun = said.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(_CHANGES_THE_BASE):
        raise StudioError(
            f"{where}: init_lora_weights is {_short(begun)}; it was trained on changed base weights, which "
            "aren't in this folder.",
            hint="peft saves it as a usual one with path_initial_model_for_weight_conversion.",
        )
    r = _compare_ranks(said, ranks, where)
    for name in ("use_rslora", "use_dora"):
        if not isinstance(said.get(name, False), bool):
            raise StudioError(f"{where}: {name} is {_short(said[name])}; it must be true or false.")
    if said.get("use_dora", False) != dora:
        raise StudioError(f"{where}: use_dora is {_short(said.get('use_dora'))}; the tensors say otherwise.")
    return r, _alpha(said.get("lora_alpha"), where), bool(said.get("use_rslora", False))


def _compare_ranks(said: Mapping[str, Any], ranks: Mapping[str, int], where: Path) -> int:
    """The rank that the file says; where no layer has it, the one that most have."""
    told = dict(_by_module(said, "rank_pattern", ranks, where))
    for module, r in ranks.items():
        name = "rank_pattern" if module in told else "r"
        rank = told.get(module, said.get("r"))
        if isinstance(rank, bool) or not isinstance(rank, int | float) or rank != r:
            raise StudioError(
                f"{where}: {name} is {_short(said.get(name))}; the tensors of {module} have rank {r}."
            )
    usual: int = (
        int(said["r"]) if said.get("r") in ranks.values() else Counter(ranks.values()).most_common(1)[0][0]
    )
    return usual


def _by_module(
    said: Mapping[str, Any], name: str, modules: Iterable[str], where: Path
) -> Iterator[tuple[str, Any]]:
    """Layers with a value of their own. Whole names and ends of names are understood, as peft writes them
    (`^model.layers.0.q_proj$`, dots escaped or not), no patterns of theirs (S5).
    """
    pattern = said.get(name) or {}
    if not isinstance(pattern, dict):
        raise StudioError(f"{where}: {name} is {_short(pattern)}; it must be an object.")
    plain = {key: key.removeprefix("^").removesuffix("$").replace("\\.", ".") for key in pattern}
    for key, name_in_it in plain.items():
        if not _PLAIN_NAME.fullmatch(name_in_it):
            raise StudioError(
                f"{where}: {name} has {_short(key)}; only plain names of layers are read there."
            )
    for module in modules:
        key = next(
            (key for key, end in plain.items() if _names(module, end, whole=key.startswith("^"))), None
        )
        if key is not None:
            yield module, pattern[key]


def _names(module: str, end: str, whole: bool) -> bool:
    return module == end if whole else f".{module}".endswith(f".{end}")


def _alpha(value: Any, where: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e6:
        raise StudioError(f"{where}: lora_alpha is {_short(value)}; it must be a number above 0.")
    return value


def _warnings(
    source: ModelFolder, said: Mapping[str, Any], ranks: Mapping[str, int], linears: Mapping[str, Linear]
) -> tuple[str, ...]:
    found = []
    if any(name.endswith(".py") for name in source.names()) or said.get("auto_mapping"):
        found.append("This adapter comes with its own code. It was not run.")
    if len(ranks) < len(linears):
        found.append(f"It adapts {len(ranks)} of the {len(linears)} linear layers.")
    if (lowest := min(ranks.values())) < (highest := max(ranks.values())):
        found.append(f"Its rank differs from layer to layer: {lowest} to {highest}.")
    return tuple(found)


def _short(value: Any) -> str:
    return repr(value)[:60]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape) or "a single number"
