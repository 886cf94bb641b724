"""Training batches as a pure function of the iteration, so that a resumed run sees what an uninterrupted one would.

Which images form batch i, and the random numbers of each, depend on (seed, i) alone: not on workers, processes or what
came before. Nothing of the sampler has to be saved, and N processes see together what one process sees alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segcore.data.base import SegmentationDataset
from segcore.data.workers import quiet_worker, raise_faults
from segcore.errors import InputError
from segcore.images.region import Box
from segcore.images.target_maps import LabeledSample, MapSource
from segcore.images.transforms import TrainSample, TrainTransform, normalize
from segcore.segmentor import Target


class SampleKey(NamedTuple):
    """One training sample: image `index`, drawn as number `slot` of the batch of `iteration`."""

    index: int
    iteration: int
    slot: int


@lru_cache(maxsize=2)
def _permutation(num_images: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_images)


@dataclass(frozen=True)
class BatchPlan:
    """Which images form which batch.

    Every epoch is a new permutation; its incomplete last batch is dropped (docs/protocol 2.8). A data set smaller
    than a batch is repeated.

    Args:
        num_images: size of the data set.
        batch: images per optimizer step over all processes.
        seed: seed of the permutations.
    """

    num_images: int
    batch: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch; one where the data set is smaller than a batch."""
        return max(self.num_images // self.batch, 1)

    def epoch(self, iteration: int) -> int:
        """Return the number of the epoch that a batch belongs to, from 1."""
        return iteration // self.per_epoch + 1

    def images(self, iteration: int) -> list[int]:
        """Return the image indices of one batch."""
        if self.num_images >= self.batch:
            epoch, number = divmod(iteration, self.per_epoch)
            order = _permutation(self.num_images, self.seed, epoch)
            return order[number * self.batch : (number + 1) * self.batch].tolist()
        places = range(iteration * self.batch, (iteration + 1) * self.batch)
        pairs = (divmod(place, self.num_images) for place in places)
        return [int(_permutation(self.num_images, self.seed, epoch)[place]) for epoch, place in pairs]


@dataclass(frozen=True)
class RarePlan(BatchPlan):
    """Batches in which classes of few pixels are drawn for more often.

    For each place of a batch a class is drawn, then one of the images that show it; an epoch is as many batches as
    without.

    Args:
        chances: (K,) of the classes, see `rare_chances`.
        showing: of each class, the indices of the images that show it.
    """

    chances: np.ndarray
    showing: Sequence[np.ndarray]

    def images(self, iteration: int) -> list[int]:
        """Return the image indices of one batch; an image may be in it twice."""
        rng = np.random.default_rng([self.seed, iteration, 0, 1])  # samples draw from [seed, iteration, slot]
        classes = rng.choice(len(self.chances), size=self.batch, p=self.chances)
        return [int(rng.choice(self.showing[number])) for number in classes]


class StepSampler(Sampler[list[SampleKey]]):
    """Yields the parts of every batch from `start` to `stop` that this process runs, `accumulate` parts per batch.

    Raises:
        InputError: if the batch does not divide into processes x accumulation steps.
    """

    def __init__(self, plan: BatchPlan, start: int, stop: int, rank: int, processes: int, accumulate: int) -> None:
        if plan.batch % (processes * accumulate):
            raise InputError(
                f"--data.batch {plan.batch} (the total) must be a multiple of {processes} processes x "
                f"{accumulate} accumulation steps (--optim.accumulate)"
            )
        self.plan, self.start, self.stop = plan, start, stop
        self.rank, self.processes, self.accumulate = rank, processes, accumulate

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[SampleKey]]:
        share = self.plan.batch // self.processes
        part = share // self.accumulate
        for iteration in range(self.start, self.stop):
            images = self.plan.images(iteration)
            keys = [SampleKey(image, iteration, slot) for slot, image in enumerate(images)]
            own = keys[self.rank * share : (self.rank + 1) * share]
            yield from (own[i : i + part] for i in range(0, share, part))


class Batch(NamedTuple):
    """Training samples as loader processes hand them over: bytes, of which the device makes what the network takes.

    Attributes:
        boxes: what of each image is not padding.

    Shapes:
        pixels (B, 3, h, w) uint8 RGB, label (B, h, w) uint8, maps (B, h, w) float32 each, by their names in `Target`
    """

    pixels: Tensor
    label: Tensor
    maps: dict[str, Tensor]
    boxes: list[Box]

    @classmethod
    def of(cls, samples: Sequence[TrainSample]) -> Batch:
        """Stack samples."""
        maps = {name: _stacked([sample.maps[name] for sample in samples]) for name in samples[0].maps}
        pixels, label = _stacked([sample.pixels for sample in samples]), _stacked([sample.label for sample in samples])
        return cls(pixels, label, maps, [sample.box for sample in samples])

    def to(self, device: torch.device | str) -> tuple[Tensor, Target]:
        """Return image (B, 3, h, w) and target on a device; copies from pinned memory do not wait."""
        pixels, label = (part.to(device, non_blocking=True) for part in (self.pixels, self.label))
        maps = {name: part.to(device, non_blocking=True) for name, part in self.maps.items()}
        return normalize(pixels, self.boxes), Target(label.long(), **maps)


def _stacked(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))  # pyright: ignore[reportUnknownMemberType]


class TrainSet(Dataset[TrainSample | InputError]):
    """A data set with the training transform, each sample with its own random generator.

    A sample that cannot be used is given as its error, see `raise_faults`.

    Args:
        maps: source of the paper's maps beside the label, if it has any.
    """

    def __init__(
        self, dataset: SegmentationDataset, transform: TrainTransform, seed: int, maps: MapSource | None = None
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.maps = maps

    def __getitem__(self, key: SampleKey) -> TrainSample | InputError:
        try:
            return self._load(key)
        except InputError as error:
            return InputError(str(error))

    def _load(self, key: SampleKey) -> TrainSample:
        sample = self.dataset.load(key.index)
        if sample.label is None:
            raise InputError(f"{sample.name}: this split has no labels to train on")
        rng = np.random.default_rng([self.seed, key.iteration, key.slot])
        labeled = LabeledSample(sample.label, sample.name, *self.dataset.files(key.index))
        return self.transform(sample.image, sample.label, rng, self.maps(labeled) if self.maps else None)


def collate(samples: list[TrainSample | InputError]) -> Batch | InputError:
    """Stack samples, or give the first error among them."""
    usable: list[TrainSample] = []
    for sample in samples:
        if isinstance(sample, InputError):
            return sample
        usable.append(sample)
    return Batch.of(usable)


def target_of_labels(labels: Tensor, maps: MapSource | None) -> Target:
    """Return the target of labels that come from no data set: measurements and tests make them up.

    Args:
        maps: source of the paper's maps beside the label, if it has any.

    Shapes:
        labels (B, H, W) int64
    """
    if maps is None:
        return Target(labels)
    planes = [
        maps(LabeledSample(label.cpu().numpy().astype(np.uint8), str(number))).cut(Box(0, 0, *label.shape))
        for number, label in enumerate(labels)
    ]
    return Target(labels, **{name: _stacked([part[name] for part in planes]).to(labels.device) for name in planes[0]})


def train_loader(
    dataset: TrainSet, sampler: StepSampler, workers: int, pin: bool = False
) -> Generator[Batch, None, None]:
    """Yield the batches of a training run; it ends after the sampler's last batch, `close` ends it before.

    Raises:
        InputError: when the iteration comes to an image or label that cannot be used.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=quiet_worker,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
    )
    return raise_faults(loader)
