"""Maps that follow a label through the training transform, for papers supervised with more than classes.

A paper names the source of its maps in `Paper.target_maps`. The maps of a sample are made only after its crop is known,
and only where the crop keeps them; they are then resized, flipped, rotated and padded as the label is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segcore.images.region import Box


class LabeledSample(NamedTuple):
    """What the maps of one training sample are made from.

    image_file and label_file are None where the data set has no files.

    Shapes:
        label (H, W) uint8 train ids, 255 = ignore
    """

    label: np.ndarray
    name: str
    image_file: Path | None = None
    label_file: Path | None = None


class TargetMaps(ABC):
    """The maps of one sample by name; the names are fields of `segmentor.Target`.

    What `mirrored` and `rotated` do by default leaves the values alone: right for classes and distances, not for
    directions.
    """

    @abstractmethod
    def cut(self, box: Box) -> Mapping[str, np.ndarray]:
        """Return the part of every map under a box of the label, deterministically.

        Shapes:
            -> (box.height, box.width) float32 each

        Raises:
            InputError: if a file that holds a map cannot be used.
        """

    def mirrored(self, name: str, values: np.ndarray) -> np.ndarray:
        """Return the values of a map whose pixels were mirrored horizontally."""
        return values

    def rotated(self, name: str, values: np.ndarray, degrees: float) -> np.ndarray:
        """Return the values of a map whose pixels were rotated, positive counter-clockwise; 255 outside the image."""
        return values


MapSource = Callable[[LabeledSample], TargetMaps]
"""Gives the maps of a sample; loader processes get a copy, so it must be picklable."""


class WholeMaps(TargetMaps):
    """Maps that are known as a whole.

    Shapes:
        maps (H, W) each
    """

    def __init__(self, maps: Mapping[str, np.ndarray]) -> None:
        self.maps = maps

    def cut(self, box: Box) -> Mapping[str, np.ndarray]:
        return {name: box.cut(values) for name, values in self.maps.items()}
