"""The Data page's tokens are the trainer's own arrays: the same ids, the same mask."""

import pytest

from qlora_studio.config.run_config import SAMPLE, RunConfig
from qlora_studio.config.toml_file import with_changes
from qlora_studio.data.prepared import open_prepared
from qlora_studio.protocol import reading
from qlora_studio.reader.jobs import Jobs
from qlora_studio.runs.folder import open_run


def prepared(jobs, config, tmp_path):
    """Row -> ids and whether each is learned, as training reads them from the run's files."""
    runs = tmp_path / "runs"
    made = jobs.answer(
        reading.PrepareRun(id=1, config=config, name="", runs_dir=str(runs), device_memory_bytes=64 * 10**9)
    )
    rows = open_prepared(runs / open_run(runs / made.run).record.prepared.folder)
    parts = [part[i] for part in (rows.train, rows.validation) for i in range(len(part))]
    return {row.row: (row.ids.tolist(), (row.weights > 0).tolist()) for row in parts}


def shown(jobs, config, model):
    """The same as the token view gets it, without what is cut."""
    imported = jobs.answer(reading.ImportData(id=2, data=config.data))
    rows = {}
    for row in range(imported.report.conversations):
        answer = jobs.answer(
            reading.ShowTokens(
                id=3, dataset=imported.dataset, model=str(model), data=config.data, row=row, count=2000
            )
        )
        kept = [token for token in answer.tokens if token.fate != "cut"]
        rows[row] = ([token.id for token in kept], [token.fate == "learned" for token in kept])
    return rows


@pytest.mark.parametrize("too_long", ["drop", "truncate"])
@pytest.mark.parametrize("train_on", ["answers", "everything"])
def test_every_token_shown_is_trained_as_it_is_shown(model, tmp_path, too_long, train_on):  # D4
    changes = {
        "model.path": str(model),
        "data.path": SAMPLE,
        "data.seq_len": 260,
        "data.too_long": too_long,
        "data.train_on": train_on,
    }
    config, jobs = with_changes(RunConfig(), changes), Jobs(lambda answer: None)

    seen = shown(jobs, config, model)

    assert {row: tokens for row, tokens in seen.items() if any(tokens[1])} == prepared(jobs, config, tmp_path)
