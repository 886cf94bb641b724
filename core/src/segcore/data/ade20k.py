"""ADE20K scene parsing: 150 classes, 20 210 training and 2 000 validation images (docs/protocol 1.1, 1.3)."""

from __future__ import annotations

import numpy as np

from segcore.data.base import FileDataset, load_classes
from segcore.data.labels import reduce_zero_label
from segcore.data.listing import Item, first_folder, list_pairs, select_items

_FOLDERS = {"train": "training", "val": "validation", "test": "testing"}


class ADE20K(FileDataset):
    """ADE20K; the root is ADEChallengeData2016 or the folder that holds it, the test split has no labels.

    A file train.txt or val.txt beside `images/` (MemoryNet's lists of stems) selects the images of its split.
    """

    name = "ade20k"
    title = "ADE20K"
    classes = load_classes("ade20k")

    def list_items(self, split: str) -> list[Item]:
        folder = _FOLDERS[split]
        roots = (self.root, self.root / "ADEChallengeData2016")
        candidates = [root / "images" / folder for root in roots]
        if split == "test":  # the published archive of test images
            candidates += [root / "release_test" / folder for root in (*roots, self.root.parent)]
        images = first_folder(candidates, self.root, self.title, f"images/{folder}")
        labels = None if split == "test" else images.parent.parent / "annotations" / folder
        items = list_pairs(images, labels)
        stems = images.parent.parent / f"{split}.txt"
        return select_items(items, stems) if stems.is_file() else items

    def decode_label(self, raw: np.ndarray) -> np.ndarray:
        """Files store 0 = unlabeled and 1..150 = classes."""
        return reduce_zero_label(raw)
