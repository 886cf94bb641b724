"""Malformed trees give one sentence each; lists, unions of splits and the choice between label files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from segcore.data import create_dataset
from segcore.data.base import SegmentationDataset
from segcore.data.read import DataFileError
from segcore.errors import InputError
from segcore.recipe import Data
from tests.data.dataset_trees import LAYOUTS, build, pattern, save_image, save_label, save_list


def open_split(dataset: str, root: Path, split: str = "val", **options: str) -> SegmentationDataset:
    return create_dataset(Data(dataset=dataset), str(root), split, **options)  # pyright: ignore[reportArgumentType]


def names(dataset: SegmentationDataset) -> list[str]:
    return [dataset.load(i).name for i in range(len(dataset))]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_missing_label_is_named_before_training(name: str, tmp_path: Path) -> None:
    layout = build(name, tmp_path)
    dataset = open_split(layout.dataset, tmp_path, layout.splits[1])
    label = dataset.files(1)[1]
    assert label is not None
    label.unlink()
    with pytest.raises(DataFileError) as caught:
        open_split(layout.dataset, tmp_path, layout.splits[1])
    assert caught.value.kind == "missing label"
    assert str(label) in str(caught.value)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_of_something_else_is_refused_with_what_was_expected(name: str, tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    layout = LAYOUTS[name]
    with pytest.raises(InputError, match=r"--run.data must name the folder that holds"):
        open_split(layout.dataset, tmp_path, layout.splits[0])


# label ids of Cityscapes have no wrong value: every other one is ignored (docs/protocol 1.3)
@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "cityscapes label ids"])
def test_a_value_outside_the_classes_names_file_and_value(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    wrong = next(value for value in range(254, 0, -1) if value not in layout.values)
    layout.build(tmp_path, [*layout.values, wrong])
    dataset = open_split(layout.dataset, tmp_path, layout.splits[1])
    with pytest.raises(
        DataFileError, match=rf"holds the value {wrong}, outside the {len(dataset.classes.names)} "
    ) as e:
        dataset.load(0)
    assert str(dataset.files(0)[1]) in str(e.value)


@pytest.mark.parametrize("name", ["coco-stuff 10k raw", "coco-stuff 164k raw"])
def test_ids_that_coco_stuff_never_uses_are_refused(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    street_sign = 12 if name.startswith("coco-stuff 10k") else 11
    layout.build(tmp_path, [0, street_sign])
    with pytest.raises(DataFileError, match=rf"holds the value {street_sign}, outside"):
        open_split(layout.dataset, tmp_path, layout.splits[1]).load(0)


def test_an_image_of_another_size_than_its_label_names_both(tmp_path: Path) -> None:
    build("bdd100k", tmp_path)
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(tmp_path / "labels/sem_seg/masks/val/val_0.png")
    with pytest.raises(DataFileError, match=r"val_0.png is 7x5, its image .*val_0.jpg is 32x24"):
        open_split("bdd100k", tmp_path).load(0)


def test_a_truncated_matlab_file_is_named(tmp_path: Path) -> None:
    build("coco-stuff 10k raw", tmp_path)
    path = tmp_path / "annotations/COCO_train2014_test0.mat"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(DataFileError, match=rf"cannot read {path} as a MATLAB file"):
        open_split("coco_stuff_10k", tmp_path, "test").load(0)


def test_a_matlab_file_without_the_label_map_is_named(tmp_path: Path) -> None:
    build("coco-stuff 10k raw", tmp_path)
    path = tmp_path / "annotations/COCO_train2014_test0.mat"
    savemat(path, {"T": np.zeros((24, 32), np.uint8)})
    with pytest.raises(DataFileError, match=r"test0.mat: expected a MATLAB file with the array 'S'"):
        open_split("coco_stuff_10k", tmp_path, "test").load(0)
    savemat(path, {"S": np.zeros((24, 32))})
    with pytest.raises(DataFileError, match=r"expected 'S' to be a map of integers, got shape \(24, 32\) of float64"):
        open_split("coco_stuff_10k", tmp_path, "test").load(0)
    savemat(path, {"S": np.full((24, 32), 300, np.uint16)})
    with pytest.raises(DataFileError, match="holds the value 300, expected 0 to 182"):
        open_split("coco_stuff_10k", tmp_path, "test").load(0)


def test_cityscapes_without_labels_says_which_were_expected(tmp_path: Path) -> None:
    build("cityscapes label ids", tmp_path)
    shutil.rmtree(tmp_path / "gtFine/val")
    with pytest.raises(DataFileError, match=r"expected CITY/\*_gtFine_labelTrainIds.png or \*_gtFine_labelIds.png"):
        open_split("cityscapes", tmp_path)
    (tmp_path / "gtFine/val/valville").mkdir(parents=True)
    (tmp_path / "gtFine/val/valville/valville_000000_000019_gtFine_polygons.json").write_text("{}")
    with pytest.raises(DataFileError, match=r"polygons only; `segcore data prepare cityscapes --root"):
        open_split("cityscapes", tmp_path)


def test_cityscapes_without_images_says_their_pattern(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit/val").mkdir(parents=True)
    with pytest.raises(InputError, match=r"expected CITY/\*_leftImg8bit.png in .*val, found none"):
        open_split("cityscapes", tmp_path)


def test_label_ids_are_read_while_train_ids_are_not_complete(tmp_path: Path) -> None:
    layout = build("cityscapes label ids", tmp_path)
    first = open_split("cityscapes", tmp_path).files(0)[1]
    assert first is not None
    converted = first.with_name(first.name.replace("labelIds", "labelTrainIds"))
    save_label(converted, [3])
    dataset = open_split("cityscapes", tmp_path)
    assert dataset.files(0)[1] == first
    np.testing.assert_array_equal(dataset.load_label(0), pattern(list(layout.values.values())))
    second = dataset.files(1)[1]
    assert second is not None
    save_label(second.with_name(second.name.replace("labelIds", "labelTrainIds")), [3])
    assert open_split("cityscapes", tmp_path).files(0)[1] == converted


def test_trainval_is_the_union_of_train_and_val(tmp_path: Path) -> None:
    layout = build("cityscapes label ids", tmp_path)
    assert names(open_split("cityscapes", tmp_path, "trainval")) == [*layout.stems[0], *layout.stems[1]]


def test_coarse_and_fine_images_join_with_their_own_labels(tmp_path: Path) -> None:
    build("cityscapes label ids", tmp_path)
    build("cityscapes coarse", tmp_path)
    dataset = open_split("cityscapes", tmp_path, "train_extra+train")
    labels = [dataset.files(i)[1] for i in range(len(dataset))]
    kinds = [path.relative_to(tmp_path).parts[0] for path in labels if path is not None]
    assert kinds == ["gtCoarse", "gtCoarse", "gtFine", "gtFine"]
    assert len({dataset.load(i).name for i in range(4)}) == 4
    assert dataset.load_label(0)[0, 0] == 0  # train ids
    assert dataset.load_label(3)[0, 0] == 255  # label id 0


@pytest.mark.parametrize("line", ["{}", "{}.png", "val/{}"])
def test_a_list_names_images_of_a_union_as_the_data_set_does(line: str, tmp_path: Path) -> None:
    build("cityscapes label ids", tmp_path)
    stem = "valville/valville_000001_000019_leftImg8bit"
    listing = save_list(tmp_path / "mine.txt", [line.format(stem)])
    dataset = open_split("cityscapes", tmp_path, "train+val", list_file=str(listing))
    assert names(dataset) == [f"val/{stem}"]


def test_lists_of_the_s_family_select_and_order_the_images(tmp_path: Path) -> None:
    layout = build("cityscapes label ids", tmp_path)
    save_list(tmp_path / "trainval.txt", [layout.stems[1][1], layout.stems[0][0]])
    assert names(open_split("cityscapes", tmp_path, "trainval")) == [layout.stems[1][1], layout.stems[0][0]]


def test_pascal_context_takes_any_list_and_its_own_by_default(tmp_path: Path) -> None:
    build("pascal context 59", tmp_path)
    part = save_list(tmp_path / "ImageSets/SegmentationContext/5/val_0.txt", ["2009_000001"])
    assert names(open_split("pascal_context_59", tmp_path, list_file=str(part))) == ["2009_000001"]
    (tmp_path / "ImageSets/SegmentationContext/val.txt").unlink()
    assert names(open_split("pascal_context_59", tmp_path, list_file=str(part))) == ["2009_000001"]
    with pytest.raises(InputError, match=r"expected the list .*val.txt, .*segcore data prepare pascal_context_60"):
        open_split("pascal_context_59", tmp_path)


@pytest.mark.parametrize("inside", ["VOC2010", "VOCdevkit/VOC2010"])
def test_pascal_context_is_found_inside_the_devkit(inside: str, tmp_path: Path) -> None:
    layout = LAYOUTS["pascal context 60"]
    layout.build(tmp_path / inside, [0, 59])
    assert names(open_split("pascal_context_60", tmp_path)) == list(layout.stems[1])


def test_a_listed_image_that_does_not_exist_names_list_and_line(tmp_path: Path) -> None:
    build("lip", tmp_path)
    save_list(tmp_path / "val_id.txt", ["val_0", "val_7"])
    with pytest.raises(InputError, match=r"val_id.txt, line 2: no image 'val_7' in this split"):
        open_split("lip", tmp_path)


def test_coco_stuff_10k_needs_the_lists_of_the_release(tmp_path: Path) -> None:
    build("coco-stuff 10k raw", tmp_path)
    (tmp_path / "imageLists/test.txt").unlink()
    with pytest.raises(InputError, match=r"cannot read the list file .*imageLists/test.txt"):
        open_split("coco_stuff_10k", tmp_path, "test")


def test_val_of_coco_stuff_10k_is_its_test_list(tmp_path: Path) -> None:
    layout = build("coco-stuff 10k raw", tmp_path)
    assert names(open_split("coco_stuff_10k", tmp_path, "val")) == list(layout.stems[1])


def test_raw_coco_stuff_164k_is_read_while_the_converted_files_are_not_complete(tmp_path: Path) -> None:
    layout = build("coco-stuff 164k raw", tmp_path)
    save_label(tmp_path / "annotations/val2017/val2017_0_labelTrainIds.png", [3])
    dataset = open_split("coco_stuff_164k", tmp_path)
    np.testing.assert_array_equal(dataset.load_label(0), pattern(list(layout.values.values())))


@pytest.mark.parametrize(
    ("name", "image"), [("lip", "testing_images/test_0.jpg"), ("bdd100k", "images/10k/test/test_0.jpg")]
)
def test_test_splits_have_images_without_labels(name: str, image: str, tmp_path: Path) -> None:
    build(name, tmp_path)
    save_image(tmp_path / image)
    dataset = open_split(name, tmp_path, "test")
    assert dataset.load(0).label is None
    assert dataset.load(0).name == "test_0"


@pytest.mark.parametrize("name", ["pascal context 60", "coco-stuff 164k", "cityscapes train ids"])
def test_an_unknown_split_lists_those_that_exist(name: str, tmp_path: Path) -> None:
    layout = build(name, tmp_path)
    with pytest.raises(InputError, match=r"has the splits train, val.* not 'holdout'"):
        open_split(layout.dataset, tmp_path, "holdout")
