"""Training as one loop: wait for data, step, log, evaluate, save, stop when asked to."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from segcore import distributed
from segcore.build import for_inference
from segcore.data.base import Sample
from segcore.errors import InputError
from segcore.evaluation.evaluate import evaluate
from segcore.evaluation.metrics import Scores
from segcore.failures import explained
from segcore.files import atomic_write
from segcore.images.visualize import overlay
from segcore.paper import Paper
from segcore.recipe import Recipe
from segcore.recipe.file import FILE_NAME, recipe_document
from segcore.training.batches import Batch
from segcore.training.log import create_logger
from segcore.training.nonfinite import LossWatch
from segcore.training.optim import learning_rate
from segcore.training.run_folder import WorkDirectory, continues, is_restarted
from segcore.training.signals import StopSignal
from segcore.training.trainer import Trainer
from segcore.weights.files import run_versions, save_weights
from segcore.weights.states import (
    SavedState,
    latest_state,
    load_state,
    prune_states,
    save_state,
    state_files,
    state_path,
)

NUM_OVERLAYS = 4
"""Validation overlays given to the trackers."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a training run ended with.

    Attributes:
        scores: of the last validation; None where the run was interrupted, or finished before.
        iteration: optimizer steps done.
        exit_code: 0, or 128 + the signal that interrupted the run.
    """

    scores: Scores | None
    iteration: int
    work_dir: Path
    exit_code: int = 0


class Loop:
    """The loop around `Trainer.step`: when to log, evaluate, save and stop."""

    def __init__(self, trainer: Trainer, work_dir: Path) -> None:
        self.trainer, self.work_dir = trainer, work_dir
        self.run = trainer.recipe.run
        self.stop = StopSignal()
        self.watch = LossWatch(trainer)
        self.logger = create_logger(
            work_dir,
            trainer.total,
            is_main=trainer.world.is_main,
            start=trainer.iteration,
            is_validated=trainer.is_validated,
            trackers=self.run.all_trackers,
        )
        self.scores: Scores | None = None

    def train(self) -> TrainResult:
        """Run from the trainer's iteration to the last one, or until asked to stop."""
        trainer = self.trainer
        with closing(trainer.batches()) as batches, self.stop.listening(), self.logger:
            if not trainer.is_validated:  # stopped in a validation
                self._validate()
            elif trainer.iteration == trainer.total:
                self.logger.message(f"all {trainer.total} iterations were done before: nothing is left to do")
            while trainer.iteration < trainer.total:
                number = self.stop.agreed(trainer.iteration, trainer.world)
                if number:
                    return self._interrupted(number)
                if self._is_stale():
                    return self._stopped_early()
                self._step(batches)
                is_last = trainer.iteration == trainer.total
                if is_last or (self.run.eval_interval and trainer.iteration % self.run.eval_interval == 0):
                    self._validate()
                elif trainer.iteration % self.run.save_interval == 0:
                    self._save()
        return TrainResult(self.scores, trainer.iteration, self.work_dir)

    def _step(self, batches: Iterator[Batch]) -> None:
        trainer = self.trainer
        started = time.perf_counter()
        parts = [next(batches) for _ in range(trainer.recipe.optim.accumulate)]
        waited = time.perf_counter() - started
        terms = trainer.step(parts)
        self.watch.note(terms["loss"], trainer.iteration)
        self.logger.step(time.perf_counter() - started, waited, trainer.recipe.data.batch)
        if (trainer.iteration + 1) % self.run.log_interval == 0 or trainer.iteration + 1 == trainer.total:
            self._log(terms)
        trainer.iteration += 1

    def _validate(self) -> None:
        """Save, evaluate, and save that it was done: whoever is killed in a long validation loses nothing."""
        self._save(is_validated=False)
        self._evaluate(self.trainer.iteration == self.trainer.total)
        self._save()

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
        palette = trainer.val_data.classes.palette

        def show(_: int, sample: Sample, prediction: Tensor) -> None:
            picture = overlay(sample.image, prediction.cpu().numpy(), palette, 0.5)
            self.logger.image(f"val/{sample.name}", picture, trainer.iteration)

        with trainer.evaluation_weights() as model:
            self.scores = evaluate(
                for_inference(model, recipe.run),
                trainer.val_data,
                recipe.evaluate,
                device=trainer.world.device,
                workers=recipe.data.workers,
                amp=recipe.run.amp,
                limit=0 if is_last else recipe.run.eval_images,
                on_prediction=show if trainer.world.is_main else None,
                shown=NUM_OVERLAYS,
            )
        summary = self.scores.summary()
        self.logger.validation(trainer.iteration, summary)
        trainer.stale += 1
        if not trainer.world.is_main:
            return
        best = self.work_dir / "best.safetensors"
        # a score on all images does not compete with those on the first `eval_images`
        is_comparable = not (is_last and recipe.run.eval_images) or not best.exists()
        if is_comparable and (self.scores.miou > trainer.best or not best.exists()):
            trainer.best, trainer.stale = self.scores.miou, 0
            with self.stop.saving():
                save_weights(best, trainer.weights(), trainer.meta(summary))

    def _is_stale(self) -> bool:
        """Tell whether the last validations brought nothing (`--run.patience`); the first process decides."""
        run, trainer = self.run, self.trainer
        if not run.patience or not run.eval_interval or trainer.iteration % run.eval_interval:
            return False
        return distributed.broadcast_object(trainer.stale) >= run.patience

    def _stopped_early(self) -> TrainResult:
        trainer = self.trainer
        if self.run.eval_images:  # as after the last iteration, on all images
            self._evaluate(is_last=True)
            self._save()
        self.logger.message(
            f"stopped after iteration {trainer.iteration} of {trainer.total}: {trainer.stale} validations in a row "
            f"without a better mIoU than {trainer.best:.4f} (--run.patience {self.run.patience})"
        )
        return TrainResult(self.scores, trainer.iteration, self.work_dir)

    def _save(self, is_validated: bool = True) -> None:
        trainer = self.trainer
        self.watch.check_weights()
        trainer.is_validated = is_validated
        if not trainer.world.is_main:
            return
        is_there = self.work_dir.is_dir()
        with self.stop.saving():
            summary = self.scores.summary() if self.scores else {}
            save_weights(self.work_dir / "last.safetensors", trainer.weights(), trainer.meta(summary))
            # the last word: what it says is done has been done, whenever the process is killed
            save_state(state_path(self.work_dir, trainer.iteration), trainer.state())
            prune_states(self.work_dir, self.run.keep, trainer.iteration)
        if not is_there:
            raise InputError(
                f"the work directory {self.work_dir} was removed during the run; the state after iteration "
                f"{trainer.iteration} and its weights were saved there anew, --resume goes on from it"
            )

    def _interrupted(self, number: int) -> TrainResult:
        self._save()
        trainer = self.trainer
        self.logger.message(
            f"stopped by {signal.Signals(number).name} after iteration {trainer.iteration}; "
            f"the state is saved, --resume goes on from it"
        )
        return TrainResult(None, trainer.iteration, self.work_dir, exit_code=128 + number)


def train(paper: Paper, name: str, recipe: Recipe, held: WorkDirectory | None = None) -> TrainResult:
    """Train a recipe in its work directory.

    Args:
        held: the work directory, where the caller has locked it; it stays locked.

    Raises:
        InputError: for whatever the user can cause: data, options, checkpoints, a full disk, a loss that is not finite.
    """
    recipe = _with_absolute_paths(recipe)
    run = recipe.run
    world = distributed.init(run.device)
    _set_determinism(run.deterministic)
    restarted = is_restarted(run)
    directory = held or _enter(recipe, world)
    try:
        with explained(memory=_memory(recipe, world), kept="--resume goes on from the last state that was saved"):
            return _run(paper, name, recipe, world, directory, restarted)
    finally:
        if directory and not held:
            directory.release()
        distributed.shutdown()


def _run(
    paper: Paper,
    name: str,
    recipe: Recipe,
    world: distributed.World,
    directory: WorkDirectory | None,
    restarted: bool,
) -> TrainResult:
    work_dir, run = Path(recipe.run.work_dir), recipe.run
    saved = _state_to_resume(recipe, world, restarted)
    trainer = Trainer(paper, name, recipe, world, is_resuming=saved is not None)
    if saved:
        trainer.load_state(saved.content, saved.path)
        if run.resume_from and not restarted:
            _refuse_later_states(work_dir, trainer.iteration)
    if directory:
        # how to begin the run, not how this process goes on with it
        start = replace(trainer.recipe, run=replace(run, resume=False, resume_from=""))
        directory.note_launch()
        with atomic_write(work_dir / FILE_NAME) as file:
            file.write(recipe_document(paper.name, name, start, run_versions()).encode())
    loop = Loop(trainer, work_dir)
    loop.logger.message(_first_line(trainer, saved.path if saved else None))
    result = loop.train()
    distributed.barrier()  # the others must not end, and their connections with them, while the first one writes
    return result


def _memory(recipe: Recipe, world: distributed.World) -> str:
    """Return what decides how much memory a step needs."""
    height, width = recipe.augment.crop
    return (
        f"with images of {width}x{height} pixels (width x height, --augment.crop), {recipe.data.batch} a step "
        f"(--data.batch) on {world.size} processes in {recipe.optim.accumulate} parts (--optim.accumulate) and "
        f"--run.amp {recipe.run.amp}; make --optim.accumulate larger, the others smaller, or set --run.amp bf16 or "
        "--run.recompute"
    )


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return a recipe whose data are the same files from any folder, where a report or the recipe is used later."""

    def absolute(path: str) -> str:
        return os.path.abspath(path) if path else path

    data = recipe.data
    files = {name: absolute(getattr(data, name)) for name in ("classes", "train_list", "val_list", "test_list")}
    return replace(recipe, data=replace(data, **files), run=replace(recipe.run, data=absolute(recipe.run.data)))


def _enter(recipe: Recipe, world: distributed.World) -> WorkDirectory | None:
    """Lock the work directory on the first process; all of them stop where it cannot be had.

    Raises:
        InputError: see `WorkDirectory`.
    """
    run = recipe.run
    directory, problem = None, ""
    if world.is_main:
        try:
            directory = WorkDirectory(run.work_dir, continues(run))
        except InputError as error:
            problem = str(error)
    problem = distributed.broadcast_object(problem)
    if problem:
        distributed.shutdown()
        raise InputError(problem)
    return directory


def _state_to_resume(recipe: Recipe, world: distributed.World, restarted: bool) -> SavedState | None:
    """Return the state that the run goes on from; every process takes the one that the first process found whole.

    Args:
        restarted: on the first process, whether torchrun started it again: what the run saved since counts most.

    Raises:
        InputError: if it is damaged, or no state of the work directory is whole.
    """
    run = recipe.run
    found, problem = None, ""
    if world.is_main:
        try:
            found = latest_state(run.work_dir) if run.resume or restarted else None
            if run.resume_from and found is None:
                found = SavedState(Path(run.resume_from), load_state(run.resume_from))
        except InputError as error:
            problem = str(error)
    path, problem = distributed.broadcast_object((found.path if found else None, problem))
    if problem:
        raise InputError(problem)
    return found if found or path is None else SavedState(path, load_state(path))


def _refuse_later_states(work_dir: Path, iteration: int) -> None:
    """Raise where going on from an earlier state would mix two histories in one folder."""
    later = [path for number, path in state_files(work_dir).items() if number > iteration]
    if later:
        raise InputError(
            f"{work_dir} holds the later state {later[-1].name}; go on in another --work-dir, or move later states away"
        )


def _set_determinism(is_deterministic: bool) -> None:
    torch.backends.cudnn.benchmark = not is_deterministic
    torch.use_deterministic_algorithms(is_deterministic, warn_only=True)


def _first_line(trainer: Trainer, source: Path | None) -> str:
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    precision = " with TF32" if trainer.world.device.type == "cuda" and trainer.recipe.run.tf32 else ""
    start = f"resuming from {source} at iteration {trainer.iteration}" if source else "starting from iteration 0"
    return (
        f"{trainer.paper.name} {trainer.name}: {parameters / 1e6:.2f} M parameters, {len(trainer.train_data)} training "
        f"and {len(trainer.val_data)} validation images, {trainer.total} iterations of {trainer.recipe.data.batch} "
        f"images on {trainer.world.size} x {trainer.world.device.type}{precision}; {start}"
    )
