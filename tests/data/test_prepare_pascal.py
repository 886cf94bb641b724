"""`segcore data prepare pascal_context_60`: from run lengths, `.mat` files and encoded masks to 60 labels."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco  # pyright: ignore
from scipy.io import savemat

from segcore.data.labels import load_metadata
from segcore.data.prepare.detail import relabel_regions
from segcore.data.prepare.pascal_context import prepare as prepare_pascal
from segcore.errors import InputError
from tests.data.dataset_trees import SIZE, labels_of, pattern, prepare, save_image, save_list

CATEGORIES = {int(raw): label for raw, label in load_metadata("pascal_context_60")["category_id_to_label"].items()}


def runs(mask: np.ndarray) -> dict[str, object]:
    """Return a mask as uncompressed run lengths, column by column, background first."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], edges])).tolist()}


def compressed(mask: np.ndarray) -> dict[str, object]:
    encoded = coco.encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def half(left: bool) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[:, : 16 if left else None] = 1
    return mask if left else mask - half(True)


def make_devkit(root: Path, stems: tuple[str, ...]) -> Path:
    for i, stem in enumerate(stems):
        save_image(root / "JPEGImages" / f"{stem}.jpg", i)
    return root


def make_detail(root: Path, **changes: object) -> Path:
    make_devkit(root, ("2008_000001", "2008_000002", "2009_000003"))
    numbers = {"2008_000002": "train", "2008_000001": "train", "2009_000003": "val"}
    images = [
        {"image_id": int(s.replace("_", "")), "file_name": f"{s}.jpg", "phase": p, "height": SIZE[0], "width": SIZE[1]}
        for s, p in numbers.items()
    ]
    regions = [
        {"id": 1, "image_id": 2008000001, "category_id": 2, "segmentation": compressed(half(True))},
        {"id": 2, "image_id": 2008000001, "category_id": 9, "segmentation": runs(half(False))},
        {"id": 3, "image_id": 2008000002, "category_id": 2, "segmentation": compressed(half(True))},
        {"id": 4, "image_id": 2008000002, "category_id": 458, "segmentation": [[0, 0, 32, 0, 32, 12, 0, 12]]},
    ]
    content = {"images": images, "annos_segmentation": regions, **changes}
    (root / "trainval_merged.json").write_text(json.dumps(content))
    return root


def test_pascal_in_detail_is_drawn_in_order_and_listed_sorted(tmp_path: Path) -> None:
    make_detail(tmp_path)
    assert prepare("pascal_context_60", tmp_path) == 0
    lists = tmp_path / "ImageSets/SegmentationContext"
    assert (lists / "train.txt").read_text() == "2008_000001\n2008_000002\n"
    assert (lists / "val.txt").read_text() == "2009_000003\n"
    first, second = labels_of("pascal_context_60", tmp_path, "train")
    np.testing.assert_array_equal(first, CATEGORIES[2] * half(True) + CATEGORIES[9] * half(False))
    assert (second[:12] == CATEGORIES[458]).all()
    np.testing.assert_array_equal(second[12:], CATEGORIES[2] * half(True)[12:])
    np.testing.assert_array_equal(labels_of("pascal_context_60", tmp_path, "val")[0], 0)  # no region: background
    np.testing.assert_array_equal(labels_of("pascal_context_59", tmp_path, "val")[0], 255)


def test_run_lengths_are_decoded_column_by_column() -> None:
    mask = np.random.default_rng(0).integers(0, 2, SIZE, dtype=np.uint8)
    for segmentation in (runs(mask), compressed(mask)):
        label = relabel_regions(SIZE, [(2, segmentation)], "here")
        np.testing.assert_array_equal(label, mask * CATEGORIES[2])


def test_every_category_of_the_mat_files_becomes_its_label(tmp_path: Path) -> None:
    make_devkit(tmp_path, ("2008_000001", "2009_000002", "2007_000003"))
    raw = pattern(range(460)).astype(np.uint16)
    for stem in ("2008_000001", "2009_000002"):
        (tmp_path / "trainval").mkdir(exist_ok=True)
        savemat(tmp_path / "trainval" / f"{stem}.mat", {"LabelMap": raw})
    save_list(tmp_path / "ImageSets/Main/train.txt", ["2008_000001", "2007_000003"])
    save_list(tmp_path / "ImageSets/Main/val.txt", ["2009_000002"])
    assert prepare("pascal_context_59", tmp_path) == 0
    expected = np.vectorize(lambda value: CATEGORIES.get(int(value), 0))(raw)
    np.testing.assert_array_equal(labels_of("pascal_context_60", tmp_path, "train"), [expected])
    np.testing.assert_array_equal(labels_of("pascal_context_60", tmp_path, "val"), [expected])


def test_mat_files_need_the_lists_of_voc(tmp_path: Path) -> None:
    make_devkit(tmp_path, ("2008_000001",))
    (tmp_path / "mat").mkdir()
    savemat(tmp_path / "mat/2008_000001.mat", {"LabelMap": np.full(SIZE, 460, np.uint16)})
    with pytest.raises(InputError, match=r"name no split; expected .*train.txt or .*ImageSets/Main/train.txt"):
        prepare_pascal(tmp_path, source=tmp_path / "mat", processes=1, force=False)
    for split in ("train", "val"):
        save_list(tmp_path / "ImageSets/Main" / f"{split}.txt", ["2008_000001"])
    with pytest.raises(InputError, match=r"2008_000001.mat holds the unknown label id 460; expected 0 to 459"):
        prepare_pascal(tmp_path, source=tmp_path / "mat", processes=1, force=False)


@pytest.mark.parametrize("kind", ["image", "array", "tensor"])
def test_encoded_masks_are_written_under_the_names_of_their_images(kind: str, tmp_path: Path) -> None:
    make_devkit(tmp_path, ("2008_000001", "2009_000002"))
    mask = pattern(range(60)).astype(np.uint8)
    stored = {"image": Image.fromarray(mask), "array": mask, "tensor": torch.from_numpy(mask)}[kind]
    torch.save({2008000001: stored}, tmp_path / "train.pth")
    torch.save({2009000002: stored}, tmp_path / "val.pth")
    assert prepare("pascal_context_60", tmp_path) == 0
    np.testing.assert_array_equal(labels_of("pascal_context_60", tmp_path, "train"), [mask])
    np.testing.assert_array_equal(labels_of("pascal_context_60", tmp_path, "val"), [mask])


class Payload:
    """Something that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("pwned",))


def test_masks_that_would_run_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_devkit(tmp_path, ("2008_000001",))
    torch.save({2008000001: Payload()}, tmp_path / "train.pth")
    with pytest.raises(InputError, match=r"train.pth would run code when loaded"):
        prepare_pascal(tmp_path, source=None, processes=1, force=False)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a table of image number -> mask, got list"),
        ({"state_dict": 3}, "expected a table of image number -> mask"),
        ({2008000001: np.full(SIZE, 60, np.uint8)}, "image 2008000001: the unknown label id 60; expected 0 to 59"),
        ({2008000001: np.zeros((2, 3, 4), np.uint8)}, "expected a map of labels"),
    ],
)
def test_masks_of_another_kind_are_refused(content: object, message: str, tmp_path: Path) -> None:
    make_devkit(tmp_path, ("2008_000001",))
    torch.save(content, tmp_path / "train.pth")
    with pytest.raises(InputError, match=message) as caught:
        prepare_pascal(tmp_path, source=tmp_path / "train.pth", processes=1, force=False)
    assert "train.pth" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "none"}, "is no annotation of PASCAL in Detail"),
        ({"annos_segmentation": [{"image_id": 2008000001}]}, "is no annotation of PASCAL in Detail"),
        (
            {"annos_segmentation": [{"image_id": 2008000001, "category_id": 3, "segmentation": {}}]},
            "image 2008000001: the unknown label id 3;",
        ),
        (
            {"annos_segmentation": [{"image_id": 2008000001, "category_id": 2, "segmentation": {"size": [2, 2]}}]},
            "image 2008_000001: a mask of category 2 is broken",
        ),
        (
            {"annos_segmentation": [{"image_id": 2008000001, "category_id": 2, "segmentation": runs(np.eye(4))}]},
            r"image 2008_000001: a mask of category 2 has the size \(4, 4\), expected \(24, 32\)",
        ),
    ],
)
def test_a_broken_detail_file_is_one_sentence(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    make_detail(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        prepare_pascal(tmp_path, source=None, processes=1, force=False)
    assert "trainval_merged.json" in str(caught.value)


def test_without_pycocotools_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_detail(tmp_path)
    monkeypatch.setattr("segcore.data.prepare.detail.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs pycocotools; `pip install 'segcore\[prepare\]'` installs it"):
        prepare_pascal(tmp_path, source=None, processes=1, force=False)


def test_a_list_of_other_images_is_not_replaced(tmp_path: Path) -> None:
    make_detail(tmp_path)
    mine = save_list(tmp_path / "ImageSets/SegmentationContext/val.txt", ["2009_000009"])
    with pytest.raises(InputError, match=r"val.txt exists and names other images; pass --force"):
        prepare_pascal(tmp_path, source=None, processes=1, force=False)
    assert mine.read_text() == "2009_000009\n"
    assert not (tmp_path / "SegmentationClassContext").exists()
    prepare_pascal(tmp_path, source=None, processes=1, force=True)
    assert mine.read_text() == "2009_000003\n"


def test_pascal_context_without_annotations_says_what_it_takes(tmp_path: Path) -> None:
    make_devkit(tmp_path, ("2008_000001",))
    with pytest.raises(InputError, match=r"expected trainval_merged.json, trainval/\*.mat .*--source names"):
        prepare_pascal(tmp_path, source=None, processes=1, force=False)
