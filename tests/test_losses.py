"""Losses: agreement with torch where the rules coincide, and the rules where they do not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segcore.errors import InputError
from segcore.losses import SegmentationLoss, cross_entropy, dice_loss, hard_pixels, hardest_pixels, pixel_accuracy
from segcore.recipe import Loss


def random_case(seed: int, size: tuple[int, int] = (11, 13), num_classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, num_classes, *size, generator=generator)
    label = torch.randint(0, num_classes, (2, *size), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = 255
    return logits, label


def test_family_s_cross_entropy_is_the_weighted_mean_of_torch() -> None:
    logits, label = random_case(0)
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.1])
    expected = F.cross_entropy(logits, label, weight=weight, ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, label, average="weight", class_weight=weight), expected)


def test_labeled_pixels_without_weight_give_no_loss_and_no_gradient_at_any_scale() -> None:
    logits, label = random_case(0)
    logits.requires_grad_()
    loss = 1000 * cross_entropy(logits, label, average="weight", class_weight=torch.zeros(logits.shape[1]))
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_family_m_cross_entropy_divides_by_ignored_pixels_too() -> None:
    logits, label = random_case(1)
    expected = F.cross_entropy(logits, label, ignore_index=255, reduction="sum") / label.numel()
    torch.testing.assert_close(cross_entropy(logits, label), expected)
    assert cross_entropy(logits, label) < cross_entropy(logits, label, average="valid")


def test_classes_last_in_memory_give_the_same_loss_and_a_gradient_in_their_layout() -> None:
    logits, label = random_case(1)
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.1])
    last = logits.contiguous(memory_format=torch.channels_last).requires_grad_()
    loss = cross_entropy(last, label, class_weight=weight)
    torch.testing.assert_close(loss, cross_entropy(logits.requires_grad_(), label, class_weight=weight))
    (gradient,) = torch.autograd.grad(loss, last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    (expected,) = torch.autograd.grad(cross_entropy(logits, label, class_weight=weight), logits)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("settings_", [Loss(), Loss(average="valid"), Loss(ohem=True), Loss(dice=1.0)])
def test_an_image_without_labels_gives_finite_losses_and_gradients(settings_: Loss) -> None:
    logits, label = random_case(2)
    logits.requires_grad_()
    losses = SegmentationLoss(settings_)(logits, torch.full_like(label, 255))
    assert losses["loss_ce"] == 0
    sum(losses.values(), torch.zeros(())).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_family_s_cross_entropy_of_no_labeled_pixel_is_zero_not_nan() -> None:
    logits, label = random_case(3)
    ignored = torch.full_like(label, 255)
    assert torch.isnan(F.cross_entropy(logits, ignored, ignore_index=255))
    assert cross_entropy(logits, ignored, average="weight") == 0


def sorted_rule(logits: Tensor, label: Tensor, threshold: float, min_kept: int) -> Tensor:
    """Select hard pixels by a full sort, word by word as docs/protocol 5.3 says."""
    valid = label != 255
    probability = logits.softmax(dim=1).gather(1, label.where(valid, 0)[:, None])[:, 0]
    ordered = probability[valid].sort().values
    kept = min_kept * len(label)
    limit = float(ordered[min(kept, len(ordered) - 1)]) if len(ordered) else 0.0
    return (valid & (probability < max(limit, threshold))).float()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.0, 0.2, 0.7, 1.0]), min_kept=st.integers(0, 200))
def test_hard_pixels_equal_a_full_sort(seed: int, threshold: float, min_kept: int) -> None:
    logits, label = random_case(seed)
    ours = hard_pixels(logits, label, threshold=threshold, min_kept=min_kept)
    assert torch.equal(ours, sorted_rule(logits, label, threshold, min_kept))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), min_kept=st.integers(1, 200))
def test_hardest_pixels_are_the_labeled_ones_of_highest_loss(seed: int, min_kept: int) -> None:
    logits, label = random_case(seed)
    loss = F.cross_entropy(logits, label, ignore_index=255, reduction="none")
    is_kept = hardest_pixels(loss, label, min_kept=min_kept).bool()
    labeled = label != 255
    assert int(is_kept.sum()) == min(2 * min_kept, int(labeled.sum()))
    assert not (is_kept & ~labeled).any()
    if (labeled & ~is_kept).any():
        assert loss[is_kept].min() >= loss[labeled & ~is_kept].max()


def test_dice_loss_equals_the_loop_over_classes() -> None:
    logits, label = random_case(4)
    probability, mask = logits.softmax(dim=1), (label != 255).float()
    terms = []
    for c in range(logits.shape[1]):
        p, target = probability[:, c], (label.clamp(max=logits.shape[1] - 1) == c).float()
        overlap = 2 * (p * target * mask).sum(dim=(1, 2)) + 1
        terms.append((1 - overlap / ((p**2 + target**2).sum(dim=(1, 2)) + 1)).mean())
    torch.testing.assert_close(dice_loss(logits, label), torch.stack(terms).mean())


def test_losses_are_float32_under_autocast() -> None:
    logits, label = random_case(5)
    loss = SegmentationLoss(Loss(ohem=True, dice=0.5, class_weight=(1.0, 2.0, 1.0, 1.0, 1.0)))
    expected = loss(logits.bfloat16(), label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = loss(logits.bfloat16(), label)
    assert set(expected) == {"loss_ce", "loss_dice"}
    for name, value in under_autocast.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def test_the_weight_of_dice_scales_its_loss() -> None:
    logits, label = random_case(6)
    once, thrice = (SegmentationLoss(Loss(dice=weight))(logits, label)["loss_dice"] for weight in (1.0, 3.0))
    torch.testing.assert_close(3 * once, thrice)


def test_class_weights_of_another_class_number_are_refused_by_option() -> None:
    logits, label = random_case(7)
    with pytest.raises(InputError, match=r"--loss\.class-weight has 2 values for 5 classes"):
        SegmentationLoss(Loss(class_weight=(1.0, 2.0)))(logits, label)


def test_pixel_accuracy_counts_labeled_pixels_only() -> None:
    label = torch.tensor([[[0, 1, 255, 1]]])
    logits = F.one_hot(torch.tensor([[[0, 0, 1, 1]]]), 2).permute(0, 3, 1, 2).float()
    assert pixel_accuracy(logits, label).item() == pytest.approx(100 * 2 / 3)
    assert pixel_accuracy(logits, torch.full_like(label, 255)) == 0


def test_losses_compile_as_one_graph() -> None:
    logits, label = random_case(8)
    loss = SegmentationLoss(Loss(ohem=True, dice=1.0))
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    for name, value in compiled(logits, label).items():
        torch.testing.assert_close(value, loss(logits, label)[name])
