"""What holds for every test: one thread each, signals that arrive, kernels without a GPU."""

from __future__ import annotations

import os
import signal

import torch

torch.set_num_threads(1)  # the tests themselves run in parallel
# tests send themselves signals, which shells have their background jobs ignore
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if not torch.cuda.is_available():  # Triton's interpreter, before any kernel is made
    os.environ.setdefault("TRITON_INTERPRET", "1")
