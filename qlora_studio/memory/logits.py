"""How many logits exist at one time while the loss is made: engine and promise ask here."""

from __future__ import annotations

from qlora_studio.config.run_config import RunConfig

USUAL = {"cuda": 2**25, "cpu": 2**23}  # as qlora_kernels.cross_entropy makes them unasked
# H100, head of 128,256 x 4,096, bfloat16: 2.90 us a position with 1,024 positions at a time, 3.33 with 261.
_WITH_ROOM = 2**27


def logits_at_once(device: str, config: RunConfig, recomputed_layers: int) -> int:
    """Of a training step. More on a card where no layer is recomputed, so memory isn't short; not where the
    head learns, of whose logits autograd holds several copies.
    """
    has_room = device == "cuda" and not recomputed_layers and not config.trains_all
    return _WITH_ROOM if has_room else USUAL[device]
