"""Batches are a pure function of seed and iteration: whatever the processes, workers or restarts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from segcore.data.toy.dataset import ToyScenes
from segcore.errors import InputError
from segcore.images.region import Box
from segcore.images.target_maps import LabeledSample, TargetMaps, WholeMaps
from segcore.images.transforms import MEAN, STD, Family, TrainSample, TrainTransform, padding
from segcore.recipe import Augment
from segcore.training.batches import Batch, BatchPlan, SampleKey, StepSampler, TrainSet, target_of_labels, train_loader

TIGHT = Augment(crop=(32, 32), scale=(64, 48))


@given(num_images=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 5))
def test_an_epoch_uses_every_image_once_but_for_the_incomplete_batch(num_images: int, batch: int, seed: int) -> None:
    plan = BatchPlan(num_images, batch, seed)
    per_epoch = num_images // batch
    for epoch in range(2):
        drawn = [image for i in range(per_epoch) for image in plan.images(epoch * per_epoch + i)]
        assert len(drawn) == len(set(drawn)) == per_epoch * batch
        assert set(drawn) <= set(range(num_images))


def test_a_data_set_smaller_than_a_batch_is_repeated_evenly() -> None:
    plan = BatchPlan(3, 8, seed=0)
    drawn = np.bincount([image for i in range(3) for image in plan.images(i)], minlength=3)
    assert drawn.tolist() == [8, 8, 8]


def test_epochs_count_from_one_and_a_tiny_data_set_passes_in_one_batch() -> None:
    plan = BatchPlan(num_images=11, batch=4, seed=0)
    assert [plan.epoch(i) for i in range(5)] == [1, 1, 2, 2, 3]
    assert [BatchPlan(num_images=3, batch=8, seed=0).epoch(i) for i in range(3)] == [1, 2, 3]


def test_epochs_are_shuffled_differently_and_seeds_differ() -> None:
    plan = BatchPlan(64, 64, seed=0)
    assert plan.images(0) != plan.images(1)
    assert plan.images(0) != BatchPlan(64, 64, seed=1).images(0)


def keys(plan: BatchPlan, start: int, stop: int, processes: int, accumulate: int) -> list[set[SampleKey]]:
    """Return the samples of each iteration, over all processes."""
    result: list[set[SampleKey]] = [set() for _ in range(stop - start)]
    for rank in range(processes):
        for part in StepSampler(plan, start, stop, rank, processes, accumulate):
            assert len(part) == plan.batch // processes // accumulate
            result[part[0].iteration - start] |= set(part)
    return result


def test_processes_and_accumulation_share_the_same_batches() -> None:
    plan = BatchPlan(50, 8, seed=3)
    alone = keys(plan, 0, 9, 1, 1)
    assert keys(plan, 0, 9, 2, 1) == keys(plan, 0, 9, 4, 2) == alone
    assert all(len(batch) == 8 for batch in alone)


def test_a_later_start_continues_the_same_sequence() -> None:
    plan = BatchPlan(50, 8, seed=3)
    assert keys(plan, 5, 9, 1, 1) == keys(plan, 0, 9, 1, 1)[5:]


def test_an_indivisible_batch_names_the_option() -> None:
    with pytest.raises(InputError, match=r"--data\.batch 6 .* 4 processes x 1 accumulation"):
        StepSampler(BatchPlan(50, 6, 0), 0, 1, 0, 4, 1)


def test_workers_do_not_change_a_batch() -> None:
    data = ToyScenes("train", 6, (48, 64))
    batches = []
    for workers in (0, 2):
        sampler = StepSampler(BatchPlan(6, 4, 0), 0, 3, 0, 1, 2)
        batches.append(list(train_loader(TrainSet(data, TrainTransform(TIGHT), 0), sampler, workers)))
    assert len(batches[0]) == len(batches[1]) == 6
    for batch, other in zip(*batches, strict=True):
        assert batch.pixels.shape == (2, 3, 32, 32)
        assert torch.equal(batch.pixels, other.pixels)
        assert torch.equal(batch.label, other.label)
        assert batch.boxes == other.boxes


def label_as_distance(sample: LabeledSample) -> TargetMaps:
    """Return the label as both maps of the target, the second one negative."""
    values = sample.label.astype(np.float32)
    return WholeMaps({"boundary_distance": values, "boundary_angle": -values})


def test_maps_of_a_paper_follow_the_label_into_the_target() -> None:
    dataset = TrainSet(ToyScenes("train", 4, (48, 64)), TrainTransform(TIGHT), 0, label_as_distance)
    for workers in (0, 2):
        batches = list(train_loader(dataset, StepSampler(BatchPlan(4, 2, 0), 0, 3, 0, 1, 1), workers))
        assert len(batches) == 3
        for batch in batches:
            _, target = batch.to("cpu")
            assert target.boundary_distance is not None
            assert target.boundary_angle is not None
            assert torch.equal(target.boundary_distance, target.label.float())
            is_inside = target.label != 255
            assert torch.equal(target.boundary_angle[is_inside], -target.label[is_inside].float())
            assert torch.all(target.boundary_angle[~is_inside].abs() == 255)
            image, target = batch.to("meta")
            assert all(part is not None and part.is_meta for part in (image, *target))


def test_without_maps_the_image_and_label_are_the_same_and_nothing_else_is_there() -> None:
    data = ToyScenes("train", 2, (48, 64))
    with_maps, without = (TrainSet(data, TrainTransform(TIGHT), 0, maps) for maps in (label_as_distance, None))
    one, other = with_maps[SampleKey(1, 5, 0)], without[SampleKey(1, 5, 0)]
    assert not isinstance(one, InputError)
    assert not isinstance(other, InputError)
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.label, other.label)
    assert other.maps == {}
    assert Batch.of([other]).to("cpu")[1][1:] == (None, None)


def placed(plane: np.ndarray, size: tuple[int, int], family: str, fill: float) -> np.ndarray:
    """Pad or cut a plane, row by row and pixel by pixel (docs/protocol 2.7)."""
    starts = [(want - have) // 2 if family == "S" else 0 for want, have in zip(size, plane.shape, strict=True)]
    result = np.full(size, fill, plane.dtype)
    for y, x in np.ndindex(*plane.shape):
        place = (y + starts[0], x + starts[1])
        if all(0 <= at < side for at, side in zip(place, size, strict=True)):
            result[place] = plane[y, x]
    return result


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    crop=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    family=st.sampled_from(["M", "S"]),
    seed=st.integers(0, 99),
)
@example(size=(3, 5), crop=(7, 8), family="S", seed=0)
@example(size=(9, 4), crop=(4, 9), family="S", seed=0)  # sides exchanged
@example(size=(9, 7), crop=(4, 5), family="S", seed=0)  # cut
def test_the_device_makes_of_bytes_what_the_protocol_says_to_the_bit(
    size: tuple[int, int], crop: tuple[int, int], family: Family, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image, label = rng.integers(0, 256, (*size, 3), np.uint8), rng.choice(np.array([0, 7, 254, 255], np.uint8), size)
    maps = {name: rng.random(size, np.float32) for name in ("boundary_distance", "boundary_angle")}
    around = padding(size, crop, family)
    moved = {name: around.pad(plane) for name, plane in maps.items()}
    sample = TrainSample(around.pad_image(image), around.pad(label), moved, around.box)
    full = sample._replace(pixels=np.zeros_like(sample.pixels), box=Box(0, 0, *around.size))  # no padding beside some
    images, target = Batch.of([full, sample]).to("cpu")

    assert around.size in (crop, crop[::-1])
    channels = image[..., ::-1].transpose(2, 0, 1).astype(np.float32)
    for ours, channel, mean, std in zip(images[1].numpy(), channels, MEAN, STD, strict=True):
        values = (channel - np.float32(mean)) * np.float32(1 / std)
        expected = placed(values, around.size, family, 0.0)
        np.testing.assert_array_equal(ours.view(np.int32), expected.view(np.int32))
    assert torch.all(images[0] < 0)
    assert target.label.dtype == torch.int64
    np.testing.assert_array_equal(target.label[1], placed(label, around.size, family, 255))
    for name, plane in maps.items():
        np.testing.assert_array_equal(getattr(target, name)[1], placed(plane, around.size, family, 255))


def test_a_map_that_cannot_be_read_is_the_loaders_error() -> None:
    def broken(sample: LabeledSample) -> TargetMaps:
        raise InputError(f"{sample.name}.mat is damaged")

    dataset = TrainSet(ToyScenes("train", 2, (48, 64)), TrainTransform(TIGHT), 0, broken)
    with pytest.raises(InputError, match=r"\.mat is damaged"):
        next(iter(train_loader(dataset, StepSampler(BatchPlan(2, 2, 0), 0, 1, 0, 1, 1), 0)))


def test_made_up_labels_get_the_same_kind_of_target() -> None:
    labels = torch.randint(0, 5, (2, 6, 9), generator=torch.Generator().manual_seed(0))
    target = target_of_labels(labels, label_as_distance)
    assert target.boundary_distance is not None
    assert torch.equal(target.label, labels)
    assert torch.equal(target.boundary_distance, labels.float())
    assert target_of_labels(labels, None)[1:] == (None, None)
