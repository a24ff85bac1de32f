"""Is this folder a model that can be finetuned? What it is, and what a person should know of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qlora_studio.config.places import sample_model_folder
from qlora_studio.config.run_config import SAMPLE
from qlora_studio.errors import StudioError
from qlora_studio.models.clean_config import CleanConfig, clean_config
from qlora_studio.models.families import ENCODER_DECODERS
from qlora_studio.models.licence import read_licence
from qlora_studio.models.merged import is_merged
from qlora_studio.models.model_folder import ModelFolder, open_folder
from qlora_studio.models.report import ModelReport
from qlora_studio.models.shapes import folder_plan
from qlora_studio.models.stored_weights import stored_weights
from qlora_studio.models.template import read_template, template_sha256, tokenizer_config
from qlora_studio.models.tokenizer_files import check_tokenizer
from qlora_studio.models.weights_index import read_weights_index

Told = Callable[[int, int, str], None]  # done, of total, in words


def model_folder(path: str) -> Path:
    """The folder that a model setting means. Raises: StudioError where the sample isn't prepared yet."""
    if path != SAMPLE:
        return Path(path).expanduser()
    folder = sample_model_folder()
    if not folder.is_dir():
        raise StudioError(
            f"The sample model is not in {folder} yet.",
            hint="It is prepared on first use: open Home, or run `qlora-studio doctor`.",
        )
    return folder


def check_model(path: str, told: Told = lambda done, total, words: None) -> ModelReport:
    """Everything but the numbers themselves. Raises: StudioError naming the file and what is wrong."""
    folder = model_folder(path)
    source = open_folder(folder)
    told(0, 4, "Reading the headers of the weights")
    read_weights_index(folder)  # first: a folder without weights is told as that, not as one without a config
    told(1, 4, "Reading config.json")
    config = clean_config(folder)
    plan = folder_plan(folder)
    told(2, 4, "Comparing every tensor with config.json")
    tensors = stored_weights(folder, plan)
    told(3, 4, "Reading tokenizer and template")
    template = read_template(source)
    left_out = check_tokenizer(source, plan.sizes.vocab, written=_names_of_tokens(source, template))
    warnings = [*config.warnings, *_warnings(source, config, template, left_out)]
    told(4, 4, "Checked")
    shape = plan.shape()
    return ModelReport(
        folder=str(folder),
        name=model_name(folder),
        family=config.model_type,
        parameters=sum(tensor.elements for tensor in tensors.values()),
        tensors=len(tensors),
        bytes=sum(tensor.bytes for tensor in tensors.values()),
        shape=shape,
        has_template=template is not None,
        template_sha256=template_sha256(template) if template is not None else None,
        licence=read_licence(source),
        max_position_embeddings=shape.max_position_embeddings,
        warnings=tuple(warnings),
        target_modules=tuple(dict.fromkeys(linear.name.rpartition(".")[2] for _, linear in plan.linears())),
        merged=is_merged(source.path),
    )


def model_name(folder: Path) -> str:
    """What a person calls it: the folder's name, or the repository's where it lies in a hub cache."""
    real = folder.absolute()
    entry = real.parent.parent.name
    if real.parent.name == "snapshots" and entry.startswith("models--"):
        return entry.rpartition("--")[2]
    return real.name


def _names_of_tokens(source: ModelFolder, template: str | None) -> str:
    """Where a token that a chat needs is named."""
    said = tokenizer_config(source)
    tokens = [said.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")]
    return "\n".join([template or "", *(str(token) for token in tokens)])


def _warnings(
    source: ModelFolder, config: CleanConfig, template: str | None, left_out: tuple[str, ...]
) -> list[str]:
    found = []
    if left_out:
        found.append(
            f"Its tokenizer names {len(left_out)} added tokens that the model has no place for, such as "
            f"{left_out[0][:60]!r}. They are left out: their names are read as text."
        )
    if template is None and config.model_type in ENCODER_DECODERS:
        found.append("It has no chat template: a question is its source as it stands.")
    elif template is None:
        found.append("It has no chat template; a plain one is used for chats.")
    if not config.stop_ids and not tokenizer_config(source).get("eos_token"):
        raise StudioError(
            f"{source.path / 'config.json'} names no end token (eos_token_id), so a reply would never end.",
            hint="Add eos_token_id to config.json, or eos_token to tokenizer_config.json.",
        )
    if is_merged(source.path):
        found.append(
            "It was trained here. A chat loads its 16-bit weights; to train on it in 4 or 8 bit they are "
            "quantized, and some of what was learned is lost."
        )
    return found
