"""Boundary maps in training: read where the published files are, else computed from the label as it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from segcore.images.region import Box
from segcore.images.target_maps import LabeledSample, TargetMaps, WholeMaps
from segcore.recipe import Recipe
from unept.boundary.files import offset_file, read_offsets
from unept.boundary.maps import boundary_maps
from unept.recipes import UNEPTModel

DISTANCE, ANGLE = "boundary_distance", "boundary_angle"  # fields of segmentor.Target
PADDING = 255


@dataclass(frozen=True)
class BoundarySource:
    """Gives distance (pixels of the original image) and angle (degrees) of each training sample.

    Args:
        mirror_angles: exchange east and west where the image is mirrored; published: the angles stay (unept/PAPER 7.3).
    """

    mirror_angles: bool = False

    def __call__(self, sample: LabeledSample) -> TargetMaps:
        path = offset_file(sample.label_file) if sample.label_file else None
        if path is None or not path.is_file():
            return BoundaryTargets(sample.label, self.mirror_angles)
        size = (sample.label.shape[0], sample.label.shape[1])
        return BoundaryTargets(sample.label, self.mirror_angles, WholeMaps(_named(*read_offsets(path, size))))


class BoundaryTargets(TargetMaps):
    """The maps of one sample.

    Args:
        known: the maps of a file; None computes what is asked for.

    Shapes:
        label (H, W) uint8
    """

    def __init__(self, label: np.ndarray, mirror_angles: bool, known: WholeMaps | None = None) -> None:
        self.label, self.mirror_angles, self.known = label, mirror_angles, known

    def cut(self, box: Box) -> Mapping[str, np.ndarray]:
        if self.known is not None:
            return self.known.cut(box)
        maps = boundary_maps(self.label, box)
        return _named(maps.depth.astype(np.float32), maps.angle())

    def mirrored(self, name: str, values: np.ndarray) -> np.ndarray:
        return _wrapped(180 - values) if self.mirror_angles and name == ANGLE else values

    def rotated(self, name: str, values: np.ndarray, degrees: float) -> np.ndarray:
        # Counter-clockwise is towards smaller angles: 90 is down.
        return np.where(values == PADDING, values, _wrapped(values - degrees)) if name == ANGLE else values


def _named(distance: np.ndarray, angle: np.ndarray) -> dict[str, np.ndarray]:
    return {DISTANCE: distance, ANGLE: angle}


def _wrapped(angle: np.ndarray) -> np.ndarray:
    """Return angles of -360 to 360 degrees as -180 to 180."""
    return np.where(angle > 180, angle - 360, np.where(angle < -180, angle + 360, angle))


def boundary_source(recipe: Recipe) -> BoundarySource:
    """Return the source of a recipe's boundary maps."""
    assert isinstance(recipe.model, UNEPTModel)
    return BoundarySource(recipe.model.mirror_angles)
