"""Rows of random tokens, for runs that measure a model's shape and not its words."""

from __future__ import annotations

import hashlib

import numpy as np

from qlora_studio.config.places import cache_folder
from qlora_studio.config.run_config import PREFERENCES, RunConfig
from qlora_studio.data.prepared import PreparedInfo, PreparedRows, PreparedWriter, open_prepared
from qlora_studio.data.tokenized_row import TokenizedRow

_UPDATES = 64  # where the run goes by epochs
_MOST_ROWS = 4096
_MOST_HELD_OUT = 16


def prepare_random(config: RunConfig, vocab_size: int) -> PreparedRows:
    """Rows of `seq_len` tokens, as many as the updates need, from the seed alone."""
    training, seq_len = config.training, config.data.seq_len
    an_update = training.batch_size * training.gradient_accumulation
    rows = min(_MOST_ROWS, (training.steps or _UPDATES) * an_update)
    held_out = min(_MOST_HELD_OUT, an_update) if config.data.validation else 0
    second = seq_len // 2 if training.method in PREFERENCES else 0
    key = f"random {rows} {held_out} {seq_len} {vocab_size} {training.seed}" + (
        f" {second}" if second else ""
    )
    folder = cache_folder() / "tokens" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if folder.exists():
        return open_prepared(folder)
    random = np.random.Generator(np.random.PCG64(training.seed))
    weights = np.ones(seq_len, dtype=np.float32)
    weights[[0, second]] = 0
    with PreparedWriter(folder) as writer:
        for number in range(rows + held_out):
            ids = random.integers(0, vocab_size, seq_len, dtype=np.int32)
            writer.add(TokenizedRow(number, ids, weights, second), held_out=number >= rows)
        return writer.finish(_info(writer, seq_len, vocab_size))


def _info(writer: PreparedWriter, seq_len: int, vocab_size: int) -> PreparedInfo:
    return PreparedInfo(
        content_sha256=writer.content_sha256(),
        data_sha256="",
        tokenizer_sha256="",
        template_sha256="",
        seq_len=seq_len,
        pad_id=0,
        eos_id=0,
        stop_ids=(),
        vocab_size=vocab_size,
        train_rows=writer.train.rows,
        validation_rows=writer.validation.rows,
        train_tokens=writer.train.tokens,
        train_learned_tokens=writer.train.learned_tokens,
        validation_learned_tokens=writer.validation.learned_tokens,
        longest=seq_len,
        too_long_dropped=0,
        too_long_cut=0,
        nothing_to_learn=0,
        not_rendered=0,
        special_in_text=0,
        rows_on_both_sides=0,
        samples=(),
        notes=("Weights and tokens are random: this run measures speed and memory, it learns nothing.",),
    )
