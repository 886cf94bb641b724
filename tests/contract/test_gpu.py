"""Every paper on a GPU: the numbers of the CPU, training in every precision, and no waiting within a step."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segcore import distributed
from segcore.build import for_inference
from segcore.evaluation.inference import View, predict_labels, run_network
from segcore.layers.replay import RECORD_AFTER
from segcore.paper import Paper
from segcore.recipe import AMP
from segcore.training.loop import train
from segcore.training.trainer import Trainer
from tests.contract.conftest import STEPS, small_recipe

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICE = torch.device("cuda")
_PARTS = [View(torch.zeros((height, 96, 3), dtype=torch.uint8), 1.0) for height in (48, 64, 80)]


@contextmanager
def no_waits() -> Iterator[None]:
    """Make torch raise where the host would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def trainer_of(paper: Paper, folder: Path) -> Trainer:
    """Return a trainer on the GPU whose first step is done: kernels are compiled, tables made."""
    recipe = small_recipe(paper, folder)
    recipe = replace(recipe, run=replace(recipe.run, device="cuda"))
    trainer = Trainer(paper, "toy", recipe, distributed.init("cuda"))
    trainer.model.train()
    trainer.step([next(trainer.batches())])
    return trainer


def test_logits_are_those_of_the_cpu(paper: Paper, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = paper.build(small_recipe(paper, tmp_path), 8).eval()
    image = torch.randn(2, 3, 65, 96)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.inference_mode():
            expected, logits = model(image), model.to(DEVICE)(image.to(DEVICE)).cpu()
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert (logits - expected).abs().max() <= 1e-3 * expected.std()


@pytest.mark.parametrize("amp", ["off", "fp16", "bf16"])
def test_a_run_trains_and_validates(paper: Paper, amp: AMP, tmp_path: Path) -> None:
    recipe = small_recipe(paper, tmp_path / "run")
    recipe = replace(recipe, run=replace(recipe.run, device="cuda", amp=amp, deterministic=amp == "off"))
    result = train(paper, "toy", recipe)
    assert (result.iteration, result.exit_code) == (STEPS, 0)
    assert result.scores is not None


def test_no_training_step_waits(paper: Paper, tmp_path: Path) -> None:
    trainer = trainer_of(paper, tmp_path)
    parts = [next(trainer.batches())]
    assert parts[0].pixels.is_pinned()
    torch.cuda.synchronize()
    with no_waits():
        trainer.step(parts)


def test_no_test_step_waits(paper: Paper, tmp_path: Path) -> None:
    recipe = small_recipe(paper, tmp_path)
    protocol = recipe.evaluate.with_augmentation()
    model = for_inference(paper.build(recipe, 8).eval().to(DEVICE), recipe.run)
    parts = [View(part.pixels.pin_memory(), part.factor) for part in _PARTS]
    predict_labels(model, parts, protocol, (64, 96))
    torch.cuda.synchronize()
    with no_waits():
        predict_labels(model, parts, protocol, (64, 96))


@torch.inference_mode()
def test_replayed_forward_passes_are_those_of_the_network(paper: Paper, tmp_path: Path) -> None:
    recipe = small_recipe(paper, tmp_path)
    model = for_inference(paper.build(recipe, 8).eval().to(DEVICE), recipe.run)
    images = [torch.randn(2, 3, height, 96, device=DEVICE) for height in (48, 64, 80)]
    for _ in range(RECORD_AFTER):
        for image in images:
            run_network(model, image)
    for image in reversed(images):
        expected = model(image + 1)
        model.eval()  # forgets its tables, which the recordings read
        _overwritten = [torch.full((1 << 16,), float("nan"), device=DEVICE) for _ in range(200)]
        with launches() as counted:
            replayed = run_network(model, image + 1)
        assert counted == ["cudaGraphLaunch"]
        assert torch.equal(replayed, expected)


@contextmanager
def launches() -> Iterator[list[str]]:
    """Collect how networks are launched within the block: kernel by kernel, or as a graph."""
    names: list[str] = []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        yield names
    found = {event.name for event in profile.events() or ()}
    names.extend(sorted(name for name in found if name.startswith("cudaGraphLaunch")))


def test_one_process_of_nccl_trains(paper: Paper, tmp_path: Path) -> None:
    small = ("--data.image-size", "64", "96", "--data.num-images", "6", "4", "--data.batch", "2", "--data.workers", "0")
    sizes = ("--augment.scale", "96", "64", "--augment.crop", "64", "64", "--evaluate.scale", "96", "64")
    run = ("--schedule.iterations", "3", "--work-dir", str(tmp_path / "run"), "--run.device", "cuda")
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")
    words = (*launch, "-m", "segcore.commands.main", "train", paper.name, "toy", *small, *sizes, *run)
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "last.safetensors").is_file()
