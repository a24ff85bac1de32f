"""What the engine measured of an adapter, as its run keeps it."""

from __future__ import annotations

import time
from pathlib import Path

from qlora_studio.config.run_config import GENERAL, SAMPLE
from qlora_studio.protocol.events import EvaluationReport
from qlora_studio.runs.evaluations import MOST_CHANGED, Evaluation


def evaluation_of(report: EvaluationReport, file: str, notes: tuple[str, ...] = ()) -> Evaluation:
    """Made now, on the rows of `file`; notes: why some of them are missing."""
    compared = report.comparison
    return Evaluation(
        time=time.time(),
        step=report.step,
        file=named_file(file),
        rows=report.rows,
        loss=report.loss,
        base_loss=report.base_loss,
        accuracy=report.accuracy,
        base_accuracy=compared.base_right / compared.questions if compared else None,
        low=compared.low if compared else None,
        high=compared.high if compared else None,
        p_value=compared.p_value if compared else None,
        kind=compared.kind if compared else "",
        answered=report.accuracy_rows,
        gained=compared.gained if compared else 0,
        lost=compared.lost if compared else 0,
        changed=compared.changed[:MOST_CHANGED] if compared else (),
        notes=notes,
    )


def named_file(file: str) -> str:
    """With its whole path, unless it is one that is bundled."""
    return file if file in (SAMPLE, GENERAL) else str(Path(file).absolute())
