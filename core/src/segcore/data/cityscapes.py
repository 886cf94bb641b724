"""Cityscapes: 19 classes, 2975/500/1525 fine annotations and 19998 coarse ones (docs/protocol 1.1, 1.3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segcore.data.base import FileDataset, load_classes
from segcore.data.labels import cityscapes_train_ids
from segcore.data.listing import Item, find_files, first_folder, select_items
from segcore.data.read import DataFileError, read_label
from segcore.errors import InputError

IMAGE_SUFFIX = "_leftImg8bit.png"
LABEL_IDS = "labelIds.png"
TRAIN_IDS = "labelTrainIds.png"
POLYGONS = "polygons.json"

_COARSE = "coarse_"
_JOINED = {"trainval": ("train", "val")}


class Cityscapes(FileDataset):
    """Cityscapes: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` with labels in `gtFine` or `gtCoarse`.

    Labels are `*_labelTrainIds.png`, or the `*_labelIds.png` of the release where those are not there for all images.
    Splits train, val, trainval and test are finely annotated (test has no labels); train_extra, coarse_train and
    coarse_val coarsely. A file SPLIT.txt in the root (MemoryNet's lists of CITY/STEM) selects the images of its split.
    """

    name = "cityscapes"
    title = "Cityscapes"
    classes = load_classes("cityscapes")
    splits = ("train", "val", "trainval", "test", "train_extra", "coarse_train", "coarse_val")

    def list_items(self, split: str) -> list[Item]:
        # The cities of train and val differ, so the names of their union stay unique without the split's.
        items = [item for part in _JOINED.get(split, (split,)) for item in self._list_folder(part)]
        stems = self.root / f"{split}.txt"
        return select_items(items, stems) if stems.is_file() else items

    def _list_folder(self, split: str) -> list[Item]:
        is_coarse = split == "train_extra" or split.startswith(_COARSE)
        folder = split.removeprefix(_COARSE)
        expected = f"leftImg8bit/{folder}"
        images = first_folder([self.root / "leftImg8bit" / folder], self.root, self.title, expected)
        paths = find_files(images, [IMAGE_SUFFIX])
        if not paths:
            raise InputError(f"{self.title}: expected CITY/*{IMAGE_SUFFIX} in {images}, found none")
        stems = [path[: -len(IMAGE_SUFFIX)] for path in paths]
        if split == "test":  # the archive's test labels are empty
            return [Item(path[: -len(".png")], images / path, None) for path in paths]
        labels, ending = _find_labels(self.root, "gtCoarse" if is_coarse else "gtFine", folder, stems)
        return [
            Item(path[: -len(".png")], images / path, labels / f"{stem}_{ending}")
            for path, stem in zip(paths, stems, strict=True)
        ]

    def decode_file(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Map label ids to train ids; `*_labelTrainIds.png` hold them already."""
        raw = read_label(path, self.max_pixels)
        return raw, raw if path.name.endswith(TRAIN_IDS) else cityscapes_train_ids(raw)


def _find_labels(root: Path, kind: str, split: str, stems: list[str]) -> tuple[Path, str]:
    """Return the folder of the labels and the end of their names, after the image's stem and `_`.

    Train ids come first, unless only the label ids are complete: then an interrupted `segcore data prepare` is at work.
    """
    folder = root / kind / split
    found = set(find_files(folder, [TRAIN_IDS, LABEL_IDS, POLYGONS]))
    for is_enough in (all, any):
        for ending in (TRAIN_IDS, LABEL_IDS):
            if is_enough(f"{stem}_{kind}_{ending}" in found for stem in stems):
                return folder, f"{kind}_{ending}"
    if any(path.endswith(POLYGONS) for path in found):
        message = f"{folder} holds polygons only; `segcore data prepare cityscapes --root {root}` draws the labels"
    else:
        message = f"expected CITY/*_{kind}_{TRAIN_IDS} or *_{kind}_{LABEL_IDS} in {folder}, found none"
    raise DataFileError("missing label", f"Cityscapes: {message}")
