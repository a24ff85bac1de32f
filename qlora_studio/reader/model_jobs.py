"""Foreign models and adapters: whether they are sound, and a chat in a model's own tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from qlora_studio.config.run_config import DataConfig
from qlora_studio.data.ollama import modelfile
from qlora_studio.errors import StudioError
from qlora_studio.models.adapter import check_adapter
from qlora_studio.models.check import check_model, model_folder
from qlora_studio.models.finite import look_at_numbers
from qlora_studio.models.shapes import model_shape
from qlora_studio.protocol import reading
from qlora_studio.reader.model_text import ModelTexts
from qlora_studio.runs.run_record import read_record
from qlora_studio.runs.trained_template import template_difference, trained_template

NOT_KEPT = "The run keeps no text of the template it was trained with, only that it was another one."

Told = Callable[[int, int, str], None]


def check(request: reading.CheckModel, texts: ModelTexts, told: Told) -> reading.ModelChecked:
    """Weights, config, tokenizer and template. Raises: StudioError naming the file."""
    report = check_model(request.folder, told)
    notes = texts.of(request.folder).notes
    unseen = look_at_numbers(model_folder(request.folder), told) if request.numbers else ""
    warnings = (*report.warnings, *notes, *([unseen] if unseen else ()))
    return reading.ModelChecked(id=request.id, report=msgspec.structs.replace(report, warnings=warnings))


def check_foreign_adapter(request: reading.CheckAdapter) -> reading.AdapterChecked:
    """Raises: StudioError naming the file and the field."""
    checked = check_adapter(Path(request.folder), request.base)
    return reading.AdapterChecked(
        id=request.id, r=checked.r, target_modules=checked.target_modules, warnings=checked.warnings
    )


def encode_chat(request: reading.EncodeChat, texts: ModelTexts) -> reading.ChatEncoded:
    """Raises: StudioError with the template's reason."""
    text = texts.of(request.model)
    trained, difference = None, ""
    if request.run:
        run = Path(request.run)
        sha256 = read_record(run).record.hashes.template
        trained = trained_template(run, sha256)
        if sha256 and sha256 != text.template.sha256:
            difference = template_difference(trained, text.template.source) or NOT_KEPT
    if trained is not None and request.trained:
        text = text.with_template(trained, f"{request.run} (as it was trained)")
    encoder = text.encoder(DataConfig(), "sft")
    rendered, ids = encoder.encode_prompt(request.messages)
    return reading.ChatEncoded(
        id=request.id,
        ids=ids,
        text=rendered,
        template_sha256=text.template.sha256,
        context=model_shape(request.model).context,
        stop_ids=encoder.stop_ids,
        difference=difference,
        trained_known=trained is not None,
    )


def make_modelfile(request: reading.MakeModelfile, texts: ModelTexts) -> reading.ModelfileMade:
    """Raises: StudioError where the model's texts can't be read; one that can't be said is an answer."""
    text = texts.of(request.model)
    try:
        made, notes = modelfile(text.template, text.tokenizer, text.stop_ids)
    except StudioError as error:
        return reading.ModelfileMade(id=request.id, text="", notes=f"{error.message} {error.hint}".strip())
    return reading.ModelfileMade(id=request.id, text=made, notes=f"With a Modelfile for Ollama. {notes}")
