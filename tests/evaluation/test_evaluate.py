"""Evaluation loop: exact on any number of processes, with or without loader processes, in constant memory."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from segcore.data.base import ClassTable, Sample, SegmentationDataset
from segcore.errors import InputError
from segcore.evaluation import evaluate as module
from segcore.evaluation.evaluate import evaluate, evaluation_mode, evenly_spaced
from segcore.evaluation.inference import predict_labels, views
from segcore.evaluation.metrics import ConfusionMatrix, Scores
from segcore.recipe import Evaluate

CPU = torch.device("cpu")
PROTOCOL = Evaluate(scale=(40, 32), ratios=(0.5, 1.0), flip=True)


class NoiseImages(SegmentationDataset):
    """Random images of different sizes, deterministic by index."""

    name = "noise"
    classes = ClassTable(("one", "two", "three"), np.eye(3, dtype=np.uint8) * 255)

    def __init__(self, num_images: int, *, labeled: bool = True, broken: int = -1) -> None:
        self.num_images, self.labeled, self.broken = num_images, labeled, broken

    def __len__(self) -> int:
        return self.num_images

    def load(self, index: int) -> Sample:
        if index == self.broken:
            raise InputError(f"image {index} is broken; remove it")
        rng = np.random.default_rng(index)
        size = (20 + index % 5, 25 + index % 3)
        label = rng.choice(np.array([0, 1, 2, 255], np.uint8), size)
        label.setflags(write=False)  # as decoders give it
        return Sample(rng.integers(0, 256, (*size, 3), dtype=np.uint8), label if self.labeled else None, f"n{index}")


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 3, 3, 4, 1), nn.BatchNorm2d(3))


def areas(scores: Scores) -> np.ndarray:
    return np.stack([scores.intersection, scores.predicted, scores.labeled])


def test_scores_equal_images_counted_one_by_one() -> None:
    model, dataset, matrix = small_model().eval(), NoiseImages(5), ConfusionMatrix(3)
    for index in range(5):
        image, label, _ = dataset.load(index)
        assert label is not None
        prediction = predict_labels(model, views(image, PROTOCOL), PROTOCOL, label.shape)
        matrix.update(prediction, torch.from_numpy(label.copy()))
    scores = evaluate(model, dataset, PROTOCOL, device=CPU, workers=0)
    np.testing.assert_array_equal(areas(scores), areas(matrix.scores()))
    assert scores.names == ("one", "two", "three")


@pytest.mark.filterwarnings("error")
def test_loader_processes_do_not_change_the_scores() -> None:
    model, dataset = small_model(), NoiseImages(5)
    alone, helped = (evaluate(model, dataset, PROTOCOL, device=CPU, workers=workers) for workers in (0, 2))
    np.testing.assert_array_equal(areas(alone), areas(helped))


def _evaluate_process(rank: int, size: int, folder: str) -> None:
    """Evaluate in process `rank` of `size` and save the areas it ended with."""
    from segcore import distributed

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="localhost")
    distributed.init("cpu")
    seen: list[int] = []
    scores = evaluate(
        small_model(),
        NoiseImages(5),
        PROTOCOL,
        device=CPU,
        workers=0,
        on_prediction=lambda index, sample, prediction: seen.append(index),
    )
    np.savez(f"{folder}/{rank}.npz", areas=areas(scores), seen=seen)
    distributed.shutdown()


def test_two_processes_give_the_scores_of_one_and_count_every_image_once(tmp_path: Path) -> None:
    # forked, not spawned: importing everything again twice would take most of the time of all tests here
    mp.start_processes(_evaluate_process, args=(2, str(tmp_path)), nprocs=2, start_method="fork")
    expected = areas(evaluate(small_model(), NoiseImages(5), PROTOCOL, device=CPU, workers=0))
    results = [np.load(tmp_path / f"{rank}.npz") for rank in range(2)]
    for result in results:
        np.testing.assert_array_equal(result["areas"], expected)
    assert [result["seen"].tolist() for result in results] == [[0, 2, 4], [1, 3]]


def test_the_hook_gets_every_prediction_at_the_size_of_its_image() -> None:
    calls: list[tuple[int, str, tuple[int, ...]]] = []

    def remember(index: int, sample: Sample, prediction: Tensor) -> None:
        assert prediction.shape == sample.image.shape[:2]
        calls.append((index, sample.name, tuple(prediction.shape)))

    evaluate(small_model(), NoiseImages(4), PROTOCOL, device=CPU, workers=0, limit=3, on_prediction=remember)
    assert calls == [(0, "n0", (20, 25)), (1, "n1", (21, 26)), (2, "n2", (22, 27))]


@pytest.mark.parametrize(
    ("total", "count", "expected"), [(50, 6, [0, 10, 20, 29, 39, 49]), (3, 6, [0, 1, 2]), (9, 1, [0]), (9, 0, [])]
)
def test_indices_are_spread_over_the_set(total: int, count: int, expected: list[int]) -> None:
    assert evenly_spaced(total, count) == expected


@pytest.mark.parametrize(("limit", "expected"), [(0, [0, 3, 6]), (4, [0, 2, 3])])
def test_only_the_samples_that_are_shown_travel_from_the_loader(
    monkeypatch: pytest.MonkeyPatch, limit: int, expected: list[int]
) -> None:
    travelled: list[int] = []

    def watched(*arguments: object) -> Iterator[Any]:
        for image in prepared(*arguments):
            travelled.extend([image.index] if image.sample is not None else [])
            yield image

    prepared: Any = module._prepared
    monkeypatch.setattr(module, "_prepared", watched)
    shown: list[int] = []
    evaluate(
        small_model(),
        NoiseImages(7),
        PROTOCOL,
        device=CPU,
        workers=0,
        limit=limit,
        on_prediction=lambda index, sample, prediction: shown.append(index),
        shown=3,
    )
    assert shown == travelled == expected


def test_flip_pairs_of_absent_classes_are_one_sentence() -> None:
    protocol = replace(PROTOCOL, flip_pairs=((1, 3),))
    with pytest.raises(InputError, match=r"^--evaluate\.flip-pairs names class 3; there are 0 to 2$"):
        evaluate(small_model(), NoiseImages(1), protocol, device=CPU, workers=0)


def test_evaluation_restores_the_mode_of_every_part() -> None:
    model = small_model().train()
    model[1].eval()  # a frozen norm
    evaluate(model, NoiseImages(1), PROTOCOL, device=CPU, workers=0)
    assert [module.training for module in model] == [True, False]
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert model[0].training


def test_batch_statistics_do_not_change_during_evaluation() -> None:
    model = small_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, NoiseImages(2), PROTOCOL, device=CPU, workers=0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_evaluation_leaves_the_random_numbers_of_training_alone() -> None:
    model, state = small_model(), torch.get_rng_state()
    evaluate(model, NoiseImages(2), PROTOCOL, device=CPU, workers=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_mixed_precision_gives_nearly_the_same_scores() -> None:
    model, dataset = small_model(), NoiseImages(4)
    plain, mixed = (evaluate(model, dataset, PROTOCOL, device=CPU, workers=0, amp=amp) for amp in ("off", "bf16"))
    assert mixed.aacc == pytest.approx(plain.aacc, abs=0.02)


def test_a_split_without_labels_is_refused_unless_only_predictions_are_wanted() -> None:
    dataset = NoiseImages(2, labeled=False)
    with pytest.raises(InputError, match=r"^noise: n0 has no label to score.*--format-only"):
        evaluate(small_model(), dataset, PROTOCOL, device=CPU, workers=0)
    seen: list[int] = []
    scores = evaluate(
        small_model(),
        dataset,
        PROTOCOL,
        device=CPU,
        workers=0,
        with_labels=False,
        on_prediction=lambda index, sample, prediction: seen.append(index),
    )
    assert seen == [0, 1]
    assert math.isnan(scores.miou)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unusable_image_stops_with_its_own_sentence(workers: int) -> None:
    with pytest.raises(InputError, match=r"^image 1 is broken; remove it$"):
        evaluate(small_model(), NoiseImages(3, broken=1), PROTOCOL, device=CPU, workers=workers)


def test_live_tensors_do_not_grow_with_the_number_of_images() -> None:
    def live_elements(num_images: int) -> int:
        counts: list[int] = []

        def count(index: int, sample: Sample, prediction: Tensor) -> None:
            if index == num_images - 1:
                counts.append(sum(item.numel() for item in gc.get_objects() if type(item) is Tensor))

        dataset = NoiseImages(num_images)
        evaluate(small_model(), dataset, PROTOCOL, device=CPU, workers=0, on_prediction=count)
        return counts[0]

    few, many = live_elements(3), live_elements(18)  # images 2 and 17 have the same size
    assert many <= few * 1.1
