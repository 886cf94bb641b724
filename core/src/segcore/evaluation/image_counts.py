"""What a test keeps of every image: pixels of each class, as `NAME.SPLIT.PROTOCOL.DIGEST.npz` beside the score.

Compared networks are resampled by image (`statistics`) from these counts; boundaries, segment sizes and confused pairs
are told from them without predicting again. Memory is decided by the numbers of images and classes before the test
begins (28 bytes an image and class), and every process fills its own rows: sums over processes are exact.

- Boundary IoU (Cheng et al. 2021, arXiv 2103.16562): IoU of the pixels within `BOUNDARY` of the image's diagonal of
  their class's outline, in the label and in the prediction. As there, the border of the image is an outline.
- Segments are connected pixels of a class in the label; their size is their share of the image.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcore import distributed
from segcore.data.labels import IGNORE
from segcore.errors import InputError, check
from segcore.evaluation.metrics import count_values, inside
from segcore.evaluation.score_files import ScoreFile
from segcore.evaluation.statistics import Counts
from segcore.files import atomic_write
from segcore.opencv import cv2
from segcore.recipe.plain import from_json, to_plain

BOUNDARY = 0.02
"""Reach of a boundary by the image's diagonal, as published."""
KINDS = (
    "intersection",
    "predicted",
    "labeled",
    "boundary_intersection",
    "boundary_predicted",
    "boundary_labeled",
    "boundary_right",
)
"""Of the pixels counted by class; `boundary_right` are right ones near an outline of the label."""
SIZES = (0.001, 0.01, 0.1)
"""Shares of the image that separate tiny, small, medium and large segments."""
SIZE_NAMES = ("below 0.1 %", "0.1 to 1 %", "1 to 10 %", "above 10 %")


@dataclass(frozen=True, kw_only=True)
class ImageCounts:
    """Counts of a test.

    Shapes (N images, K classes):
        classes (N, len(KINDS), K) int32, pixels
        segments (N, 2, len(SIZE_NAMES)) int32: right and all labeled pixels by the size of their segment
        matrix (K, K + 1) int64: label x prediction of the whole test; the last column is predictions of no class
    """

    score: ScoreFile
    images: tuple[str, ...]
    class_names: tuple[str, ...]
    classes: NDArray[np.int32]
    segments: NDArray[np.int32]
    matrix: NDArray[np.int64]

    def counts(self, *, of_boundary: bool = False) -> Counts:
        """Return what IoU is made of, or boundary IoU."""
        prefix = "boundary_" if of_boundary else ""
        parts = (self.kind(f"{prefix}{name}") for name in ("intersection", "predicted", "labeled"))
        return Counts(*(part.astype(np.int64) for part in parts))

    def kind(self, name: str) -> NDArray[np.int32]:
        """Return one of `KINDS`: (N, K)."""
        return self.classes[:, KINDS.index(name)]


class ImageCounter:
    """Fills the counts while a test runs.

    Args:
        num_images: N of the whole test, over all processes.
        num_classes: K.
        outside: see `ConfusionMatrix`.
    """

    def __init__(self, num_images: int, num_classes: int, device: torch.device, outside: str) -> None:
        self.num_classes, self.outside = num_classes, outside
        self.classes = torch.zeros((num_images, len(KINDS), num_classes), dtype=torch.int32, device=device)
        self.segments = torch.zeros((num_images, 2, len(SIZE_NAMES)), dtype=torch.int32, device=device)

    def add(self, index: int, prediction: Tensor, label: Tensor, sizes: Tensor) -> None:
        """Count one image.

        Shapes:
            prediction, label (H, W) of any integer type, label 255 = ignore; sizes (H, W) uint8, see `segment_sizes`
        """
        label, prediction, is_labeled = self._classes_of(label), self._classes_of(prediction), label != IGNORE
        if self.outside == "ignored":
            is_labeled &= label < self.num_classes
        reach = boundary_reach(*label.shape)
        # what is not labeled is another class to the label, so that its border is an outline too
        near_label = is_labeled & is_near_boundary(label.where(is_labeled, -1), reach)
        near_prediction = is_labeled & is_near_boundary(prediction, reach)
        is_right = is_labeled & (label == prediction)
        for row, (values, mask) in enumerate(
            (
                (label, is_right),
                (prediction, is_labeled),
                (label, is_labeled),
                (label, is_right & near_label & near_prediction),
                (prediction, near_prediction),
                (label, near_label),
                (label, is_right & near_label),
            )
        ):
            self.classes[index, row] = _histogram(values, mask, self.num_classes)
        for row, mask in enumerate((is_right, is_labeled)):
            self.segments[index, row] = _histogram(sizes, mask, len(SIZE_NAMES))

    def sum_processes(self) -> None:
        """Bring the rows of all processes together, on every one."""
        for part in (self.classes, self.segments):
            distributed.all_reduce_sum(part)

    def _classes_of(self, values: Tensor) -> Tensor:
        return inside(values, self.num_classes)


def _histogram(values: Tensor, mask: Tensor, size: int) -> Tensor:
    """Count the values 0 .. size - 1 where the mask is set."""
    kept = values.to(torch.int32).masked_fill(~mask, size).clamp(max=size)
    return count_values(kept, size + 1)[:size].to(torch.int32)


def boundary_reach(height: int, width: int) -> int:
    """Return how far a boundary reaches, pixels, at least one."""
    return max(1, round(BOUNDARY * float(np.hypot(height, width))))


def is_near_boundary(classes: Tensor, reach: int) -> Tensor:
    """Return which pixels have another class, or the image's border, within `reach` pixels along each axis.

    A class's mask eroded `reach` times by 3x3 pixels, as published, is what this leaves of it, for all classes at once.

    Shapes:
        classes (H, W) integers from -1 -> (H, W) bool
    """
    values = torch.nn.functional.pad(classes.to(torch.int32), (reach, reach, reach, reach), value=-2)
    low = _over_windows(_over_windows(values, reach, 0, torch.minimum), reach, 1, torch.minimum)
    high = _over_windows(_over_windows(values, reach, 0, torch.maximum), reach, 1, torch.maximum)
    return low != high


def _over_windows(values: Tensor, reach: int, dim: int, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Join the 2 * reach + 1 neighbors along an axis, in as many steps as the width has binary digits."""
    width, size = 2 * reach + 1, 1
    while size < width:
        step = min(size, width - size)
        length = values.shape[dim] - step
        values = join(values.narrow(dim, 0, length), values.narrow(dim, step, length))
        size += step
    return values


def segment_sizes(label: np.ndarray) -> np.ndarray:
    """Return for each pixel the place of its segment's size among `SIZES`; segments are joined along edges of pixels.

    Shapes:
        label (H, W) uint8 -> (H, W) uint8; 0 where nothing is labeled
    """
    # Between the pixels of this picture lie the edges that join equal ones: all classes in one pass, 10 times faster.
    joined = np.zeros((2 * label.shape[0] - 1, 2 * label.shape[1] - 1), np.uint8)
    joined[::2, ::2] = 1
    joined[1::2, ::2] = label[1:] == label[:-1]
    joined[::2, 1::2] = label[:, 1:] == label[:, :-1]
    segments: np.ndarray = cv2.connectedComponents(joined, connectivity=4)[1][::2, ::2]
    share = np.bincount(segments.ravel()) / label.size
    place = np.searchsorted(SIZES, share, side="right").astype(np.uint8)
    return np.where(label == IGNORE, np.uint8(0), place[segments])


def counts_path(score: Path) -> Path:
    """Return where the counts of a score file are."""
    return score.with_suffix(".npz")


def write_counts(path: Path, counts: ImageCounts) -> None:
    """Write the counts of a test.

    Raises:
        InputError: if the file cannot be written.
    """
    with atomic_write(path) as file:
        np.savez_compressed(
            file,
            score=np.array(json.dumps(to_plain(counts.score))),
            images=np.array(counts.images),
            class_names=np.array(counts.class_names),
            classes=counts.classes,
            segments=counts.segments,
            matrix=counts.matrix,
        )


def read_counts(path: Path) -> ImageCounts:
    """Read the counts of a test.

    Raises:
        InputError: if there are none, or the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content: dict[str, Any] = {name: file[name] for name in file.files}
        score = from_json(ScoreFile, str(content.pop("score")), str(path))
        images, names = (tuple(map(str, content.pop(name).tolist())) for name in ("images", "class_names"))
        counts = ImageCounts(score=score, images=images, class_names=names, **content)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read the counts {path} ({error}); test the checkpoint again") from error
    expected = ((len(images), len(KINDS), len(names)), (len(images), 2, len(SIZE_NAMES)), (len(names), len(names) + 1))
    found = (counts.classes.shape, counts.segments.shape, counts.matrix.shape)
    check(found == expected, f"the counts {path} do not fit their {len(images)} images; test the checkpoint again")
    return counts
