"""The run folder: durable writes, lock, checkpoints, metrics, history. The truth about a run."""
