"""Processes that train one adapter together: each micro-batch is in one share, sums are over all of them."""

from pathlib import Path

import torch
import torch.distributed as distributed
from torch.multiprocessing.spawn import spawn

from qlora_studio.engine.ranks import Ranks


def test_a_process_alone_has_everything() -> None:
    tensor = torch.ones(2)

    alone = Ranks.here()
    alone.sum_up([tensor])

    assert alone == Ranks(0, 1)
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert tensor.tolist() == [1, 1]


def test_each_micro_batch_is_in_one_share() -> None:
    shares = [Ranks(rank, 3).share(range(8)) for rank in range(3)]

    assert sorted(item for share in shares for item in share) == list(range(8))
    assert [len(share) for share in shares] == [3, 3, 2]


def test_gradients_become_their_sum_over_all_processes(tmp_path: Path) -> None:
    spawn(_sums_up, (str(tmp_path / "meeting"), str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]

    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["[3.0, 3.0]"] * 2


def _sums_up(rank: int, meeting: str, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    gradient = torch.full((2,), rank + 1.0)
    Ranks.here().sum_up([gradient])
    (Path(folder) / str(rank)).write_text(str(gradient.tolist()))
    distributed.destroy_process_group()
