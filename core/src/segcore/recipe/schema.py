"""A recipe: one frozen tree of plain data that describes a complete run.

Model, data, augmentation, loss, optimizer, schedule, evaluation and the run itself. A recipe holds no torch object, so
that listing and `--help` need no torch. The docstring under a field is its help text.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, Self

import tyro

from segcore.errors import InputError, check
from segcore.recipe.ranges import AT_LEAST_1, BELOW_1, BYTE, NOT_NEGATIVE, POSITIVE, SHARE, Range, check_ranges

AMP = Literal["off", "bf16", "fp16"]
"""Automatic mixed precision."""
MS_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Multi-scale test ratios of all five papers (`--aug-test`)."""
Pairs = tuple[tuple[int, int], ...]
MAX_PIXELS = 2 * 89_478_485
"""Pixels of the largest image that is decoded unless --data.max-pixels says more: where Pillow refuses as well."""
_SEED = Range("be between 0 and 2^32 - 1", 0, 2**32 - 1)
_WORKERS = Range("be between 0 and 256", 0, 256)


def check_pairs(option: str, pairs: Pairs, num_classes: int) -> None:
    """Refuse left/right pairs that name a class twice, or one that the data set does not have.

    Raises:
        InputError: naming the option and the class.
    """
    numbers = [number for pair in pairs for number in pair]
    for number in numbers:
        check(number < num_classes, f"{option} names class {number}; there are 0 to {num_classes - 1}")
        check(numbers.count(number) == 1, f"{option} names class {number} twice; a class is exchanged with one other")


@dataclass(frozen=True, kw_only=True)
class Model:
    """What every network has; a paper derives its own with the options of its head.

    Attributes:
        training_only: options that say how to train, not what the network is: checkpoints may differ in them.
    """

    training_only: ClassVar[tuple[str, ...]] = ()

    backbone: str
    """Backbone of segcore or any timm model by its name."""
    pretrained: bool = True
    """Start the backbone from ImageNet weights (downloaded through timm, or read from --model.weights)."""
    weights: str = ""
    """File with ImageNet weights of the backbone (.pth or .safetensors); empty downloads them through timm."""
    backbone_norm: Literal["sync", "batch", "frozen"] = "sync"
    """Batch norms of the backbone: synchronized over GPUs, per GPU, or fixed at their stored statistics."""
    freeze: Literal["none", "backbone"] = "none"
    """backbone: its weights and the statistics of its norms stay what they are at the start."""

    def __post_init__(self) -> None:
        check_ranges(self, "model")

    def suited_to(self, crop: tuple[int, int], lr: float) -> Self:
        """Return the same network for another training: what follows from its crop or learning rate is set anew.

        Args:
            crop: height and width of the training crop, pixels.
            lr: base learning rate.
        """
        return self


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which data set, and how it is sampled."""

    dataset: str
    """toy, folder, or a published data set by its name (`segcore data list`)."""
    train_split: str = "train"
    """Split(s) to train on; several are joined with +."""
    val_split: str = "val"
    """Split to validate on during training."""
    test_split: str = "val"
    """Split that <paper>-test scores."""
    train_list: str = ""
    """File with one image stem per line: train on these images only."""
    val_list: str = ""
    """File with one image stem per line: validate on these images only."""
    test_list: str = ""
    """File with one image stem per line: test on these images only."""
    classes: str = ""
    """folder: file with class names, one per line, or JSON with "classes" and "palette"; empty reads ROOT/classes.*."""
    ignore: Annotated[int, BYTE] = 255
    """folder: file value of pixels without a label."""
    mask_values: Annotated[tuple[int, ...], BYTE] = ()
    """folder: file value of each class, in the order of the classes (0 255); empty is 0, 1, 2, ..."""
    max_pixels: Annotated[int, AT_LEAST_1] = MAX_PIXELS
    """Refuse files of more pixels before decoding them: a damaged header can ask for all memory."""
    image_size: Annotated[tuple[int, int], AT_LEAST_1] = (192, 256)
    """toy: height and width of the generated scenes, pixels."""
    num_images: Annotated[tuple[int, int], AT_LEAST_1] = (400, 50)
    """toy: number of training and test scenes."""
    batch: Annotated[int, AT_LEAST_1] = 16
    """Images per optimizer step over ALL processes and accumulation steps; the learning rate is never rescaled."""
    workers: Annotated[int, _WORKERS] = 4
    """Loader processes per training process."""
    rare_temperature: Annotated[float, NOT_NEGATIVE] = 0.0
    """0 trains on every image once per epoch. Above, a class is drawn for each place of a batch, c of share f_c of the
    labeled pixels with probability ~ exp((1 - f_c) / T), then an image that shows it (rare class sampling of DAFormer,
    CVPR 2022: T = 0.01; larger T is milder)."""

    def __post_init__(self) -> None:
        check_ranges(self, "data")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Training transforms, docs/protocol 2: resize, crop, flip, rotate, photometric distortion, pad."""

    family: Literal["M", "S"] = "M"
    """M: mmsegmentation's rules. S: MemoryNet's (crop fallback, centered padding, hue direction)."""
    scale: Annotated[tuple[int, int], AT_LEAST_1] = (2048, 512)
    """The two bounds of the resized image before the random ratio, pixels, in any order (long and short side); with
    keep_ratio off (width, height), as the field writes it, where all other sizes are (height, width)."""
    keep_ratio: bool = True
    """Keep the aspect ratio; off resizes to exactly `scale`."""
    ratio: Annotated[tuple[float, float], POSITIVE] = (0.5, 2.0)
    """Range of the random factor on `scale`."""
    crop: Annotated[tuple[int, int], AT_LEAST_1] = (512, 512)
    """Height and width of the training crop, pixels."""
    cat_max_ratio: Annotated[float, POSITIVE] = 0.75
    """A crop is redrawn (10 times at most) while one class covers this share or more of its labeled pixels."""
    flip: Annotated[float, SHARE] = 0.5
    """Probability of the horizontal flip."""
    flip_pairs: Annotated[Pairs, NOT_NEGATIVE] = ()
    """Left/right classes exchanged by the flip (LIP)."""
    rotation: Annotated[float, SHARE] = 0.0
    """Probability of a rotation by -30 to 29 degrees (LIP: 0.6)."""
    photometric: bool = True
    """Random brightness, contrast, saturation and hue."""
    region_first: bool = True
    """Resize only the source region under the crop: several times faster, equal within one gray level."""

    def __post_init__(self) -> None:
        check_ranges(self, "augment")
        check(self.ratio[0] <= self.ratio[1], f"--augment.ratio must be two numbers low <= high, got {self.ratio}")

    def check_classes(self, num_classes: int) -> None:
        """Refuse pairs of classes that the data set does not have, see `check_pairs`."""
        check_pairs("--augment.flip-pairs", self.flip_pairs, num_classes)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Training loss on the logits resized to the label, docs/protocol 5."""

    average: Literal["all", "valid"] = "all"
    """all: divide by every pixel, ignored ones included (published, family M). valid: by labeled pixels only."""
    class_weight: Annotated[tuple[float, ...] | Literal["auto"], NOT_NEGATIVE] = ()
    """Weight of each class; empty weighs all alike. auto: ~ 1 / ln(1.02 + f_c) for class c of share f_c of the labeled
    training pixels (ENet, arXiv 1606.02147), with a mean of 1 over these pixels."""
    ohem: bool = False
    """Keep only hard pixels."""
    ohem_threshold: Annotated[float, SHARE] = 0.7
    """Probability of the true class under which a pixel counts as hard."""
    ohem_min_kept: Annotated[int, NOT_NEGATIVE] = 100_000
    """At least this many pixels per image are kept."""
    dice: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the dice loss beside the cross entropy; 0 leaves it out."""
    auxiliary: Annotated[float, NOT_NEGATIVE] = 0.4
    """Weight of the auxiliary head's loss, where the model has one."""

    def __post_init__(self) -> None:
        check_ranges(self, "loss")

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each class as numbers; empty weighs all alike.

        Raises:
            InputError: if they are still to be taken from the training data.
        """
        if self.class_weight == "auto":
            raise InputError("--loss.class-weight auto is counted when a training starts; give numbers here")
        return self.class_weight


@dataclass(frozen=True, kw_only=True)
class Optim:
    """Optimizer; parameter rules match substrings of the PUBLISHED tensor names, docs/protocol 6.1."""

    kind: Literal["adamw", "sgd"] = "adamw"
    """Optimizer."""
    lr: Annotated[float, POSITIVE]
    """Base learning rate for the total batch."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.01
    """Weight decay (decoupled in AdamW)."""
    betas: Annotated[tuple[float, float], BELOW_1] = (0.9, 0.999)
    """AdamW moments."""
    eps: Annotated[float, POSITIVE] = 1e-8
    """AdamW epsilon."""
    momentum: Annotated[float, BELOW_1] = 0.9
    """SGD momentum."""
    lr_mult: Annotated[dict[str, float], NOT_NEGATIVE] = field(default_factory=dict[str, float])
    """Substring of a published name -> factor on lr. The longest matching key (of both tables) decides alone."""
    decay_mult: Annotated[dict[str, float], NOT_NEGATIVE] = field(default_factory=dict[str, float])
    """Substring of a published name -> factor on the weight decay."""
    accumulate: Annotated[int, AT_LEAST_1] = 1
    """Split every batch into this many forward/backward passes."""
    clip_norm: Annotated[float, NOT_NEGATIVE] = 0.0
    """Largest gradient norm; 0 does not clip."""
    ema: Annotated[float, BELOW_1] = 0.0
    """Decay of an exponential moving average of the weights, used for evaluation; 0 keeps none."""

    def __post_init__(self) -> None:
        check_ranges(self, "optim")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate over iterations, docs/protocol 6.2."""

    iterations: Annotated[int, AT_LEAST_1]
    """Optimizer steps."""
    epochs: Annotated[int, NOT_NEGATIVE] = 0
    """Count in epochs instead: iterations = epochs x floor(images / batch); 0 uses `iterations`."""
    kind: Literal["poly", "step"] = "poly"
    """poly: (1 - i/T)^power. step: x gamma every `step` iterations."""
    power: Annotated[float, NOT_NEGATIVE] = 1.0
    """poly: exponent."""
    min_lr: Annotated[float, NOT_NEGATIVE] = 0.0
    """poly: learning rate at the end, the same for every parameter group (family S: before the group's factor)."""
    family: Literal["M", "S"] = "M"
    """M: each group decays from its own base rate. S: one global rate times the group's factor."""
    warmup: Annotated[int, NOT_NEGATIVE] = 0
    """Iterations of warmup; 0 has none."""
    warmup_kind: Literal["linear", "constant", "exp"] = "linear"
    """How the factor on the learning rate goes from `warmup_ratio` to 1: in a line (all published runs), in a jump
    after the warmup, or by equal factors."""
    warmup_ratio: Annotated[float, SHARE] = 1e-6
    """Factor on the learning rate at iteration 0 of the warmup, 0-1."""
    step: Annotated[int, NOT_NEGATIVE] = 0
    """step: iterations between decays."""
    gamma: Annotated[float, POSITIVE] = 0.1
    """step: factor of each decay."""

    def __post_init__(self) -> None:
        check_ranges(self, "schedule")
        check(
            self.warmup_kind != "exp" or self.warmup_ratio > 0,
            "--schedule.warmup-kind exp multiplies: it needs a --schedule.warmup-ratio above 0",
        )
        check(self.kind != "step" or self.step >= 1, "--schedule.kind step needs --schedule.step")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Test protocol, docs/protocol 3."""

    family: Literal["M", "S"] = "M"
    """M: logits resized twice, softmax averaged. S: one interpolation, logits or probabilities averaged."""
    mode: Literal["whole", "slide"] = "whole"
    """One forward over the image, or overlapping windows."""
    crop: Annotated[tuple[int, int], AT_LEAST_1] = (512, 512)
    """slide: height and width of a window."""
    stride: Annotated[tuple[int, int], AT_LEAST_1] = (341, 341)
    """slide: vertical and horizontal step between windows."""
    pad_window: bool = False
    """slide: zero-pad windows smaller than the crop (UN-EPT)."""
    scale: Annotated[tuple[int, int], AT_LEAST_1] = (2048, 512)
    """The two bounds of the resized test image, pixels, in any order; with keep_ratio off (width, height)."""
    keep_ratio: bool = True
    """Keep the aspect ratio; off resizes to exactly `scale`."""
    ratios: Annotated[tuple[float, ...], POSITIVE] = (1.0,)
    """Factors on `scale` whose predictions are averaged."""
    flip: bool = False
    """Average with the prediction of the mirrored image."""
    flip_pairs: Annotated[Pairs, NOT_NEGATIVE] = ()
    """Left/right classes exchanged in mirrored predictions (LIP)."""
    pad_divisor: Annotated[int, NOT_NEGATIVE] = 0
    """Zero-pad the normalized image at right and bottom to a multiple of this, cut afterwards; 0 does not."""
    resize_divisor: Annotated[int, NOT_NEGATIVE] = 0
    """Resize each side up to a multiple of this; 0 does not."""
    probabilities: bool = False
    """S: softmax before the interpolation and the average."""
    aug_ratios: Annotated[tuple[float, ...], POSITIVE] = MS_RATIOS
    """Factors that --aug-test sets."""
    aug_flip: bool = True
    """Flip that --aug-test sets."""
    aug_mode: Literal["same", "whole", "slide"] = "same"
    """Mode that --aug-test sets, with the same crop and stride; same keeps `mode`."""
    aug_probabilities: bool = True
    """S: `probabilities` that --aug-test sets."""
    window_batch: Annotated[int, AT_LEAST_1] = 8
    """slide: windows of equal size run together."""

    def __post_init__(self) -> None:
        check_ranges(self, "evaluate")
        check(len(self.ratios) > 0, "--evaluate.ratios needs at least one factor")
        check(len(self.aug_ratios) > 0, "--evaluate.aug-ratios needs at least one factor")
        is_covering = self.stride[0] <= self.crop[0] and self.stride[1] <= self.crop[1]
        check(self.mode == "whole" or is_covering, f"--evaluate.stride {self.stride} exceeds the crop {self.crop}")

    def check_classes(self, num_classes: int) -> None:
        """Refuse pairs of classes that the data set does not have, see `check_pairs`."""
        check_pairs("--evaluate.flip-pairs", self.flip_pairs, num_classes)

    @property
    def words(self) -> str:
        """How results of this protocol are called."""
        scales = "multi-scale" if len(self.ratios) > 1 else "single scale"
        return f"{scales} + flip" if self.flip else scales

    def protocol(self, aug_test: bool) -> Evaluate:
        """Return this protocol, or with `aug_test` its multi-scale + flip form."""
        return self.with_augmentation() if aug_test else self

    def with_augmentation(self) -> Evaluate:
        """Return the multi-scale + flip form of this protocol (`--aug-test`)."""
        return replace(
            self,
            ratios=self.aug_ratios,
            flip=self.aug_flip,
            mode=self.mode if self.aug_mode == "same" else self.aug_mode,
            probabilities=self.aug_probabilities if self.family == "S" else self.probabilities,
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where, how fast and how often."""

    work_dir: Annotated[str, tyro.conf.arg(aliases=["--work-dir"])] = ""
    """Folder of everything a training writes; empty is work_dirs/PAPER-RECIPE. A test writes its score beside the
    weights, and here only where that folder cannot be written."""
    data: Annotated[str, tyro.conf.arg(aliases=["--data-root"])] = ""
    """Root folder of the data set."""
    resume: Annotated[bool, tyro.conf.arg(aliases=["--resume"])] = False
    """Go on from the last state in the work directory."""
    resume_from: Annotated[str, tyro.conf.arg(aliases=["--resume-from"])] = ""
    """Go on from this training state (a file state-*.pt)."""
    load_from: Annotated[str, tyro.conf.arg(aliases=["--load-from"])] = ""
    """Start from the weights of this checkpoint (ours or published); other classes re-initialize the classifier."""
    seed: Annotated[int, _SEED, tyro.conf.arg(aliases=["--seed"])] = 0
    """Seed of weights, data order and augmentation."""
    deterministic: Annotated[bool, tyro.conf.arg(aliases=["--deterministic"])] = False
    """Use deterministic algorithms on the GPU (slower)."""
    device: str = "auto"
    """cpu, cuda, mps (Apple), xpu (Intel), or auto: CUDA if there is any, else the CPU."""
    amp: AMP = "off"
    """Automatic mixed precision of the forward pass."""
    tf32: bool = True
    """Train with TF32 matrix products and convolutions on NVIDIA GPUs that have it, as the published code did by the
    default of torch at its time. Tests and predictions keep torch's own."""
    compile: bool = False
    """Run the training step through torch.compile."""
    channels_last: bool = True
    """Memory format of images and weights."""
    exact: bool = False
    """Test, predict and validate without folding norms into convolutions, and on CUDA without replaying recorded
    forward passes; labels differ, if at all, at ties."""
    sync_norm: bool = True
    """On several processes, synchronize the norms that the model asks for."""
    log_interval: Annotated[int, AT_LEAST_1] = 50
    """Iterations between log lines."""
    eval_interval: Annotated[int, NOT_NEGATIVE] = 4000
    """Iterations between validations; 0 validates at the end only."""
    eval_images: Annotated[int, NOT_NEGATIVE] = 0
    """Validate during training on the first so many images; 0 and the last validation use all."""
    save_interval: Annotated[int, AT_LEAST_1] = 4000
    """Iterations between saved states; the last one is always saved."""
    keep: Annotated[int, AT_LEAST_1] = 2
    """States kept, beside the best weights."""
    patience: Annotated[int, NOT_NEGATIVE] = 0
    """Stop after so many validations in a row without a better mIoU; 0 never does."""
    recompute: bool = False
    """Keep only what enters each block of the backbone and compute the rest again in the backward pass: less memory,
    the same gradients, about a third slower."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where numbers and pictures go beside log.jsonl: names of the entry-point group segcore.trackers (tensorboard,
    wandb, mlflow, trackio, each but the first an extra of segcore, and those of other packages)."""
    wandb: bool = False
    """The same as the tracker wandb beside the others."""

    def __post_init__(self) -> None:
        check_ranges(self, "run")
        check(
            not (self.resume and self.resume_from),
            "--resume goes on from the last state, --resume-from from the given one; choose one of them",
        )
        check(
            not (self.recompute and self.compile),
            "--run.recompute and --run.compile exclude each other: torch.compile chooses by itself what to keep",
        )

    @property
    def all_trackers(self) -> tuple[str, ...]:
        """The trackers, each once."""
        return tuple(dict.fromkeys((*self.trackers, *(("wandb",) if self.wandb else ()))))


@dataclass(frozen=True, kw_only=True)
class Published:
    """Figures of the paper or its repository for this recipe; None where none was published."""

    miou: Annotated[float | None, NOT_NEGATIVE] = None
    """mIoU, single scale, percent."""
    miou_ms: Annotated[float | None, NOT_NEGATIVE] = None
    """mIoU, multi-scale + flip, percent."""
    params: Annotated[float | None, NOT_NEGATIVE] = None
    """Parameters, millions."""
    gmacs: Annotated[float | None, NOT_NEGATIVE] = None
    """Multiply-adds (the papers' "FLOPs"), 1e9, at the training crop."""
    note: str = ""
    """Source, or what differs."""

    def __post_init__(self) -> None:
        check_ranges(self, "published")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One complete run."""

    model: Model
    data: Data
    augment: Augment
    loss: Loss = field(default_factory=Loss)
    optim: Optim
    schedule: Schedule
    evaluate: Evaluate
    run: Run = field(default_factory=Run)
    published: tyro.conf.Suppress[Published] = field(default_factory=Published)

    def __post_init__(self) -> None:
        check(
            self.data.batch % self.optim.accumulate == 0,
            f"--data.batch {self.data.batch} must be a multiple of --optim.accumulate {self.optim.accumulate}",
        )

    def check_classes(self, num_classes: int) -> None:
        """Refuse pairs of classes that the data set does not have, see `check_pairs`."""
        self.augment.check_classes(num_classes)
        self.evaluate.check_classes(num_classes)
