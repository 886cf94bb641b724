"""LIP (Look Into Person): 20 classes with background, 30462/10000/10000 images of single people (docs/protocol 1.1)."""

from __future__ import annotations

from segcore.data.base import FileDataset, load_classes
from segcore.data.listing import Item, first_folder, list_pairs, select_items

_IMAGES = {"train": "train_images", "val": "val_images", "test": "testing_images"}


class LIP(FileDataset):
    """LIP: `{train,val,testing}_images/*.jpg` with `{train,val}_segmentations/*.png`; the test split has no labels.

    A file `{train,val,test}_id.txt` in the root selects the images of its split, one stem per line. Files hold the
    classes 0..19, the background 0 included.
    """

    name = "lip"
    title = "LIP"
    classes = load_classes("lip")

    def list_items(self, split: str) -> list[Item]:
        images = first_folder([self.root / _IMAGES[split]], self.root, self.title, _IMAGES[split])
        items = list_pairs(images, None if split == "test" else self.root / f"{split}_segmentations")
        stems = self.root / f"{split}_id.txt"
        return select_items(items, stems) if stems.is_file() else items
