"""Batches are a pure function of seed and iteration: whatever the processes, workers or restarts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcore.data.loader import BatchPlan, SampleKey, StepSampler, TrainSet, train_loader
from segcore.data.toy import ToyScenes
from segcore.errors import InputError
from segcore.recipe import Augment
from segcore.transforms import TrainTransform


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
    augment = Augment(crop=(32, 32), scale=(64, 48))
    batches = []
    for workers in (0, 2):
        sampler = StepSampler(BatchPlan(6, 4, 0), 0, 3, 0, 1, 2)
        batches.append(list(train_loader(TrainSet(data, TrainTransform(augment), 0), sampler, workers)))
    assert len(batches[0]) == len(batches[1]) == 6
    for (image, target), (other_image, other_target) in zip(*batches, strict=True):
        assert image.shape == (2, 3, 32, 32)
        assert torch.equal(image, other_image)
        assert torch.equal(target.label, other_target.label)
