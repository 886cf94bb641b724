"""Settings of all tests: one thread per process (two share the machine's two cores), no network."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import cv2
import torch

torch.set_num_threads(1)
cv2.setNumThreads(0)
