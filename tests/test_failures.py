"""What torch and the system raise where memory ends or a process is gone is one sentence, through the commands."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segcore.commands.running import run_guarded
from segcore.commands.test import test_command as script_of_test
from segcore.commands.train import train_command
from segcore.failures import explain
from segcore.training.trainer import Trainer
from tests.tiny_paper import PAPER, TinySegmentor

FAST = ["--run.device", "cpu", "--run.log-interval", "1"]


def cpu_memory(*_: Any) -> None:
    torch.empty(2**50)


def gpu_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def array_memory(*_: Any) -> None:
    np.empty(2**50)


def opencv_memory(*_: Any) -> None:
    raise cv2.error("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 1 bytes")


def library_memory(*_: Any) -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def fork_memory(*_: Any) -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


ENDS = [cpu_memory, gpu_memory, array_memory, opencv_memory, library_memory, fork_memory]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed.splitlines()[-1]


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_memory_in_training_names_what_needs_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: Callable[..., None]
) -> None:
    monkeypatch.setattr(Trainer, "step", end)
    assert train_command(PAPER)(["toy", *FAST, "--work-dir", str(tmp_path)]) == 2
    memory = "out of memory of the GPU" if end is gpu_memory else "out of memory"
    assert said(capsys) == (
        f"tiny-train: {memory} with images of 32x32 pixels (width x height, --augment.crop), 2 a step (--data.batch) "
        "on 1 processes in 1 parts (--optim.accumulate) and --run.amp off; make --optim.accumulate larger, the others "
        "smaller, or set --run.amp bf16 or --run.recompute; --resume goes on from the last state that was saved"
    )


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_memory_in_a_test_names_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: Callable[..., None]
) -> None:
    assert train_command(PAPER)(["toy", *FAST, "--work-dir", str(tmp_path)]) == 0
    monkeypatch.setattr(TinySegmentor, "forward", end)
    assert script_of_test(PAPER)(["toy", str(tmp_path / "last.safetensors"), *FAST]) == 2
    assert "at the image val_000000 of 48x32 pixels (width x height); lower --evaluate.scale or" in said(capsys)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "(signal: Killed), usually because mem",
        ),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "a loader process was killed, usually"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. x"), "/dev/shm) is full"),
        (
            RuntimeError("[/gloo/transport/tcp/pair.cc:1] Connection closed by peer [::1]"),
            "another process of this run",
        ),
        (torch.distributed.DistBackendError("NCCL error: remote process exited"), "another process of this run"),
    ],
)
def test_processes_that_are_gone_are_one_sentence(error: Exception, sentence: str) -> None:
    assert sentence in (explain(error) or "")


def test_what_ends_the_writing_of_a_state_is_told_though_torch_hides_it() -> None:
    class Ending(io.BytesIO):
        writes = 0

        def write(self, data: Any) -> int:
            self.writes += 1
            if self.writes == 4:
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
            return super().write(data)

    with pytest.raises(RuntimeError, match="inline_container") as raised:
        torch.save({"a": torch.zeros(9000), "b": torch.zeros(9000)}, Ending())
    assert "a loader process was killed" in (explain(raised.value) or "")


def test_other_errors_stay_what_they_are() -> None:
    assert explain(RuntimeError("shape mismatch")) is None
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run_guarded("x", [], lambda _: (_ for _ in ()).throw(RuntimeError("shape mismatch")))


def test_a_name_that_is_too_long_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Issue 18: names of 300 characters."""
    assert script_of_test(PAPER)(["toy", f"{'x' * 300}.pth"]) == 2
    assert train_command(PAPER)(["toy", "--work-dir", "y" * 300]) == 2
    assert train_command(PAPER)(["z" * 300]) == 2
    assert train_command(PAPER)(["camvid", "--run.data", "v" * 300]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all("Traceback" not in line for line in lines)
