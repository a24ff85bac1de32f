"""A text made ready to be read by a model as it is: for its perplexity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qlora_studio.config.run_config import SAMPLE, DataConfig, ModelConfig, RunConfig, TrainingConfig
from qlora_studio.data.dataset import open_dataset
from qlora_studio.data.importing import import_data
from qlora_studio.data.preparing import prepare_for_evaluation
from qlora_studio.errors import StudioError
from qlora_studio.models.shapes import model_shape
from qlora_studio.protocol import reading
from qlora_studio.reader.model_text import ModelTexts


def prepare_text(
    request: reading.PrepareText, texts: ModelTexts, told: Callable[[int, int, str], None]
) -> reading.EvaluationPrepared:
    """Raises: StudioError where the file can't be read or has nothing in it, or the model has a decoder."""
    text = texts.of(request.model)
    if text.start_id is not None:
        raise StudioError(
            f"{request.model} is an encoder-decoder: it goes on with no text, so a text has no perplexity.",
            hint="Measure it without a text file.",
        )
    path = request.path if request.path == SAMPLE else str(Path(request.path).absolute())
    config = RunConfig(
        model=ModelConfig(path=request.model),
        data=DataConfig(
            path=path,
            encoding=request.encoding,
            seq_len=min(request.seq_len, model_shape(request.model).max_position_embeddings),
            too_long="truncate",
            train_on="everything",
            validation=0.0,
        ),
        training=TrainingConfig(method="pretrain"),
    )
    imported = import_data(config.data, told)
    encoder = text.encoder(config.data, config.training.method)
    rows = prepare_for_evaluation(open_dataset(imported.dataset), encoder, config, told)
    return reading.EvaluationPrepared(
        id=request.id, prepared=str(rows.folder), rows=rows.info.validation_rows, notes=rows.info.notes
    )
