"""Training as one plain loop: wait for data, step, log, evaluate, save, stop when asked to."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from segcore import distributed
from segcore.checkpoint import (
    latest_state,
    load_state,
    prune_states,
    run_versions,
    save_state,
    save_weights,
    state_path,
)
from segcore.data.base import Sample
from segcore.errors import InputError
from segcore.evaluate import evaluate
from segcore.log import create_logger
from segcore.metrics import Scores
from segcore.optim import learning_rate
from segcore.papers import Paper
from segcore.recipe import Recipe
from segcore.recipe_file import FILE_NAME, recipe_document
from segcore.trainer import Trainer
from segcore.visualize import overlay
from segcore.workdir import WorkDirectory

STOP_CHECK = 10
"""Iterations between two agreements of several processes on whether one of them was asked to stop."""
NUM_OVERLAYS = 4
"""Validation overlays logged to TensorBoard."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a training run ended with.

    Attributes:
        scores: of the last validation; None where the run was interrupted.
        iteration: optimizer steps done.
        exit_code: 0, or 128 + the signal that interrupted the run.
    """

    scores: Scores | None
    iteration: int
    work_dir: Path
    exit_code: int = 0


class StopSignal:
    """Remembers SIGTERM or Ctrl-C until the loop reaches a place where it can save; a second one ends at once."""

    def __init__(self) -> None:
        self.number = 0

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch both signals inside the block (only possible in the main thread)."""
        try:
            before = {number: signal.signal(number, self._remember) for number in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not the main thread: whoever started it handles the signals
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def agreed(self, iteration: int, world: distributed.World) -> int:
        """Return the signal to stop for, the same on every process; 0 to go on."""
        if world.size == 1:
            return self.number
        if iteration % STOP_CHECK:
            return 0
        flag = torch.tensor(self.number, device=world.device)
        return int(distributed.all_reduce_max(flag).item())


class LossWatch:
    """Notices a loss that is not finite; on a GPU it looks only when the run logs or saves, not at every step."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=trainer.world.device)

    def note(self, loss: Tensor, iteration: int) -> None:
        """Remember the first iteration whose loss is not finite."""
        is_first = ~torch.isfinite(loss) & (self.first_bad < 0)
        self.first_bad = torch.where(is_first, torch.full_like(self.first_bad, iteration), self.first_bad)
        if loss.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise where some loss was not finite, naming the iteration and the images of its batch.

        Raises:
            InputError: with the last good state on disk.
        """
        iteration = int(distributed.all_reduce_max(self.first_bad.clone()).item())
        if iteration < 0:
            return
        trainer = self.trainer
        data = trainer.train_data
        files = [str(data.files(index)[0] or f"{data.name} {index}") for index in trainer.plan.images(iteration)]
        state = latest_state(Path(trainer.recipe.run.work_dir))
        kept = f"the last good state is {state}" if state else "no state had been saved before"
        raise InputError(
            f"the loss is not finite at iteration {iteration} (images {', '.join(files)}); {kept}. "
            "Lower --optim.lr, set --optim.clip-norm, or turn --run.amp off"
        )


class Loop:
    """The loop around `Trainer.step`: when to log, evaluate, save and stop."""

    def __init__(self, trainer: Trainer, work_dir: Path) -> None:
        self.trainer, self.work_dir = trainer, work_dir
        self.run = trainer.recipe.run
        self.stop = StopSignal()
        self.watch = LossWatch(trainer)
        self.logger = create_logger(
            work_dir, trainer.total, start=trainer.iteration, is_main=trainer.world.is_main, wandb=self.run.wandb
        )
        self.scores: Scores | None = None

    def train(self) -> TrainResult:
        """Run from the trainer's iteration to the last one, or until asked to stop."""
        trainer, run = self.trainer, self.run
        batches = trainer.batches()
        with self.stop.listening(), self.logger:
            while trainer.iteration < trainer.total:
                number = self.stop.agreed(trainer.iteration, trainer.world)
                if number:
                    return self._interrupted(number)
                started = time.perf_counter()
                parts = [next(batches) for _ in range(trainer.recipe.optim.accumulate)]
                waited = time.perf_counter() - started
                terms = trainer.step(parts)
                self.watch.note(terms["loss"], trainer.iteration)
                self.logger.step(time.perf_counter() - started, waited, trainer.recipe.data.batch)
                if (trainer.iteration + 1) % run.log_interval == 0 or trainer.iteration + 1 == trainer.total:
                    self._log(terms)
                trainer.iteration += 1
                is_last = trainer.iteration == trainer.total
                if is_last or (run.eval_interval and trainer.iteration % run.eval_interval == 0):
                    self._evaluate(is_last)
                if is_last or trainer.iteration % run.save_interval == 0:
                    self._save()
        return TrainResult(self.scores, trainer.iteration, self.work_dir)

    def _log(self, terms: dict[str, Tensor]) -> None:
        self.watch.check()
        names = list(terms)
        values = distributed.all_reduce_sum(torch.stack([terms[name].float() for name in names]))
        trainer, recipe = self.trainer, self.trainer.recipe
        lr = learning_rate(recipe.schedule, trainer.total, recipe.optim.lr, 1.0, trainer.iteration)
        means = dict(zip(names, (values / trainer.world.size).tolist(), strict=True))
        self.logger.train(trainer.iteration + 1, {**means, "lr": lr})

    def _evaluate(self, is_last: bool) -> None:
        trainer, recipe = self.trainer, self.trainer.recipe
        trainer.synchronize_buffers()
        wanted = set(range(0, len(trainer.val_data), max(len(trainer.val_data) // NUM_OVERLAYS, 1)))
        palette = trainer.val_data.classes.palette

        def show(index: int, sample: Sample, prediction: Tensor) -> None:
            if index in wanted:
                picture = overlay(sample.image, prediction.cpu().numpy(), palette, 0.5)
                self.logger.image(f"val/{sample.name}", picture, trainer.iteration)

        with trainer.evaluation_weights() as model:
            self.scores = evaluate(
                model,
                trainer.val_data,
                recipe.evaluate,
                device=trainer.world.device,
                workers=recipe.data.workers,
                amp=recipe.run.amp,
                limit=0 if is_last else recipe.run.eval_images,
                on_prediction=show if trainer.world.is_main else None,
            )
        summary = self.scores.summary()
        self.logger.validation(trainer.iteration, summary)
        if trainer.world.is_main and self.scores.miou > trainer.best:
            trainer.best = self.scores.miou
            save_weights(self.work_dir / "best.safetensors", trainer.weights(), trainer.meta(summary))

    def _save(self) -> None:
        self.watch.check()
        if not self.trainer.world.is_main:
            return
        save_state(state_path(self.work_dir, self.trainer.iteration), self.trainer.state())
        prune_states(self.work_dir, self.run.keep)
        summary = self.scores.summary() if self.scores else {}
        save_weights(self.work_dir / "last.safetensors", self.trainer.weights(), self.trainer.meta(summary))

    def _interrupted(self, number: int) -> TrainResult:
        self._save()
        trainer = self.trainer
        self.logger.message(
            f"stopped by {signal.Signals(number).name} after iteration {trainer.iteration}; "
            f"the state is saved, --resume goes on from it"
        )
        return TrainResult(None, trainer.iteration, self.work_dir, exit_code=128 + number)


def train(paper: Paper, name: str, recipe: Recipe) -> TrainResult:
    """Train a recipe in its work directory.

    Raises:
        InputError: for whatever the user can cause: data, options, checkpoints, a full disk, a loss that is not finite.
    """
    run = recipe.run
    world = distributed.init(run.device)
    _set_determinism(run.deterministic)
    directory = WorkDirectory(run.work_dir, bool(run.resume or run.resume_from)) if world.is_main else None
    try:
        work_dir = Path(run.work_dir)
        trainer = Trainer(paper, name, recipe, world)
        source = Path(run.resume_from) if run.resume_from else latest_state(work_dir) if run.resume else None
        if source:
            trainer.load_state(load_state(source), source)
        if directory:
            (work_dir / FILE_NAME).write_text(recipe_document(paper.name, name, recipe, run_versions()))
        loop = Loop(trainer, work_dir)
        loop.logger.message(_first_line(trainer, source))
        return loop.train()
    finally:
        if directory:
            directory.release()
        distributed.shutdown()


def _set_determinism(is_deterministic: bool) -> None:
    torch.backends.cudnn.benchmark = not is_deterministic
    torch.use_deterministic_algorithms(is_deterministic, warn_only=True)


def _first_line(trainer: Trainer, source: Path | None) -> str:
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    start = f"resuming from {source} at iteration {trainer.iteration}" if source else "starting from iteration 0"
    return (
        f"{trainer.paper.name} {trainer.name}: {parameters / 1e6:.2f} M parameters, {len(trainer.train_data)} training "
        f"and {len(trainer.val_data)} validation images, {trainer.total} iterations of {trainer.recipe.data.batch} "
        f"images on {trainer.world.size} x {trainer.world.device.type}; {start}"
    )
