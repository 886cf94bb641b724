"""Settings of all tests: one thread per process (two share the machine's two cores), no network."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import cv2
import torch

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in `nox &` of a script, and by what tests start
torch.set_num_threads(1)
cv2.setNumThreads(0)
