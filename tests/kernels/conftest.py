"""Without a card Triton's kernels run in its interpreter, which it must know before it is loaded."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
