"""One training run's state and its step: lr, forward, backward, clip, optimizer, average.

A step depends on (state, iteration) alone: batches come from `BatchPlan`, random layers are seeded per iteration and
process, the learning rate is a pure function. So a resumed run ends bit-equal to an uninterrupted one on the CPU.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn

from segcore import distributed
from segcore.backbones.norms import freeze_backbone
from segcore.build import build_model, fine_tune_from, placed
from segcore.data import create_dataset
from segcore.data.base import FileDataset
from segcore.errors import InputError, check
from segcore.images.transforms import TrainTransform
from segcore.layers.precision import memory_format, mixed_precision, training_precision
from segcore.layers.recompute import recompute_blocks
from segcore.paper import Paper
from segcore.recipe import Recipe
from segcore.recipe.file import recipe_from_plain
from segcore.recipe.plain import from_plain, to_plain
from segcore.segmentor import Segmentor, StepInfo, Target
from segcore.training.balance import Balance
from segcore.training.batches import Batch, BatchPlan, StepSampler, TrainSet, train_loader
from segcore.training.optim import (
    ExponentialAverage,
    build_optimizer,
    learning_rate,
    restore_optimizer,
    set_learning_rate,
)
from segcore.training.seeds import OLD_SEED_RULE, SEED_RULE, SEED_RULES
from segcore.weights.files import run_versions
from segcore.weights.header import CheckpointMeta

log = logging.getLogger(__name__)
_VALIDATION = ("val_split", "val_list")
"""Options of the data that decide what is validated on, and nothing else."""


class TrainStep(nn.Module):
    """The training step's forward as a module, so that DDP and torch.compile see one call."""

    def __init__(self, model: Segmentor) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, target: Target, step: StepInfo) -> dict[str, Tensor]:
        """Return what is logged of a step, the total under "loss"."""
        losses = self.model.losses(image, target, step)
        return {**losses.terms, **losses.logged, "loss": losses.total()}


@dataclass(frozen=True, kw_only=True)
class _Counters:
    """The numbers in a training state."""

    iteration: Annotated[int, Meta(ge=0)]
    best: float
    is_validated: bool
    stale: int = 0  # states of older versions have neither this nor what follows
    first_loss: float | None = None
    seed_rule: str = OLD_SEED_RULE


_COUNTERS = tuple(field.name for field in fields(_Counters))


class Trainer:
    """Everything a run holds between two iterations."""

    def __init__(
        self, paper: Paper, name: str, recipe: Recipe, world: distributed.World, *, is_resuming: bool = False
    ) -> None:
        self.paper, self.name, self.recipe, self.world = paper, name, recipe, world
        data, run = recipe.data, recipe.run
        self.train_data = create_dataset(data, run.data, data.train_split, list_file=data.train_list)
        self.val_data = create_dataset(data, run.data, data.val_split, list_file=data.val_list)
        self._warn_of_shared_images()
        self.total = total_iterations(recipe, len(self.train_data))
        if recipe.schedule.warmup > self.total:
            log.warning(
                "--schedule.warmup %d outlasts the %d iterations: the learning rate never reaches --optim.lr",
                recipe.schedule.warmup,
                self.total,
            )
        balance = Balance.of(self.train_data, recipe, world)
        self.recipe = recipe = balance.resolved(recipe)
        self.plan = balance.plan(len(self.train_data), recipe)
        torch.manual_seed(run.seed)
        recipe.check_classes(len(self.train_data.classes.names))
        self._sampler(0)  # an impossible batch is refused now, not after the model was built
        self.model = self._build_model(is_resuming)
        self.names = paper.name_map(self.model)
        self.optimizer = build_optimizer(self.model, self.names, recipe.optim)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=run.amp == "fp16")
        self.average = ExponentialAverage(self.model, recipe.optim.ema) if recipe.optim.ema else None
        self.step_module = self._wrap(TrainStep(self.model))
        self.best = -1.0
        self.stale = 0
        """Validations in a row without a better score."""
        self.iteration = 0
        self.is_validated = True  # nothing of this iteration is left to do; else a resumed run validates first
        self.seed_rule = SEED_RULE
        self.first_loss: Tensor | float | None = None
        """Of the run's first step, which later losses are measured by."""

    def _warn_of_shared_images(self) -> None:
        if isinstance(self.train_data, FileDataset) and isinstance(self.val_data, FileDataset):
            trained = {item.image for item in self.train_data.items}
            shared = sum(item.image in trained for item in self.val_data.items)
            if shared:
                log.warning("%d of the %d validation images are trained on as well", shared, len(self.val_data))

    def _build_model(self, is_resuming: bool) -> Segmentor:
        recipe, num_classes = self.recipe, len(self.train_data.classes.names)
        if is_resuming:  # the state brings every weight: nothing to download, no file of the start needed
            recipe = replace(recipe, model=replace(recipe.model, pretrained=False, weights=""))
            model = build_model(self.paper, recipe, num_classes)
        elif recipe.run.load_from:
            model = fine_tune_from(self.paper, recipe, num_classes, recipe.run.load_from)
        else:
            model = build_model(self.paper, recipe, num_classes)
        if recipe.model.freeze == "backbone":
            is_started = is_resuming or recipe.model.pretrained or recipe.model.weights or recipe.run.load_from
            check(bool(is_started), "--model.freeze backbone would keep random weights; add --model.pretrained true")
            freeze_backbone(model.backbone)  # pyright: ignore[reportArgumentType]
        if recipe.run.recompute:
            recompute_blocks(model.backbone)
        if recipe.run.sync_norm:
            distributed.synchronize_norms(model)  # in place: a segmentor is no norm itself
        return placed(model, recipe.run, self.world.device)

    def _wrap(self, step: nn.Module) -> nn.Module:
        if self.world.size > 1:
            devices = None if self.world.device.type == "cpu" else [self.world.device]
            with warnings.catch_warnings():
                # newer torch renames the option, older torch knows only this name
                warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
                step = nn.parallel.DistributedDataParallel(step, device_ids=devices, broadcast_buffers=False)
        return torch.compile(step) if self.recipe.run.compile else step  # pyright: ignore[reportReturnType]

    def batches(self) -> Generator[Batch, None, None]:
        """Return this process's parts of every batch from the current iteration on; to be closed."""
        recipe, world = self.recipe, self.world
        dataset = TrainSet(
            self.train_data, TrainTransform(recipe.augment), recipe.run.seed, self.paper.map_source(recipe)
        )
        sampler = self._sampler(self.iteration)
        return train_loader(dataset, sampler, recipe.data.workers, pin=world.device.type not in ("cpu", "mps"))

    def _sampler(self, start: int) -> StepSampler:
        world, accumulate = self.world, self.recipe.optim.accumulate
        return StepSampler(self.plan, start, self.total, world.rank, world.size, accumulate)

    def step(self, parts: list[Batch]) -> dict[str, Tensor]:
        """Run one optimizer step over the parts of a batch; return the mean of each logged term, on the device."""
        with training_precision(self.world.device, self.recipe.run.tf32):
            return self._step(parts)

    def _step(self, parts: list[Batch]) -> dict[str, Tensor]:
        recipe, world = self.recipe, self.world
        torch.manual_seed(SEED_RULES[self.seed_rule](recipe.run.seed, world.rank, self.iteration))
        lr = learning_rate(recipe.schedule, self.total, recipe.optim.lr, 1.0, self.iteration)
        set_learning_rate(self.optimizer, recipe.schedule, self.total, recipe.optim.lr, self.iteration)
        info = StepInfo(self.iteration, self.total, lr, self.plan.epoch(self.iteration))
        means: dict[str, Tensor] = {}
        for number, part in enumerate(parts, 1):
            image, target = part.to(world.device)
            image = image.contiguous(memory_format=memory_format(recipe.run.channels_last))
            is_last = number == len(parts)
            with nullcontext() if is_last or world.size == 1 else self.step_module.no_sync():  # pyright: ignore
                with mixed_precision(self.world.device, self.recipe.run.amp), _single_values_explained():
                    terms = self.step_module(image, target, info)
                self.scaler.scale(terms["loss"] / len(parts)).backward()
            for name, value in terms.items():
                means[name] = means.get(name, 0) + value.detach() / len(parts)
        if recipe.optim.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optim.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.model)
        return means

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs: plain containers and tensors only."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "iteration": self.iteration,
            "best": self.best,
            "stale": self.stale,
            "is_validated": self.is_validated,
            "seed_rule": self.seed_rule,
            "first_loss": None if self.first_loss is None else float(self.first_loss),
            "recipe": to_plain(self.recipe),
        }

    def load_state(self, state: dict[str, Any], source: Path) -> None:
        """Continue from a saved state.

        Raises:
            InputError: if it belongs to another model, optimizer or total number of iterations, or lacks an entry.
        """
        try:
            # an option that the state's version did not have was at its default
            theirs = to_plain(recipe_from_plain(self.paper, state["recipe"], "its recipe"))
            changed = _changed_options(to_plain(self.recipe), theirs)
            if not changed:
                self._take(state, theirs["data"])
        except (InputError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
            raise InputError(f"{source} is a state of another network or version: {reason}") from error
        check(not changed, f"{source} was made with other values of {', '.join(changed)}; resume with the same")

    def _take(self, state: dict[str, Any], data: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        counters = from_plain(_Counters, {name: state[name] for name in _COUNTERS if name in state}, "counters")
        check(counters.iteration <= self.total, f"it is of iteration {counters.iteration}, the run has {self.total}")
        self.iteration, self.best, self.is_validated = counters.iteration, counters.best, counters.is_validated
        self.stale = counters.stale
        self.first_loss, self.seed_rule = counters.first_loss, counters.seed_rule
        if self.seed_rule not in SEED_RULES:
            raise LookupError(f"its seeds follow the rule {self.seed_rule!r}, known are {', '.join(SEED_RULES)}")
        ours = to_plain(self.recipe.data)
        if any(ours[key] != data[key] for key in _VALIDATION):
            self.best, self.stale = -1.0, 0  # a score on other images does not compete
            self.is_validated &= self.iteration < self.total  # a finished run has no later validation

    def is_finite(self) -> bool:
        """Return whether every weight is a number."""
        return bool(torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()]).all())

    def meta(self, scores: dict[str, float]) -> CheckpointMeta:
        """Return what a weights file says about itself."""
        classes = self.train_data.classes
        return CheckpointMeta(
            paper=self.paper.name,
            recipe_name=self.name,
            recipe=to_plain(self.recipe),
            classes=list(classes.names),
            palette=classes.palette.tolist(),
            iteration=self.iteration,
            scores=scores,
            versions=run_versions(),
        )

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that evaluation and users get: the average where one is kept."""
        return self.average.weights(self.model) if self.average else self.model.state_dict()

    @contextmanager
    def evaluation_weights(self) -> Iterator[Segmentor]:
        """Give the network with the weights of `weights` inside the block."""
        with self.average.applied_to(self.model) if self.average else nullcontext():
            yield self.model

    def synchronize_buffers(self) -> None:
        """Give every process the running statistics of the first one, which are the ones that are saved."""
        if self.world.size > 1:
            averages = self.average.tensors.values() if self.average else ()
            for tensor in (*self.model.buffers(), *averages):
                torch.distributed.broadcast(tensor, src=0)


@contextmanager
def _single_values_explained() -> Iterator[None]:
    """Make one sentence of torch's refusal to normalize a batch of one image at a map of one pixel."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "a batch norm got one value per channel: one image per process and accumulation step, of which a pixel is "
            "left; raise --data.batch or --augment.crop"
        ) from error


def _changed_options(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return the options that would make a resumed run another one than it was."""
    watched = {part: set(ours[part]) for part in ("model", "data", "augment", "loss", "optim", "schedule")}
    watched["data"] -= {"workers", "max_pixels", "test_split", "test_list", *_VALIDATION}
    watched["model"] -= {"pretrained", "weights"}  # they were used before the first step
    watched["run"] = {"seed", "amp"}
    return [
        f"--{part}.{key}".replace("_", "-")
        for part, keys in watched.items()
        for key in ours[part]
        if key in keys and _meant(key, theirs[part].get(key)) != _meant(key, ours[part][key])
    ]


def _meant(option: str, value: Any) -> Any:
    """Return what counts of an option's value: of a list or class file its name, because its folder may move."""
    return Path(value).name if option in ("train_list", "classes") and value else value


def total_iterations(recipe: Recipe, num_images: int) -> int:
    """Return the number of optimizer steps: given, or epochs x floor(images / batch)."""
    if not recipe.schedule.epochs:
        return recipe.schedule.iterations
    return recipe.schedule.epochs * BatchPlan(num_images, recipe.data.batch, recipe.run.seed).per_epoch
