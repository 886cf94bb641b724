"""UN-EPT's losses and sliding windows as the definition words them, without the fast forms.

The yardstick of bench/unept_slide.py and bench/unept_train.py, and the oracle of tests/unept/test_losses.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.layers.deform_attn.op import deform_attn
from segcore.segmentor import Target, resize
from unept.context import QuerySelfAttention
from unept.model import UNEPT
from unept.refinement import DIRECTIONS

IGNORE = 255


@contextmanager
def plain_attention() -> Iterator[None]:
    """Let every deformable attention in the block run the plain form: grid_sample on all heads, queries and points."""
    with patch("segcore.layers.deform_attn.layer.deform_attn", partial(deform_attn, backend="reference")):
        yield


def plain_losses(logits: Tensor, boundary: Tensor, direction: Tensor, target: Target) -> dict[str, Tensor]:
    """Compute `unept.model.RefinementLoss` (unept/PAPER 4), with loops over classes and bins; 0 / 0 stays NaN."""
    distance, angle = target.boundary_distance, target.boundary_angle
    assert distance is not None
    assert angle is not None
    is_boundary = ((distance >= 0) & (distance <= 5)).long()
    share = torch.stack([(is_boundary == i).to(logits.dtype).mean() for i in range(2)])
    bins = torch.zeros_like(target.label)
    for i in range(1, 8):
        center = -180 + 45 * i
        bins[(angle > center - 22.5) & (angle <= center + 22.5)] = i
    kept = boundary.softmax(dim=1)[:, 1] > 0.5
    counts = torch.stack([((bins == i) & kept).sum().to(logits.dtype) for i in range(8)])
    bins[~kept] = IGNORE
    refined = shift_by_sampling(logits, boundary, direction)
    return {
        "ce": _class_loss(logits, target.label),
        "boundary": F.cross_entropy(boundary, is_boundary, weight=1 - share),
        "direction": F.cross_entropy(direction, bins, weight=1 - counts / counts.sum(), ignore_index=IGNORE),
        "refined": _class_loss(refined, target.label),
    }


def _class_loss(logits: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none").mean()


def shift_by_sampling(logits: Tensor, boundary: Tensor, direction: Tensor) -> Tensor:
    """Return the refined logits by bilinear samples at whole coordinates, border padding.

    Shapes:
        logits (B, K, H, W), boundary (B, 2, H, W), direction (B, 8, H, W) -> (B, K, H, W)
    """
    height, width = logits.shape[-2:]
    step = torch.tensor(DIRECTIONS)[direction.argmax(dim=1)] * (boundary[:, 1] > 0.5)[..., None]
    y = (torch.arange(height)[:, None] + step[..., 0]).to(logits.dtype) / (height - 1) * 2 - 1
    x = (torch.arange(width) + step[..., 1]).to(logits.dtype) / (width - 1) * 2 - 1
    grid = torch.stack([x, y], dim=-1)
    return F.grid_sample(logits, grid, padding_mode="border", align_corners=True)


class PlainLoss(nn.Module):
    """`plain_losses` in place of a network's own loss."""

    def forward(self, logits: Tensor, boundary: Tensor, direction: Tensor, target: Target) -> dict[str, Tensor]:
        return plain_losses(logits, boundary, direction, target)


def plain_slide(model: UNEPT, image: Tensor, window: int, stride: int) -> Tensor:
    """Average windows as the release does: one at a time, each run twice, the boundary heads along with it.

    The first run of a window only counts how many outputs the network has (unept/PAPER 7.6).

    Shapes:
        image (1, 3, H, W), at least as large as the window -> logits (1, K, H, W)
    """
    height, width = image.shape[-2:]
    total, count = image.new_zeros((1, model.num_classes, height, width)), image.new_zeros((1, 1, height, width))
    _attend_over_one_image(model)
    with plain_attention():
        for i in range(-(-(height - window) // stride) + 1):
            for j in range(-(-(width - window) // stride) + 1):
                bottom, right = min(i * stride + window, height), min(j * stride + window, width)
                top, left = bottom - window, right - window
                crop = image[:, :, top:bottom, left:right]
                for _ in range(2):
                    said = model.head.predictions([crop, *model.backbone(crop)])
                    logits = resize(said.logits, (window, window))
                total += F.pad(logits, (left, width - right, top, height - bottom))
                count[:, :, top:bottom, left:right] += 1
    return total / count


def _attend_over_one_image(model: UNEPT) -> None:
    """Compute self-attention over the batch of one in evaluation, too, where we apply a matrix."""
    for module in model.modules():
        if isinstance(module, QuerySelfAttention):
            module.train()
            module.dropout = 0.0
