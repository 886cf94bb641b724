"""ToyScenes: labeled street scenes that are drawn when they are asked for; no file, no download."""

from __future__ import annotations

import numpy as np

from segcore.data.base import ClassTable, Sample, SegmentationDataset
from segcore.data.toy.scene import draw_scene
from segcore.errors import InputError

SPLITS = ("train", "val", "test")
MIN_SIDE = 32
_SEED = 20_240_508

CLASSES = ClassTable(
    names=("sky", "road", "building", "tree", "car", "person", "pole", "lane mark"),
    palette=np.array(
        [
            (70, 130, 180),
            (128, 64, 128),
            (110, 110, 120),
            (107, 142, 35),
            (0, 0, 142),
            (220, 20, 60),
            (250, 170, 30),
            (0, 200, 200),
        ],
        np.uint8,
    ),
)
"""Road is all paved ground; poles include lamps and signs; overhead cables and the own hood are ignored (255)."""


class ToyScenes(SegmentationDataset):
    """Street-like scenes by index: the same pixels for the same split, index and size, in every process.

    A scene is the same street at every size; splits share none. The number of scenes changes only the length.

    Args:
        split: train, val or test.
        num_images: number of scenes.
        size: height and width, pixels.

    Raises:
        InputError: if the split is unknown, the set empty or a side shorter than 32 pixels.
    """

    name = "toy"
    classes = CLASSES

    def __init__(self, split: str, num_images: int, size: tuple[int, int]) -> None:
        if split not in SPLITS:
            raise InputError(f"the generated data set has the splits {', '.join(SPLITS)}, not {split!r}; choose one")
        if num_images < 1:
            raise InputError(f"--data.num-images must be positive, got {num_images} for the split {split!r}")
        if min(size) < MIN_SIDE:
            raise InputError(
                f"--data.image-size: generated scenes have sides of at least {MIN_SIDE} pixels, got {size}"
            )
        self.split = split
        self.num_images = num_images
        self.size = size

    def __len__(self) -> int:
        return self.num_images

    def load(self, index: int) -> Sample:
        """Draw one scene; negative indices count from the end.

        Raises:
            IndexError: if there is no such scene.
        """
        if not -self.num_images <= index < self.num_images:
            raise IndexError(f"scene {index} of {self.num_images}")
        index %= self.num_images
        rng = np.random.default_rng([_SEED, SPLITS.index(self.split), index])
        image, label = draw_scene(rng, self.size)
        return Sample(image, label, self.sample_name(index))

    def sample_name(self, index: int) -> str:
        return f"{self.split}_{index:06d}"
