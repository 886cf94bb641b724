"""Which precision training asks torch for."""

from __future__ import annotations

import torch

from segcore.layers.precision import training_precision


def _asked() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def test_tf32_is_for_training_on_nvidia_gpus_only() -> None:
    before = _asked()
    with training_precision(torch.device("cuda"), True):
        assert _asked() == ("high", True)
    assert _asked() == before
    with training_precision(torch.device("cuda"), False):
        assert _asked() == ("highest", False)
    assert _asked() == before
    with training_precision(torch.device("cpu"), True):
        assert _asked() == before
