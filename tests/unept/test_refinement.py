"""The refinement losses: fast forms against the definition, degenerate targets, options."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from segcore.errors import InputError
from segcore.losses import cross_entropy
from segcore.recipe import Loss
from segcore.segmentor import Target
from tests.unept.networks import gather_pixels, random_image, random_target
from unept.refinement import (
    DIRECTIONS,
    WEIGHTS,
    RefinementLoss,
    at_label_size,
    direction_bins,
    rarity_weights,
    shifted_pixels,
)

DEFINITION = Path(__file__).parents[2] / "bench" / "baselines" / "unept_plain.py"
plain_losses = runpy.run_path(str(DEFINITION))["plain_losses"]
IGNORE = 255


def _said(batch: int, height: int, width: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return random logits, boundary and direction predictions at label size, with gradients."""
    channels = (num_classes, 2, 8)
    parts = [random_image(batch, c, height, width, seed=seed + i) for i, c in enumerate(channels)]
    return parts[0].requires_grad_(), parts[1].requires_grad_(), parts[2].requires_grad_()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(9, 33), st.integers(9, 40), st.integers(1, 9), st.integers(0, 1000))
def test_losses_and_gradients_equal_the_definition(
    batch: int, height: int, width: int, num_classes: int, seed: int
) -> None:
    target = random_target(batch, height, width, num_classes, seed)
    predictions = _said(batch, height, width, num_classes, seed)
    ours, plain = (
        RefinementLoss(Loss())(*predictions, target),
        plain_losses(*(part.double() for part in predictions), target),
    )
    for name, value in plain.items():
        if torch.isnan(value):  # one boundary class or none: the definition divides zero by zero
            assert name in ("boundary", "direction")
            assert ours[name].item() == 0
            continue
        torch.testing.assert_close(ours[name], value.float(), rtol=1e-5, atol=1e-6, msg=name)
        gradients = torch.autograd.grad(ours[name], predictions, retain_graph=True, allow_unused=True)
        expected = torch.autograd.grad(value, predictions, retain_graph=True, allow_unused=True)
        for mine, theirs in zip(gradients, expected, strict=True):
            assert (mine is None) == (theirs is None)  # the shift gives no gradient to what it follows
            if mine is not None and theirs is not None:
                torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


def test_direction_bins_are_half_open_intervals_around_the_compass_points() -> None:
    angle = torch.arange(-180, 181, 2).float()
    bins = direction_bins(angle)
    for value, number in zip(angle.tolist(), bins.tolist(), strict=True):
        center = -180 + 45 * number
        assert center - 22.5 < value <= center + 22.5 or (number == 0 and value > 157.5)
    compass = {-180: 0, 180: 0, -90: 2, 0: 4, 90: 6, 255: 0}
    assert direction_bins(torch.tensor(list(compass)).float()).tolist() == list(compass.values())


@pytest.mark.parametrize("bin_number", range(8))
def test_a_pixel_takes_the_logits_of_its_neighbor_and_stays_inside(bin_number: int) -> None:
    values = torch.arange(12.0).view(1, 1, 3, 4)
    direction = torch.full((1, 3, 4), bin_number)
    pixels = shifted_pixels(torch.ones(1, 3, 4, dtype=torch.bool), direction, torch.tensor(DIRECTIONS))
    dy, dx = DIRECTIONS[bin_number]
    for y in range(3):
        for x in range(4):
            expected = values[0, 0, min(max(y + dy, 0), 2), min(max(x + dx, 0), 3)]
            assert gather_pixels(values, pixels)[0, 0, y, x] == expected


def test_pixels_that_are_no_boundary_stay_where_they_are() -> None:
    direction = torch.randint(0, 8, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    pixels = shifted_pixels(torch.zeros(2, 5, 6, dtype=torch.bool), direction, torch.tensor(DIRECTIONS))
    assert torch.equal(pixels, torch.arange(30).view(5, 6).expand(2, 5, 6))


def test_without_a_predicted_boundary_the_direction_loss_is_zero_and_its_gradient_too() -> None:
    logits, boundary, direction = _said(2, 16, 24, 5)
    with torch.no_grad():
        boundary[:, 1] = boundary[:, 0] - 1
    loss = RefinementLoss(Loss())(logits, boundary, direction, random_target(2, 16, 24, 5))["direction"]
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, direction)
    assert not gradient.any()


@pytest.mark.parametrize("distance", [0.0, 100.0])
def test_a_crop_of_boundary_only_or_of_none_gives_finite_losses_and_gradients(distance: float) -> None:
    predictions = _said(1, 16, 16, 3)
    target = random_target(1, 16, 16, 3)._replace(boundary_distance=torch.full((1, 16, 16), distance))
    terms = RefinementLoss(Loss())(*predictions, target)
    assert terms["boundary"] == 0
    assert all(torch.isfinite(value) for value in terms.values())
    total = sum((WEIGHTS[name] * value for name, value in terms.items()), torch.zeros(()))
    for gradient in torch.autograd.grad(total, predictions):
        assert gradient.isfinite().all()


def test_void_can_be_left_out_of_the_boundary_losses() -> None:
    predictions = _said(2, 24, 32, 4)
    target = random_target(2, 24, 32, 4)
    without = RefinementLoss(Loss(), void_is_boundary=False)
    changed = target._replace(
        boundary_distance=target.boundary_distance.masked_fill(target.label == IGNORE, 0.0),  # pyright: ignore[reportOptionalMemberAccess]
        boundary_angle=target.boundary_angle.masked_fill(target.label == IGNORE, 90.0),  # pyright: ignore[reportOptionalMemberAccess]
    )
    first, second = without(*predictions, target), without(*predictions, changed)
    published = RefinementLoss(Loss())
    for name in ("boundary", "direction"):
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        assert published(*predictions, target)[name] != published(*predictions, changed)[name]


@pytest.mark.parametrize("average", ["all", "valid"])
def test_class_weights_and_averages_are_those_of_the_plain_cross_entropy(average: str) -> None:
    weight = (0.5, 2.0, 1.0, 3.0)
    predictions, target = _said(2, 24, 32, 4), random_target(2, 24, 32, 4)
    terms = RefinementLoss(Loss(average=average, class_weight=weight))(*predictions, target)  # pyright: ignore[reportArgumentType]
    expected = cross_entropy(predictions[0], target.label, average=average, class_weight=torch.tensor(weight))  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(terms["ce"], expected)


def test_an_image_without_labels_gives_no_class_loss() -> None:
    target = random_target(1, 16, 16, 3)._replace(label=torch.full((1, 16, 16), IGNORE))
    for average in ("all", "valid"):
        terms = RefinementLoss(Loss(average=average))(*_said(1, 16, 16, 3), target)
        assert (terms["ce"].item(), terms["refined"].item()) == (0, 0)


def test_the_losses_never_wait_for_the_device() -> None:
    """Fake tensors have no values: reading one on the host raises."""
    with FakeTensorMode():
        loss = RefinementLoss(Loss())
        parts = [torch.empty(2, c, 16, 24, requires_grad=True) for c in (5, 2, 8)]
        maps = torch.empty(2, 16, 24, dtype=torch.int64), torch.empty(2, 16, 24), torch.empty(2, 16, 24)
        with pytest.raises(DataDependentOutputException):
            float(maps[1].sum())
        torch.stack(list(loss(*parts, Target(*maps)).values())).sum().backward()
        assert all(part.grad is not None for part in parts)


def test_half_precision_predictions_give_float32_losses() -> None:
    predictions, target = _said(1, 16, 24, 5), random_target(1, 16, 24, 5)
    rounded = [part.detach().bfloat16() for part in predictions]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = RefinementLoss(Loss())(*rounded, target)
    expected = RefinementLoss(Loss())(*(part.float() for part in rounded), target)
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def test_rare_classes_weigh_more_and_ignored_pixels_do_not_count() -> None:
    label = torch.tensor([0, 0, 0, 1, IGNORE])
    torch.testing.assert_close(rarity_weights(label, 3), torch.tensor([0.25, 0.75, 1.0]))
    torch.testing.assert_close(rarity_weights(torch.full((4,), IGNORE), 2), torch.ones(2))


def test_predictions_of_a_padded_image_are_cut_after_they_are_enlarged() -> None:
    prediction = random_image(1, 2, 4, 4)
    full = F.interpolate(prediction, size=(32, 32), mode="bilinear", align_corners=True)
    torch.testing.assert_close(at_label_size(prediction, (32, 32), (20, 31)), full[..., :20, :31], rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{"ohem": True}, {"dice": 1.0}])
def test_settings_that_these_losses_lack_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"--loss.{next(iter(changes))}"):
        RefinementLoss(Loss(**changes))  # pyright: ignore[reportArgumentType]


def test_another_number_of_class_weights_than_classes_is_refused() -> None:
    with pytest.raises(InputError, match="2 values for 3 classes"):
        RefinementLoss(Loss(class_weight=(1.0, 2.0)))(*_said(1, 16, 16, 3), random_target(1, 16, 16, 3))


def test_a_target_without_boundary_maps_is_refused() -> None:
    target = Target(torch.zeros(1, 16, 16, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected boundary_distance and boundary_angle"):
        RefinementLoss(Loss())(*_said(1, 16, 16, 3), target)
