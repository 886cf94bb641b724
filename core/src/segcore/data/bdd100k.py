"""BDD100K, the 10k subset: 19 Cityscapes classes, 7000/1000/2000 images (docs/protocol 1.1)."""

from __future__ import annotations

from segcore.data.base import FileDataset, load_classes
from segcore.data.listing import Item, first_folder, list_pairs


class BDD100K(FileDataset):
    """BDD100K in the layout of either release; the test split has no labels.

    `images/10k/SPLIT/*.jpg` with `labels/sem_seg/masks/SPLIT/*.png`, or the older `seg/images/SPLIT/*.jpg` with
    `seg/labels/SPLIT/*_train_id.png`. Files hold train ids, 255 = ignored.
    """

    name = "bdd100k"
    title = "BDD100K"
    classes = load_classes("bdd100k")

    def list_items(self, split: str) -> list[Item]:
        current, older = self.root / "images" / "10k" / split, self.root / "seg" / "images" / split
        images = first_folder([current, older], self.root, self.title, f"images/10k/{split}")
        if split == "test":
            return list_pairs(images, None)
        if images == current:
            return list_pairs(images, self.root / "labels" / "sem_seg" / "masks" / split)
        return list_pairs(images, self.root / "seg" / "labels" / split, label_suffix="_train_id.png")
