"""Segmentation scores from one int64 confusion matrix on the device, docs/protocol 4.

Nothing is kept per image, and nothing is rounded before the end. K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcore.data.labels import IGNORE
from segcore.evaluation import METRICS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Scores of a whole data set, as fractions; NaN where a score is undefined (0/0).

    Attributes:
        names: of the classes.
        counts: pixels by label (rows; the last, where there is one, is labels outside the classes) and prediction
            (columns; the last is predictions outside the classes).

    Shapes:
        counts (K or K + 1, K + 1) int64
        iou, accuracy (= recall), dice, precision, fscore (K,) float64
        intersection, predicted, labeled, union (K,) int64, pixels
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]

    @property
    def intersection(self) -> NDArray[np.int64]:
        return np.diagonal(self.counts)[: len(self.names)]

    @property
    def predicted(self) -> NDArray[np.int64]:
        return self.counts[:, :-1].sum(axis=0)

    @property
    def labeled(self) -> NDArray[np.int64]:
        return self.counts[: len(self.names)].sum(axis=1)

    @property
    def union(self) -> NDArray[np.int64]:
        return self.predicted + self.labeled - self.intersection

    @property
    def iou(self) -> Array:
        return _ratio(self.intersection, self.union)

    @property
    def accuracy(self) -> Array:
        """Share of each class's labeled pixels that are right."""
        return _ratio(self.intersection, self.labeled)

    @property
    def dice(self) -> Array:
        return _ratio(2 * self.intersection, self.predicted + self.labeled)

    @property
    def precision(self) -> Array:
        return _ratio(self.intersection, self.predicted)

    @property
    def recall(self) -> Array:
        return self.accuracy

    @property
    def fscore(self) -> Array:
        """Harmonic mean of precision and recall: undefined where a class is never hit, unlike dice."""
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def aacc(self) -> float:
        """Share of all labeled pixels that are right."""
        return float(_ratio(self.intersection.sum(), self.labeled.sum()))

    @property
    def miou(self) -> float:
        """Mean over the classes where it is defined, as all means here."""
        return _mean(self.iou)

    @property
    def macc(self) -> float:
        return _mean(self.accuracy)

    @property
    def mdice(self) -> float:
        return _mean(self.dice)

    @property
    def mfscore(self) -> float:
        return _mean(self.fscore)

    @property
    def mprecision(self) -> float:
        return _mean(self.precision)

    @property
    def mrecall(self) -> float:
        return _mean(self.recall)

    def per_class(self, name: str) -> Array:
        """Return a score of every class by the name that reports give it: IoU, Acc, Dice, Fscore, Precision, Recall."""
        scores = {
            "IoU": self.iou,
            "Acc": self.accuracy,
            "Dice": self.dice,
            "Fscore": self.fscore,
            "Precision": self.precision,
            "Recall": self.recall,
        }
        return scores[name]

    def summary(self, metrics: Sequence[str] = ("mIoU",)) -> dict[str, float]:
        """Return aAcc, the means and the scores of every class under the reference's keys.

        Percentages are rounded to two decimals (half to even) and divided by 100, as the reference reports them.

        Args:
            metrics: mIoU (IoU, Acc), mDice (Dice, Acc), mFscore (Fscore, Precision, Recall).
        """
        reported = list(dict.fromkeys(name for metric in metrics for name in METRICS[metric]))
        result = {"aAcc": _rounded(self.aacc)}
        result |= {f"m{name}": _rounded(_mean(self.per_class(name))) for name in reported}
        for name in reported:
            values = self.per_class(name)
            result |= {f"{name}.{label}": _rounded(float(values[i])) for i, label in enumerate(self.names)}
        return result


def _ratio(part: NDArray[np.generic] | np.generic, whole: NDArray[np.generic] | np.generic) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part, np.float64) / np.asarray(whole, np.float64)


def _mean(values: Array) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _rounded(fraction: float) -> float:
    return float(np.round(fraction * 100, 2)) / 100


class ConfusionMatrix:
    """Counts of (label, prediction) pairs over a data set.

    Args:
        num_classes: K.
        device: where it counts; predictions and labels must be there.
        names: of the classes, for reports; numbers without them.
        outside: labels that are neither a class nor 255. "predicted": the pixel counts as predicted only (family M).
            "ignored": it does not count (family S).

    Attributes:
        matrix: (K + 1, K + 1) int64, label x prediction; the last row and column count values outside the classes.
    """

    def __init__(
        self,
        num_classes: int,
        device: torch.device | str = "cpu",
        *,
        names: Sequence[str] = (),
        outside: Literal["predicted", "ignored"] = "predicted",
    ) -> None:
        if names and len(names) != num_classes:
            raise ValueError(f"{num_classes} classes but {len(names)} names")
        self.num_classes = num_classes
        self.names = tuple(names) or tuple(str(i) for i in range(num_classes))
        self.outside = outside
        self.matrix = torch.zeros((num_classes + 1, num_classes + 1), dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count an image or a batch.

        Shapes:
            prediction, label (..., H, W), any integer type; label 255 = ignore
        """
        if prediction.shape != label.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in size")
        side = self.num_classes + 1
        cell = inside(label, self.num_classes).mul_(side).add_(inside(prediction, self.num_classes))
        # Ignored pixels go to one more cell, so that no mask has to be counted on the CPU.
        cell.masked_fill_(label == IGNORE, side * side)
        counts = count_values(cell, side * side + 1)
        self.matrix += counts[:-1].reshape(side, side)

    def scores(self) -> Scores:
        """Return the scores of everything counted so far (one synchronization with the device)."""
        counts = self.matrix.cpu().numpy()
        return Scores(self.names, counts[:-1] if self.outside == "ignored" else counts)


def count_values(values: Tensor, size: int) -> Tensor:
    """Return how often 0 .. size - 1 occur, (size,) int64; there must be no other values.

    `torch.bincount`, the fastest on a CPU, looks at the values first, for which a GPU would have to be waited for.
    """
    values = values.flatten()
    if values.device.type == "cpu":
        return torch.bincount(values, minlength=size)
    ones = torch.ones((), dtype=torch.int64, device=values.device).expand(values.shape)
    return torch.zeros(size, dtype=torch.int64, device=values.device).scatter_add_(0, values.long(), ones)


def inside(values: Tensor, num_classes: int) -> Tensor:
    """Return class numbers as int32, `num_classes` for everything that is no class."""
    result = values.to(torch.int32)
    if values.dtype != torch.uint8:
        result = torch.where(result < 0, num_classes, result)
    return result.clamp(max=num_classes)
