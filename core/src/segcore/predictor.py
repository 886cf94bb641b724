"""The interface for users: a trained network that turns an image into a label map."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segcore import distributed
from segcore.build import build_from_checkpoint, for_inference, load_for_recipe, placed
from segcore.data.base import ClassTable, load_classes
from segcore.data.read import read_image
from segcore.errors import InputError
from segcore.evaluation.inference import mean_over_views, predict_labels, views
from segcore.evaluation.score_files import file_hash, read_scores
from segcore.hub.origin import SUMMARY, Score, conditions
from segcore.hub.repository import locate
from segcore.layers.precision import mixed_precision
from segcore.paper import Paper
from segcore.recipe import AMP, MAX_PIXELS, Evaluate, Recipe
from segcore.weights.files import LoadedCheckpoint, read_checkpoint

ImageInput = str | Path | np.ndarray | Image.Image


class Prediction(NamedTuple):
    """What a network says about an image.

    Shapes:
        label (H, W) uint8 class numbers (int16 above 255 classes)
        probabilities (K, H, W) float32 on the network's device, None where not asked for
    """

    label: np.ndarray
    probabilities: Tensor | None = None


@dataclass(frozen=True)
class Predictor:
    """A network with its classes and test protocol: `Predictor.from_checkpoint(path)("street.jpg").label`.

    Attributes:
        model: in evaluation mode, on `device`.
        classes: names and colors of the class numbers.
        protocol: scales, windows, mirroring.
        amp: precision of the network.
        max_pixels: image files of more are refused before they are decoded.
        network: what runs; `from_checkpoint` gives `model` with its norms folded, None is `model` itself.
    """

    model: nn.Module
    classes: ClassTable
    protocol: Evaluate
    device: torch.device
    amp: AMP = "off"
    max_pixels: int = MAX_PIXELS
    network: nn.Module | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.protocol.check_classes(len(self.classes.names))

    @classmethod
    def from_pretrained(cls, name: str | Path, *, device: str | torch.device = "auto") -> Predictor:
        """Load a trained network by where it is.

        Args:
            name: a weights file of ours; a folder, of `save_pretrained` or a run's work directory; or user/name of the
                Hugging Face Hub, user/name@revision for a branch, tag or commit (extra `segcore[hub]`). What exists on
                this machine is meant first. Without a network, the hub's cache is read: HF_HUB_OFFLINE=1.
            device: see `from_checkpoint`.

        Raises:
            InputError: if there is nothing of that name, it cannot be had or read, or its paper is not installed.
        """
        return cls.from_checkpoint(locate(name), device=device)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        paper: Paper | None = None,
        recipe: Recipe | None = None,
        unsafe: bool = False,
        device: str | torch.device = "auto",
    ) -> Predictor:
        """Load a network from a checkpoint; in a run of several processes, in this process alone.

        Args:
            paper, recipe: what it is; needed for published files, taken from the file itself where it is ours.
            unsafe: see `read_checkpoint`.
            device: a device, or cpu, cuda, mps, xpu (the one that this process uses), auto (cuda if there is one).

        Raises:
            InputError: if the file cannot be read or belongs to another model.
        """
        place = distributed.current_device(device) if isinstance(device, str) else device
        if paper is None or recipe is None:
            built = build_from_checkpoint(path, unsafe=unsafe)
            model, recipe = built.model, built.recipe
            classes = ClassTable(tuple(built.meta.classes), np.asarray(built.meta.palette, np.uint8))
            model.origin = replace(model.known_origin(), scores=_tests_of(Path(path)))
        else:
            loaded = read_checkpoint(path, unsafe=unsafe)
            classes = _classes_of(loaded, recipe)
            model = load_for_recipe(paper, recipe, len(classes.names), loaded).model
        run, model = recipe.run, placed(model, recipe.run, place).eval()
        network = for_inference(model, run)
        return cls(model, classes, recipe.evaluate, place, run.amp, recipe.data.max_pixels, network)

    def __call__(self, image: ImageInput, *, with_probabilities: bool = False) -> Prediction:
        """Predict one image of any size.

        Args:
            image: a file; an array (H, W, 3) or gray (H, W), uint8 BGR as OpenCV decodes; or a PIL image, as it is.
            with_probabilities: also return the probability of every class.

        Raises:
            InputError: if it is not an image.
        """
        pixels = to_pixels(image, self.max_pixels)
        size, parts = (pixels.shape[0], pixels.shape[1]), views(pixels, self.protocol)
        network = self.network or self.model
        with mixed_precision(self.device, self.amp):
            if not with_probabilities:
                return Prediction(predict_labels(network, parts, self.protocol, size).cpu().numpy())
            values = mean_over_views(network, parts, self.protocol, size)
        if self.protocol.family == "S" and not self.protocol.probabilities:
            values = values.softmax(dim=0)  # mean logits: the order of the classes stays
        kind = np.uint8 if len(values) <= 255 else np.int16
        return Prediction(values.argmax(dim=0).cpu().numpy().astype(kind), values)


def _tests_of(weights: Path) -> tuple[Score, ...]:
    """Return the scores of the tests of exactly this file, by their age, for its model card."""
    tests = read_scores(weights)
    own = file_hash(weights) if tests else ""
    return tuple(
        Score(metric, test.metric[metric] or 0.0, f"{conditions(test.data.dataset, test.data.split, test.protocol)}")
        for _, test in tests
        if test.sha256 == own
        for metric in SUMMARY
        if test.metric.get(metric) is not None
    )


def _classes_of(loaded: LoadedCheckpoint, recipe: Recipe) -> ClassTable:
    """Return the classes a checkpoint was trained on: stated in ours, those of the recipe's data set otherwise."""
    if loaded.meta is not None:
        return ClassTable(tuple(loaded.meta.classes), np.asarray(loaded.meta.palette, np.uint8))
    name = recipe.data.dataset
    try:
        return load_classes(name)
    except FileNotFoundError as error:
        raise InputError(
            f"{loaded.path} does not say its classes, and --data.dataset {name} has no fixed ones; give the recipe of "
            "the published data set it was trained on"
        ) from error


def to_pixels(image: ImageInput, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 BGR.

    Raises:
        InputError: if it cannot be read, or the values have no range of an image's: an array that is not 8-bit, a PIL
            image of mode I or F.
    """
    if isinstance(image, (str, Path)):
        return read_image(Path(image), max_pixels=max_pixels)
    if isinstance(image, Image.Image):
        return np.asarray(_as_8_bit(image).convert("RGB"))[..., ::-1]
    if image.dtype != np.uint8:
        raise InputError(f"expected an image array of 8-bit values (uint8, 0 to 255), got {image.dtype}; convert it")
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] not in (3, 4) or 0 in image.shape:
        raise InputError(f"expected an image array (H, W, 3) in BGR order or (H, W), got the shape {image.shape}")
    return image[..., :3]


def _as_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8 bits; Pillow's own conversion clips every value above 255 to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))  # 65535 -> 255
    if image.mode in ("I", "F"):
        raise InputError(
            f"expected a PIL image of 8 or 16 bits per channel, got mode {image.mode}, whose values have no fixed "
            "range; scale it to 0..255 and convert it to mode L or RGB"
        )
    return image
