"""Where there is no GPU, Triton's kernels run under its interpreter; set before they are made."""

from __future__ import annotations

import os

import torch

torch.set_num_threads(1)  # the tests themselves run in parallel
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
