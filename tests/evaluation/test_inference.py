"""Inference: windows, scales, mirroring and bands against the plain computation of full-size maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segcore.evaluation import inference
from segcore.evaluation.inference import logit_map, mean_over_views, network_input, predict_labels, slide, views, whole
from segcore.evaluation.logit_map import row_table
from segcore.images.transforms import normalize
from segcore.recipe import MS_RATIOS, Evaluate

CPU = torch.device("cpu")


def conv_model(num_classes: int = 5, stride: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, num_classes, 3, stride, 1).eval().requires_grad_(requires_grad=False)


def random_pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_image(height: int, width: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 40), new_size=st.integers(1, 80), data=st.data())
def test_any_range_of_rows_equals_those_rows_of_the_whole_resize(size: int, new_size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, new_size - 1))
    stop = data.draw(st.integers(start + 1, new_size))
    image = random_image(size, 3)
    table = row_table(size, new_size, torch.device("cpu"))
    first, last = table.source(start, stop)
    rows = table.apply(image[..., first:last, :], first, start, stop)
    expected = F.interpolate(image, size=(new_size, 3), mode="bilinear")[..., start:stop, :]
    # places up to 40 are rounded to 4e-6 in float32, and neighboring values differ by up to 6
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (65, 31), (1, 1)])
def test_slide_equals_whole_when_one_window_covers_the_image(size: tuple[int, int]) -> None:
    model, image = conv_model(), random_image(*size)
    assert torch.equal(slide(model, image, (96, 96), (64, 64), batch=4), whole(model, image))


def plain_slide(model: nn.Module, image: Tensor, crop: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Average windows one at a time with full-size adds, as docs/protocol 3.2 writes it."""
    height, width = image.shape[-2:]
    total, count = torch.zeros(1, 5, height, width), torch.zeros(1, 1, height, width)
    for i in range(max(height - crop[0] + stride[0] - 1, 0) // stride[0] + 1):
        for j in range(max(width - crop[1] + stride[1] - 1, 0) // stride[1] + 1):
            bottom, right = min(i * stride[0] + crop[0], height), min(j * stride[1] + crop[1], width)
            top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
            part = image[..., top:bottom, left:right]
            total[..., top:bottom, left:right] += F.interpolate(model(part), size=part.shape[-2:], mode="bilinear")
            count[..., top:bottom, left:right] += 1
    return total / count


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(5, 50), st.integers(5, 50)),
    crop=st.tuples(st.integers(8, 24), st.integers(8, 24)),
    stride=st.tuples(st.integers(3, 8), st.integers(3, 8)),
)
def test_slide_equals_windows_run_one_at_a_time(
    size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]
) -> None:
    model, image = conv_model(), random_image(*size)
    expected = plain_slide(model, image, crop, stride)
    torch.testing.assert_close(slide(model, image, crop, stride, batch=3), expected, rtol=1e-5, atol=3e-5)


def test_the_number_of_windows_run_together_does_not_change_the_result() -> None:
    model, image = conv_model(), random_image(70, 90)
    results = [slide(model, image, (32, 32), (20, 20), batch=batch) for batch in (1, 2, 5, 64)]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-6, atol=1e-6)


def test_a_batch_of_images_slides_as_each_image_alone() -> None:
    model, images = conv_model(), random_image(50, 60, count=3)
    together = slide(model, images, (32, 32), (20, 20), batch=4)
    alone = torch.cat([slide(model, image[None], (32, 32), (20, 20), batch=4) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


class LargestBatch(nn.Module):
    """Remembers the largest input it was given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.batches = model, list[int]()

    def forward(self, image: Tensor) -> Tensor:
        self.batches.append(len(image))
        return self.model(image)


def test_windows_and_mirrored_images_share_forward_passes_up_to_the_limit() -> None:
    counter = LargestBatch(conv_model())
    slide(counter, random_image(64, 64), (32, 32), (32, 32), batch=3)
    assert counter.batches == [3, 1]
    counter.batches.clear()
    protocol = Evaluate(scale=(64, 64), ratios=(1.0, 0.5), flip=True)
    predict_labels(counter, views(random_pixels(40, 40), protocol), protocol, (40, 40))
    assert counter.batches == [2, 2]


def test_a_forward_pass_on_a_cpu_stays_below_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "CPU_PIXELS", 2 * 32 * 32)
    counter = LargestBatch(conv_model())
    slide(counter, random_image(64, 96), (32, 32), (32, 32), batch=6)
    assert counter.batches == [2, 2, 2]


def plain_predict(model: nn.Module, image: np.ndarray, protocol: Evaluate) -> Tensor:
    """Family M, whole, view by view at full size: two interpolations, softmax, mean."""
    total = torch.zeros(())
    for view in views(image, replace(protocol, flip=False)):
        pixels = normalize(view.pixels.permute(2, 0, 1).flip(0)).unsqueeze(0)
        for is_mirrored in (False, True)[: 1 + protocol.flip]:
            inputs = pixels.flip(-1) if is_mirrored else pixels
            valid = inputs.shape[-2:]
            if protocol.pad_divisor:
                inputs = F.pad(inputs, (0, -valid[1] % protocol.pad_divisor, 0, -valid[0] % protocol.pad_divisor))
            logits = F.interpolate(model(inputs), size=inputs.shape[-2:], mode="bilinear")[..., : valid[0], : valid[1]]
            scores = F.interpolate(logits, size=image.shape[:2], mode="bilinear").softmax(dim=1)[0]
            total = total + (scores.flip(-1) if is_mirrored else scores)
    return total / (len(protocol.ratios) * (1 + protocol.flip))


PROTOCOLS = {
    "single": Evaluate(scale=(80, 40)),
    "padded": Evaluate(scale=(80, 40), pad_divisor=32, flip=True),
    "multi-scale": Evaluate(scale=(80, 40), ratios=MS_RATIOS, flip=True),
    "to a multiple": Evaluate(scale=(80, 40), ratios=(0.5, 1.0), resize_divisor=16, flip=True),
}


@pytest.mark.parametrize("band_bytes", [1, 10_000, 1 << 30])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_bands_of_any_height_equal_full_size_maps(name: str, band_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(inference.BAND_BYTES, "cpu", band_bytes)
    model, image, protocol = conv_model(), random_pixels(37, 61), PROTOCOLS[name]
    expected, size = plain_predict(model, image, protocol), (37, 61)
    torch.testing.assert_close(
        mean_over_views(model, views(image, protocol), protocol, size), expected, rtol=1e-4, atol=1e-5
    )
    labels = predict_labels(model, views(image, protocol), protocol, size)
    assert (labels == expected.argmax(dim=0)).float().mean() > 0.999


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("family", ["M", "S"])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_labels_are_the_largest_values_for_any_head_resolution(stride: int, family: str, mode: str) -> None:
    model, image = conv_model(stride=stride), random_pixels(30, 50)
    for is_probability in (False, True):
        protocol = Evaluate(
            family=family, mode=mode, crop=(32, 32), stride=(20, 20), scale=(60, 40), ratios=(0.5, 1.0, 1.5), flip=True,
            probabilities=is_probability,
        )  # fmt: skip
        parts = views(image, protocol)
        values = mean_over_views(model, parts, protocol, (30, 50))
        labels = predict_labels(model, parts, protocol, (30, 50))
        assert (labels == values.argmax(dim=0)).float().mean() > 0.999


def test_family_s_averages_logits_or_probabilities_as_asked() -> None:
    model, image = conv_model(), random_pixels(30, 50)
    protocol = Evaluate(family="S", scale=(60, 40), ratios=(0.5, 1.5), flip=True, probabilities=True)
    sums = mean_over_views(model, views(image, protocol), protocol, (30, 50)).sum(dim=0)
    torch.testing.assert_close(sums, torch.ones(30, 50), rtol=1e-5, atol=1e-5)
    protocol = replace(protocol, probabilities=False)
    assert mean_over_views(model, views(image, protocol), protocol, (30, 50)).min() < 0


def test_mirroring_an_image_mirrors_its_multi_scale_prediction() -> None:
    model, image = conv_model(), random_pixels(41, 60)
    protocol = Evaluate(scale=(60, 41), flip=True)
    plain = mean_over_views(model, views(image, protocol), protocol, (41, 60))
    mirrored = mean_over_views(model, views(image[:, ::-1].copy(), protocol), protocol, (41, 60))
    torch.testing.assert_close(mirrored.flip(-1), plain, rtol=1e-5, atol=1e-6)


@given(pairs=st.lists(st.sampled_from([(0, 1), (2, 3), (4, 5)]), unique=True))
def test_mirroring_back_twice_is_the_identity(pairs: list[tuple[int, int]]) -> None:
    scores = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(inference.unmirrored(inference.unmirrored(scores, pairs), pairs), scores)


class PaddingModel(nn.Module):
    """A network whose backbone takes multiples of 16 only; it pads, enlarges and cuts by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_model()

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // 16) * 16, -(-width // 16) * 16

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        legal = self.legal_size(height, width)
        logits = self.conv(F.pad(image, (0, legal[1] - width, 0, legal[0] - height)))
        if legal == (height, width):
            return logits
        return F.interpolate(logits, size=legal, mode="bilinear")[..., :height, :width]


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_padding_before_the_network_equals_padding_inside(mode: str) -> None:
    model, image = PaddingModel(), random_image(39, 50)
    protocol = Evaluate(mode=mode, crop=(24, 24), stride=(16, 16))
    outside = logit_map(model, image, protocol)
    hidden = nn.Sequential(model)  # the same network, its `legal_size` out of sight: it pads by itself
    torch.testing.assert_close(outside.full(), logit_map(hidden, image, protocol).full(), rtol=1e-5, atol=1e-5)
    assert outside.values[0].shape[-1] < outside.window[1]


def test_scores_stay_at_the_resolution_of_the_head() -> None:
    protocol = Evaluate(scale=(128, 96), ratios=MS_RATIOS, flip=True)
    model = conv_model(stride=8)
    maps = []
    for view in views(random_pixels(96, 128), protocol):
        image, valid = network_input(view, protocol, CPU)
        maps.append(logit_map(model, image, protocol, valid))
    assert sum(part.num_values for part in maps) < 5 * 96 * 128


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 200)])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_tiny_and_thin_images_are_predicted_at_their_size(size: tuple[int, int], name: str) -> None:
    model, image, protocol = conv_model(), random_pixels(*size), PROTOCOLS[name]
    labels = predict_labels(model, views(image, protocol), protocol, size)
    assert labels.shape == size
    assert labels.dtype == torch.uint8


def test_more_than_255_classes_need_a_wider_label() -> None:
    model, protocol = conv_model(num_classes=300), Evaluate(scale=(32, 32))
    labels = predict_labels(model, views(random_pixels(32, 32), protocol), protocol, (32, 32))
    assert labels.dtype == torch.int16
    assert labels.max() > 255
