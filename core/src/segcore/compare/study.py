"""A study: every head on the same backbone, data order, augmentation, schedule and budget, with several seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import tyro

from segcore.errors import InputError, check
from segcore.files import atomic_write
from segcore.paper import Paper, find_model
from segcore.recipe import AMP, Data, Evaluate, Loss, Model, Optim, Recipe, Run, Schedule
from segcore.recipe.plain import from_json, to_plain
from segcore.recipe.protocols import Fragment, fragment_of
from segcore.recipe.ranges import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, check_ranges

FILE_NAME = "study.json"
COST = "cost.json"
"""In a run's folder: what its network costs (`segcore compare cost`)."""
_OUTPUT_STRIDES = (0, 8, 16, 32)
_LOG_LINES = 40


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared, and what all runs share."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """toy, folder, or a published data set by its name (`segcore data list`)."""
    papers: str
    """Heads, separated by commas: PAPER or PAPER-RECIPE, whose head and losses are taken; PAPER alone is its first
    recipe. Baselines: fcn, smp-unet, smp-upernet, ..."""
    root: Annotated[str, tyro.conf.arg(aliases=["--run.data"])] = ""
    """Folder of the data set."""
    work_dir: Annotated[str, tyro.conf.arg(aliases=["--run.work-dir"])] = "study"
    """Folder of the study. The same command again goes on with it, also with more heads or seeds."""
    backbone: str = "resnet50"
    """Backbone of every head."""
    pretrained: bool = True
    """Start the backbone from ImageNet weights."""
    weights: str = ""
    """File with ImageNet weights of the backbone; empty downloads them through timm."""
    output_stride: int = 0
    """Largest stride of the backbone, 8, 16 or 32, for heads that can choose it; 0 leaves each head's own."""
    iterations: Annotated[int, AT_LEAST_1] = 2000
    """Optimizer steps of the first head, and of all where --equal is iterations."""
    equal: Literal["iterations", "macs", "time"] = "iterations"
    """What every head gets as much of as the first one: steps, multiply-adds, or time of training on this machine."""
    seeds: Annotated[int, AT_LEAST_1] = 3
    """Runs of each head; the same seed has the same order of the data in every head."""
    lrs: Annotated[tuple[float, ...], POSITIVE] = (3e-4,)
    """Learning rate; of several, each head takes the best on the validation images, tried with its first seed."""
    backbone_lr: Annotated[float, POSITIVE] = 1.0
    """Factor on the learning rate of the backbone."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.01
    """Weight decay (AdamW)."""
    batch: Annotated[int, NOT_NEGATIVE] = 0
    """Images per step; 0 is that of the data set's recipes."""
    crop: Annotated[tuple[int, int], NOT_NEGATIVE] = (0, 0)
    """Height and width of the training crop, pixels; 0 0 is that of the data set's recipes."""
    scale: Annotated[tuple[int, int], NOT_NEGATIVE] = (0, 0)
    """Bounds of the resized image in training and test, pixels; 0 0 are those of the data set's recipes."""
    num_images: Annotated[tuple[int, int], AT_LEAST_1] = (400, 50)
    """toy: number of training and test scenes."""
    classes: str = ""
    """folder: file of the class names; empty is ROOT/classes.txt or classes.json."""
    validations: Annotated[int, AT_LEAST_1] = 4
    """Validations of a run, evenly over its steps; the best one's weights are tested."""
    aug_test: bool = False
    """Also test with several scales and flip."""
    aug_ratios: Annotated[tuple[float, ...], POSITIVE] = ()
    """Scales of --aug-test; empty are those of the data set's recipes."""
    workers: Annotated[int, NOT_NEGATIVE] = 4
    """Loader processes of a run."""
    device: str = "auto"
    """cpu, cuda, mps, xpu or auto. On several GPUs of one machine the runs share them, a process for each."""
    amp: AMP = "off"
    """Automatic mixed precision."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check(len(self.lrs) > 0, "--lrs needs at least one learning rate")
        check(
            self.output_stride in _OUTPUT_STRIDES, f"--output-stride must be 8, 16, 32 or 0, got {self.output_stride}"
        )
        words = self.words
        check(len(words) > 0, "--papers names no head; for example cgrseg,fcn")
        twice = sorted({word for word in words if words.count(word) > 1})
        check(not twice, f"--papers names {', '.join(twice)} twice")

    @property
    def words(self) -> list[str]:
        """Names of the heads."""
        return [word.strip() for word in self.papers.split(",") if word.strip()]

    def shared(self) -> dict[str, Any]:
        """Return what a study cannot change any more once it has runs, as plain data."""
        free = {"papers", "seeds", "lrs", "work_dir", "workers", "device", "aug_test", "root"}
        return {name: value for name, value in to_plain(self).items() if name not in free}


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head of a study: whose options and losses it has."""

    word: str
    paper: Paper
    recipe: str

    @property
    def base(self) -> Recipe:
        """The recipe that its head and losses are taken from."""
        return self.paper.recipes[self.recipe]


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One training of a study."""

    head: Head
    lr: float
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """As it is called in the study's files."""
        return f"{self.head.word}/{self.folder.name}"


def heads_of(study: Study) -> list[Head]:
    """Return the heads of a study.

    Raises:
        InputError: if a name is none, with close ones.
    """
    found = [(word, *find_model(word)) for word in study.words]
    return [Head(word=word, paper=paper, recipe=name) for word, paper, name in found]


def planned(study: Study, head: Head, lr: float, seed: int) -> PlannedRun:
    """Return the run of a head with a seed, and where it lies."""
    return PlannedRun(head=head, lr=lr, seed=seed, folder=run_folder(Path(study.work_dir), head.word, lr, seed))


def run_folder(study: Path, word: str, lr: float, seed: int) -> Path:
    """Return where a run lies in a study's folder."""
    return study / "runs" / word / f"lr-{lr:g}-seed-{seed}"


def fragment(study: Study) -> Fragment:
    """Return data, augmentation and test that all heads share.

    Raises:
        InputError: if there is no such data set, or a folder of one's own cannot be used.
    """
    found = fragment_of(study.dataset)
    data = replace(
        found.data,
        batch=study.batch or found.data.batch,
        workers=study.workers,
        classes=study.classes,
        num_images=study.num_images,
    )
    augment, evaluate = found.augment, replace(found.evaluate, mode="whole")
    if study.dataset == "folder":
        values, crop, scale = _fitted(data, study.root)
        data = replace(data, mask_values=values)
        augment = replace(augment, crop=crop, scale=scale)
        evaluate = replace(evaluate, scale=scale)
    if max(study.crop):
        augment = replace(augment, crop=study.crop)
    if max(study.scale):
        augment, evaluate = replace(augment, scale=study.scale), replace(evaluate, scale=study.scale)
    if study.aug_ratios:
        evaluate = replace(evaluate, aug_ratios=study.aug_ratios)
    return Fragment(data=data, augment=augment, evaluate=evaluate)


@cache
def _fitted(data: Data, root: str) -> tuple[tuple[int, ...], tuple[int, int], tuple[int, int]]:
    """Return mask values, crop and scale for the pictures of a folder of one's own, which is looked at once."""
    from segcore.data.fitting import crop_for, measure, scale_for  # with OpenCV, which --help does not need

    pictures = measure(data, root)
    return pictures.mask_values, crop_for(pictures.size), scale_for(pictures.size)


def recipe_of(study: Study, run: PlannedRun, iterations: int) -> Recipe:
    """Return the complete recipe of a run."""
    shared = fragment(study)
    interval = max(iterations // study.validations, 1)
    return Recipe(
        model=_model(study, run.head.base.model.suited_to(shared.augment.crop, run.lr)),
        data=shared.data,
        augment=shared.augment,
        loss=_loss(run.head.base, shared),
        optim=Optim(
            lr=run.lr,
            weight_decay=study.weight_decay,
            lr_mult={"backbone": study.backbone_lr} if study.backbone_lr != 1 else {},
        ),
        schedule=Schedule(
            iterations=iterations, family=shared.augment.family, warmup=min(1500, iterations // 10), warmup_ratio=1e-2
        ),
        evaluate=shared.evaluate,
        run=Run(
            work_dir=str(run.folder),
            data=study.root,
            seed=run.seed,
            device=study.device,
            amp=study.amp,
            eval_interval=interval,
            save_interval=interval,
            log_interval=max(1, min(50, iterations // _LOG_LINES)),
            keep=1,
        ),
    )


def _model(study: Study, model: Model) -> Model:
    changes: dict[str, Any] = {
        "backbone": study.backbone,
        "pretrained": study.pretrained,
        "weights": study.weights,
        "backbone_norm": "sync",
        "freeze": "none",
    }
    strides = get_args(get_type_hints(type(model)).get("output_stride"))
    if study.output_stride in strides:
        changes["output_stride"] = study.output_stride
    return replace(model, **changes)


def _loss(base: Recipe, shared: Fragment) -> Loss:
    """Return the paper's losses: class weights belong to their data set, hard pixels are a share of the crop."""
    loss = base.loss
    if base.data.dataset != shared.data.dataset:
        loss = replace(loss, class_weight=())
    share = loss.ohem_min_kept / math.prod(base.augment.crop)
    return replace(loss, ohem_min_kept=round(share * math.prod(shared.augment.crop))) if loss.ohem else loss


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """What a study's folder says of it.

    Attributes:
        shared: see `Study.shared`.
        heads: in the order in which they came.
        seeds: most runs of a head asked for so far.
        lrs: learning rates tried.
        iterations: optimizer steps of each head.
        chosen: learning rate of each head, once it is known.
        problems: run -> why it failed, in a sentence.
        commands: as typed, in their order.
    """

    shared: dict[str, Any]
    heads: list[str]
    seeds: int
    lrs: list[float]
    root: str
    iterations: dict[str, int]
    chosen: dict[str, float]
    trained: list[str]
    problems: dict[str, str]
    commands: list[str]


def study_file(folder: Path) -> Path:
    """Return the file that says what a study is."""
    return folder / FILE_NAME


def read_study(folder: Path) -> StudyFile | None:
    """Return what a folder says of its study; None where it holds none.

    Raises:
        InputError: if the file cannot be read.
    """
    path = study_file(folder)
    try:
        return from_json(StudyFile, path.read_bytes(), str(path)) if path.is_file() else None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def write_study(folder: Path, content: StudyFile) -> None:
    """Write what a study is.

    Raises:
        InputError: if the folder or disk refuses.
    """
    with atomic_write(study_file(folder)) as file:
        file.write(f"{json.dumps(to_plain(content), indent=1)}\n".encode())


def joined(study: Study, earlier: StudyFile | None, command: str) -> StudyFile:
    """Return a study with what is asked for now added to what it has.

    Raises:
        InputError: if an option differs that all its runs share.
    """
    shared = study.shared()
    if earlier is None:
        return StudyFile(
            shared=shared,
            heads=study.words,
            seeds=study.seeds,
            lrs=[*study.lrs],
            root=study.root,
            iterations={},
            chosen={},
            trained=[],
            problems={},
            commands=[command],
        )
    changed = _changed(earlier.shared, shared)
    check(
        not changed,
        f"the study {study.work_dir} was begun with other values of {', '.join(changed)}; give the same, or another "
        "--work-dir",
    )
    check(
        set(study.lrs) == set(earlier.lrs),
        f"the study {study.work_dir} tries the learning rates {', '.join(f'{lr:g}' for lr in earlier.lrs)}; give the "
        "same --lrs, or another --work-dir",
    )
    heads = [*earlier.heads, *(word for word in study.words if word not in earlier.heads)]
    commands = earlier.commands if command in earlier.commands else [*earlier.commands, command]
    return replace(earlier, heads=heads, seeds=max(study.seeds, earlier.seeds), root=study.root, commands=commands)


def _changed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    names = [*dict.fromkeys([*ours, *theirs])]
    return [f"--{name.replace('_', '-')}" for name in names if ours.get(name) != theirs.get(name)]


def protocols(study: Study) -> list[Evaluate]:
    """Return the tests of every run."""
    single = fragment(study).evaluate
    return [single, single.with_augmentation()] if study.aug_test else [single]
