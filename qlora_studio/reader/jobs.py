"""What the reader is asked, and which room answers it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from qlora_studio.data.data_set import data_set
from qlora_studio.data.dataset import Dataset, open_dataset
from qlora_studio.protocol import reading
from qlora_studio.reader import (
    column_jobs,
    doctor_jobs,
    model_jobs,
    prompt_jobs,
    row_jobs,
    run_jobs,
    start,
    text_jobs,
)
from qlora_studio.reader.model_text import ModelTexts

_TELL_EVERY_S = 0.1

Say = Callable[[reading.ReaderAnswer], None]


class Jobs:
    """Answers one request after another, and keeps what the next one is likely to need."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._texts = ModelTexts()
        self._dataset: tuple[str, Dataset] | None = None

    def answer(self, request: reading.ReaderRequest) -> reading.ReaderAnswer:
        """Raises: StudioError with what a person should know."""
        told = Progress(request.id, self._say)
        match request:
            case reading.ImportData():
                imported = data_set(request.data, told)
                return reading.DataImported(
                    id=request.id, dataset=str(imported.dataset), report=imported.report
                )
            case reading.ShowRows():
                return row_jobs.show_rows(request, self._open(request.dataset))
            case reading.ShowColumns():
                return column_jobs.show_columns(request, told)
            case reading.CountTokens():
                return row_jobs.count_tokens(request, self._open(request.dataset), self._texts, told)
            case reading.ShowTokens():
                return row_jobs.show_tokens(request, self._open(request.dataset), self._texts)
            case reading.Diagnose():
                return doctor_jobs.diagnose_rows(request, self._open(request.dataset), self._texts, told)
            case reading.SaveCopy():
                return doctor_jobs.save_copy(request, self._open(request.dataset), told)
            case reading.CheckModel():
                return model_jobs.check(request, self._texts, told)
            case reading.CheckAdapter():
                return model_jobs.check_foreign_adapter(request)
            case reading.CheckStart():
                return start.check_start(request)
            case reading.EncodeChat():
                return model_jobs.encode_chat(request, self._texts)
            case reading.ReadPrompts():
                return prompt_jobs.read_prompts(request)
            case reading.MakeModelfile():
                return model_jobs.make_modelfile(request, self._texts)
            case reading.PrepareRun():
                return run_jobs.prepare_run(request, self._texts, told)
            case reading.SuggestSamples():
                return run_jobs.suggest_samples(request, self._texts, told)
            case reading.CheckResume():
                return run_jobs.check_resume(request, self._texts, told)
            case reading.ShowRowLengths():
                return run_jobs.show_row_lengths(request)
            case reading.PrepareEvaluation():
                return run_jobs.prepare_evaluation(request, self._texts, told)
            case reading.PrepareText():
                return text_jobs.prepare_text(request, self._texts, told)

    def _open(self, folder: str) -> Dataset:
        if self._dataset is None or self._dataset[0] != folder:
            self._dataset = (folder, open_dataset(Path(folder)))
        return self._dataset[1]


class Progress:
    """Says how far a job is, about ten times a second."""

    def __init__(self, request_id: int, say: Say) -> None:
        self._id = request_id
        self._say = say
        self._last = 0.0
        self._words = ""

    def __call__(self, done: int, total: int, words: str) -> None:
        now = time.monotonic()
        if now - self._last >= _TELL_EVERY_S or (words != self._words and done == 0):
            self._last, self._words = now, words
            self._say(reading.Progress(id=self._id, done=done, total=total, words=words))
