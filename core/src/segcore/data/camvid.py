"""CamVid in the form of the SegNet experiments: 480x360 street scenes, 11 classes, 367/101/233 images."""

from __future__ import annotations

import numpy as np

from segcore.data.base import FileDataset, load_classes
from segcore.data.labels import IGNORE
from segcore.data.listing import Item, find_files, first_folder, list_pairs

_VOID = 11


class CamVid(FileDataset):
    """CamVid: `images/{train,val,test}/*.jpg` with `annotations/{train,val,test}/*.png`.

    The folders of the SegNet archive, `{train,val,test}/*.png` with `{train,val,test}annot/*.png`, work as well.
    """

    name = "camvid"
    title = "CamVid"
    classes = load_classes("camvid")

    def list_items(self, split: str) -> list[Item]:
        candidates = (self.root / "images" / split, self.root / split)
        images = first_folder(candidates, self.root, self.title, f"images/{split}")
        is_segnet = images.parent == self.root
        labels = self.root / f"{split}annot" if is_segnet else self.root / "annotations" / split
        return list_pairs(images, labels, image_suffix=".jpg" if find_files(images, [".jpg"]) else ".png")

    def decode_label(self, raw: np.ndarray) -> np.ndarray:
        """Files store the classes 0..10 and 11 = void."""
        return np.where(raw == _VOID, np.uint8(IGNORE), raw)
