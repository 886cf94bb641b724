"""Training losses on logits at label size: cross entropy, hard-pixel selection (OHEM) and dice; docs/protocol 5.

Everything is computed in float32, under autocast too, and nothing synchronizes with the device. Labels are train ids,
255 = ignore. K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor, nn

from segcore.data.labels import IGNORE
from segcore.errors import InputError
from segcore.recipe import Loss

_VALID_EPSILON = torch.finfo(torch.float32).eps  # family M adds it to the number of labeled pixels

Average = Literal["all", "valid", "weight", "sum"]


def at_least_float32(x: Tensor) -> Tensor:
    """Return a tensor of half precision as float32; float32 and float64 stay what they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    average: Average = "all",
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
) -> Tensor:
    """Return the weighted cross entropy over the labeled pixels (docs/protocol 5.1 and 5.2).

    Args:
        average: what the sum is divided by. "all": every pixel, ignored ones included (family M as published).
            "valid": labeled pixels, class weights do not renormalize (family M, avg_non_ignore). "weight": the sum of
            the weights of the labeled pixels (family S, and its mean over hard pixels). "sum": 1.
        class_weight: (K,) factor of each true class.
        pixel_weight: (B, H, W) factor of each pixel.

    Shapes:
        logits (B, K, H, W), label (B, H, W) int64 -> scalar; 0 where no pixel is labeled
    """
    loss = _pixel_losses(logits, label, class_weight)
    if pixel_weight is not None:
        loss = loss * pixel_weight
    total = loss.sum()
    if average == "sum":
        return total
    if average == "all":
        return total / label.numel()
    is_labeled = label != IGNORE
    if average == "valid":
        return total / (is_labeled.sum() + _VALID_EPSILON)
    weight = is_labeled.to(loss.dtype)
    if class_weight is not None:
        weight = weight * class_weight[label.masked_fill(~is_labeled, 0)]
    if pixel_weight is not None:
        weight = weight * pixel_weight
    divisor = weight.sum()
    # 1 where all weights are 0: over a tiny number the gradient overflows, and infinity times 0 is no number
    return total / divisor.masked_fill(divisor == 0, 1)


def _pixel_losses(logits: Tensor, label: Tensor, class_weight: Tensor | None) -> Tensor:
    """Return the cross entropy of every pixel, 0 where it is ignored: (B, K, H, W), (B, H, W) -> (B, H, W)."""
    is_last = logits.is_contiguous(memory_format=torch.channels_last)
    # With classes last in memory, pixels are the rows of a matrix: as maps torch would copy them to the other layout,
    # the largest tensor of a step, and give the gradient in that layout, too.
    rows, labels = (logits.permute(0, 2, 3, 1).flatten(0, 2), label.flatten()) if is_last else (logits, label)
    loss = F.cross_entropy(rows, labels, weight=class_weight, ignore_index=IGNORE, reduction="none")
    return loss.view(label.shape)


@torch.no_grad()
def hard_pixels(logits: Tensor, label: Tensor, *, threshold: float, min_kept: int) -> Tensor:
    """Return weight 1 for labeled pixels whose true class has a low probability, else 0 (docs/protocol 5.3).

    The limit is `threshold`, or, where that keeps too few, the probability at index `min_kept` * B of the ascending
    order; the comparison is strict, as published.

    Args:
        threshold: probability of the true class, 0-1.
        min_kept: pixels per image.

    Shapes:
        logits (B, K, H, W), label (B, H, W) -> (B, H, W) float32
    """
    is_labeled = label != IGNORE
    # softmax, not exp(-cross entropy): the selection compares exact values, and ties near 1 round differently
    true_class = label.masked_fill(~is_labeled, 0).unsqueeze(1)
    probability = logits.float().softmax(dim=1).gather(1, true_class).squeeze(1)  # (B, H, W)
    # Ignored pixels sort last, so that no count of labeled pixels has to reach the CPU.
    ordered = probability.masked_fill(~is_labeled, torch.inf).flatten()
    index = min(min_kept * label.shape[0], ordered.numel() - 1)
    limit = ordered.kthvalue(index + 1).values
    largest = probability.masked_fill(~is_labeled, 0).max()
    limit = torch.where(limit.isinf(), largest, limit).clamp(min=threshold)
    return (is_labeled & (probability < limit)).float()


@torch.no_grad()
def hardest_pixels(loss: Tensor, label: Tensor, *, min_kept: int) -> Tensor:
    """Return weight 1 for the `min_kept` * B labeled pixels of highest loss, else 0 (docs/protocol 5.3, no threshold).

    Shapes:
        loss (B, H, W) unreduced, label (B, H, W) -> (B, H, W) float32
    """
    is_labeled = label != IGNORE
    ordered = loss.float().masked_fill(~is_labeled, -torch.inf).flatten()
    kept = ordered.topk(min(min_kept * label.shape[0], ordered.numel()), sorted=False).indices
    weight = torch.zeros_like(ordered).scatter_(0, kept, 1.0).reshape(label.shape)
    return weight * is_labeled


def dice_loss(logits: Tensor, label: Tensor, *, class_weight: Tensor | None = None, smooth: float = 1.0) -> Tensor:
    """Return 1 - dice of the softmax, averaged over images and classes (docs/protocol 5.4).

    Ignored pixels are masked in the numerator only; in the denominator they count as the last class, as published.

    Shapes:
        logits (B, K, H, W), label (B, H, W) int64 -> scalar
    """
    num_classes = logits.shape[1]
    probability = logits.softmax(dim=1)
    classes = torch.arange(num_classes, device=label.device).reshape(-1, 1, 1)  # (K, 1, 1)
    one_hot = (label.clamp(0, num_classes - 1).unsqueeze(1) == classes).to(probability.dtype)  # (B, K, H, W)
    mask = (label != IGNORE).to(probability.dtype)
    overlap = einsum(probability, one_hot, mask, "b k h w, b k h w, b h w -> b k")
    squares = einsum(probability, probability, "b k h w, b k h w -> b k") + one_hot.sum(dim=(2, 3))
    loss = (1 - (2 * overlap + smooth) / (squares + smooth)).mean(dim=0)  # (K,)
    return (loss if class_weight is None else loss * class_weight).mean()


def pixel_accuracy(logits: Tensor, label: Tensor) -> Tensor:
    """Return the percentage of labeled pixels whose class is right; 0 where no pixel is labeled.

    Shapes:
        logits (B, K, H, W), label (B, H, W) -> scalar
    """
    num_right = (logits.argmax(dim=1) == label).sum()  # no class is 255, so ignored pixels are never right
    return 100 * num_right / (label != IGNORE).sum().clamp(min=1)


class SegmentationLoss(nn.Module):
    """The loss of a recipe: cross entropy, optionally on hard pixels only, and dice.

    Raises:
        InputError: in the first call, where the number of class weights is not K.
    """

    class_weight: Tensor | None

    def __init__(self, settings: Loss) -> None:
        super().__init__()
        self.settings = settings
        weight = torch.tensor(settings.weights, dtype=torch.float32) if settings.weights else None
        self.register_buffer("class_weight", weight, persistent=False)

    def check_classes(self, logits: Tensor) -> None:
        """Raise an `InputError` where the number of class weights is not that of the logits (B, K, ...)."""
        if self.class_weight is not None and len(self.class_weight) != logits.shape[1]:
            raise InputError(
                f"--loss.class-weight has {len(self.class_weight)} values for {logits.shape[1]} classes;"
                " give one per class, or none"
            )

    def forward(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Return "loss_ce" and, if the recipe weighs it, "loss_dice".

        Shapes:
            logits (B, K, H, W) at label size, label (B, H, W) int64, 255 = ignore -> scalars, float32
        """
        settings = self.settings
        self.check_classes(logits)
        with torch.autocast(logits.device.type, enabled=False):
            logits = at_least_float32(logits)
            pixel_weight = None
            if settings.ohem:
                kept, threshold = settings.ohem_min_kept, settings.ohem_threshold
                pixel_weight = hard_pixels(logits, label, threshold=threshold, min_kept=kept)
            result = {
                "loss_ce": cross_entropy(
                    logits,
                    label,
                    average=settings.average,
                    class_weight=self.class_weight,
                    pixel_weight=pixel_weight,
                )
            }
            if settings.dice > 0:
                result["loss_dice"] = settings.dice * dice_loss(logits, label, class_weight=self.class_weight)
        return result
