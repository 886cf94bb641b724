"""Evaluation of a network on a data set: one loop, in constant memory, exact on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from segcore import distributed
from segcore.console import PlainConsole
from segcore.data.base import Sample, SegmentationDataset
from segcore.data.workers import quiet_worker, raise_faults
from segcore.errors import InputError
from segcore.evaluation.image_counts import ImageCounter, segment_sizes
from segcore.evaluation.inference import View, predict_labels, views
from segcore.evaluation.metrics import ConfusionMatrix, Scores
from segcore.failures import explained, testing_memory
from segcore.layers.precision import mixed_precision
from segcore.recipe import AMP, Evaluate

Hook = Callable[[int, Sample, Tensor], None]
"""Called with (index in the data set, sample, prediction (H, W) on the device)."""


class _Prepared(NamedTuple):
    """An image as a loader process hands it over; `sample` travels only where the hook is called with it."""

    index: int
    name: str
    size: tuple[int, int]
    parts: list[View]
    label: Tensor | None
    segments: Tensor | None
    sample: Sample | None


class _TestSet(Dataset[_Prepared | InputError]):
    """A data set with the test transforms; an unusable file comes back as its error, see `raise_faults`.

    Args:
        wanted: indices of the images whose samples come along.
        with_segments: the sizes of the label's segments come along.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        protocol: Evaluate,
        *,
        with_labels: bool,
        wanted: Collection[int],
        with_segments: bool,
    ) -> None:
        self.dataset, self.protocol = dataset, protocol
        self.with_labels, self.wanted, self.with_segments = with_labels, wanted, with_segments

    def __getitem__(self, index: int) -> _Prepared | InputError:
        try:
            return self._prepare(index)
        except InputError as error:
            return InputError(str(error))

    def _prepare(self, index: int) -> _Prepared:
        sample = self.dataset.load(index)
        label = segments = None
        if self.with_labels:
            if sample.label is None:
                raise InputError(
                    f"{self.dataset.name}: {sample.name} has no label to score; choose a split with annotations, or "
                    "write predictions with --format-only --out DIR"
                )
            # decoders give read-only arrays, which torch does not take
            label = torch.from_numpy(np.require(sample.label, requirements=["C", "W"]))
            if self.with_segments:
                segments = torch.from_numpy(segment_sizes(sample.label))
        height, width = sample.image.shape[:2]
        parts = views(sample.image, self.protocol)
        kept = sample if index in self.wanted else None
        return _Prepared(index, sample.name, (height, width), parts, label, segments, kept)


def _only(batch: list[_Prepared | InputError]) -> _Prepared | InputError:
    """Unpack a batch of one: images differ in size, and every scale of one is a batch of its own on the device."""
    return batch[0]


def _prepared(
    test_set: _TestSet, indices: Sequence[int], workers: int, device: torch.device
) -> Generator[_Prepared, None, None]:
    """Yield the images of this process in order, prepared in loader processes.

    Raises:
        InputError: at an image that cannot be used.
    """
    loader = DataLoader(
        test_set,
        sampler=indices,
        num_workers=workers,
        collate_fn=_only,
        worker_init_fn=quiet_worker,
        pin_memory=device.type not in ("cpu", "mps"),
        prefetch_factor=2 if workers else None,
        generator=torch.Generator(),  # its own: validating must not move the random numbers of training
    )
    yield from raise_faults(loader)


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return `count` indices spread over 0..total-1, first and last included; all where there are fewer."""
    count = min(count, total)
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch a network to evaluation, and every part back to its own mode afterwards (frozen norms stay frozen)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training


@contextmanager
def _progress(total: int, is_shown: bool) -> Iterator[Callable[[], None]]:
    """Give a function to call after every image; it moves a bar on the console, or does nothing."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=PlainConsole(stderr=True), disable=not is_shown, transient=True) as bar:
        task = bar.add_task("testing", total=total)
        yield lambda: bar.advance(task)


def evaluate(
    model: nn.Module,
    dataset: SegmentationDataset,
    protocol: Evaluate,
    *,
    device: torch.device,
    workers: int,
    amp: AMP = "off",
    limit: int = 0,
    on_prediction: Hook | None = None,
    shown: int | None = None,
    with_labels: bool = True,
    show_progress: bool = False,
    counter: ImageCounter | None = None,
) -> Scores:
    """Return the scores of a network on a data set, over all processes.

    Process r of P takes the images r, r + P, ...: every image counts once for any P. Only the confusion matrix is
    kept, and what `counter` has room for: no image, label or prediction.

    Args:
        workers: loader processes, which decode and resize.
        amp: precision of the network; scores are averaged in float32.
        limit: first so many images only; 0 takes all.
        on_prediction: called after an image of this process.
        shown: for so many images of this process it is called, spread over them; None is all.
        with_labels: off for splits without annotations: the scores are then undefined (NaN).
        show_progress: a bar on the console.
        counter: counts every image; made by `image_counter`.

    Raises:
        InputError: if an image or label cannot be used, labels are wanted and missing, or the protocol names classes
            that the data set does not have.
    """
    world = distributed.world()
    names = dataset.classes.names
    protocol.check_classes(len(names))
    num_images = min(limit, len(dataset)) if limit else len(dataset)
    indices = range(world.rank, num_images, world.size)
    count = 0 if on_prediction is None else len(indices) if shown is None else shown
    wanted = {indices[place] for place in evenly_spaced(len(indices), count)}
    test_set = _TestSet(dataset, protocol, with_labels=with_labels, wanted=wanted, with_segments=counter is not None)
    matrix = ConfusionMatrix(len(names), device, names=names, outside=_outside(protocol))
    with (
        evaluation_mode(model),
        torch.inference_mode(),
        mixed_precision(device, amp),
        _progress(len(indices), show_progress) as advance,
        closing(_prepared(test_set, indices, workers, device)) as images,
    ):
        for image in images:
            with explained(memory=testing_memory(image.name, image.size)):
                prediction = predict_labels(model, image.parts, protocol, image.size)
            if image.label is not None:
                label = image.label.to(device, non_blocking=True)
                matrix.update(prediction, label)
                if counter is not None and image.segments is not None:
                    counter.add(image.index, prediction, label, image.segments.to(device, non_blocking=True))
            if on_prediction is not None and image.sample is not None:
                on_prediction(image.index, image.sample, prediction)
            advance()
    distributed.all_reduce_sum(matrix.matrix)
    if counter is not None:
        counter.sum_processes()
    return matrix.scores()


def image_counter(dataset: SegmentationDataset, protocol: Evaluate, device: torch.device) -> ImageCounter:
    """Return what counts every image of a test for `evaluate`."""
    return ImageCounter(len(dataset), len(dataset.classes.names), device, _outside(protocol))


def _outside(protocol: Evaluate) -> Literal["predicted", "ignored"]:
    return "ignored" if protocol.family == "S" else "predicted"
