"""Data sets that read files: layouts, splits, label encodings, and one sentence for every file that cannot be used."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcore.data import DATASETS, create_dataset
from segcore.data import labels as encodings
from segcore.data.ade20k import ADE20K
from segcore.data.base import load_classes
from segcore.data.camvid import CamVid
from segcore.data.read import DataFileError, read_image, read_label
from segcore.errors import InputError
from segcore.recipe import Data

SIZE = (6, 8)


def noise(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)  # pyright: ignore[reportArgumentType]
    return path


def make_ade20k(root: Path, stems: tuple[str, ...] = ("a", "b"), raw: int = 1) -> Path:
    for number, stem in enumerate(stems):
        for folder in ("training", "validation"):
            save(root / "images" / folder / f"{stem}.jpg", noise(number))
            save(root / "annotations" / folder / f"{stem}.png", np.full(SIZE, raw, np.uint8))
    return root


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ade20k", 150),
        ("camvid", 11),
        ("cityscapes", 19),
        ("pascal_context_59", 59),
        ("pascal_context_60", 60),
        ("coco_stuff_171", 171),
        ("coco_stuff_10k_182", 182),
        ("lip", 20),
        ("bdd100k", 19),
    ],
)
def test_every_class_has_a_name_and_a_color(name: str, count: int) -> None:
    classes = load_classes(name)
    assert len(set(classes.names)) == count
    assert classes.palette.shape == (count, 3)
    assert classes.palette.dtype == np.uint8


def test_zero_label_reduction_keeps_ignored_pixels_and_the_input() -> None:
    raw = np.array([0, 1, 150, 254, 255], np.uint8)
    assert encodings.reduce_zero_label(raw).tolist() == [255, 0, 149, 253, 255]
    assert raw.tolist() == [0, 1, 150, 254, 255]


def test_cityscapes_ids_go_there_and_back() -> None:
    train_ids = np.arange(19, dtype=np.uint8)
    label_ids = encodings.cityscapes_label_ids(train_ids)
    np.testing.assert_array_equal(encodings.cityscapes_train_ids(label_ids), train_ids)
    assert encodings.cityscapes_train_ids(np.array([-1, 0, 34])).tolist() == [255, 255, 255]


def test_ids_that_coco_stuff_never_uses_stay_outside_the_classes() -> None:
    assert encodings.coco_stuff_164k(np.array([11], np.uint8)).tolist() == [encodings.OUTSIDE]
    assert 171 <= int(encodings.coco_stuff_10k_171(np.array([12], np.uint8))[0]) < 255


def test_ade20k_reads_the_root_and_its_parent(tmp_path: Path) -> None:
    make_ade20k(tmp_path / "ADEChallengeData2016", raw=5)
    for root in (tmp_path, tmp_path / "ADEChallengeData2016"):
        dataset = ADE20K(root, "val")
        sample = dataset.load(1)
        assert (len(dataset), sample.name) == (2, "b")
        assert sample.image.shape == (*SIZE, 3)
        assert sample.label is not None
        assert np.unique(sample.label).tolist() == [4]
        assert sample.label.dtype == np.uint8


def test_ade20k_test_images_have_no_labels(tmp_path: Path) -> None:
    save(tmp_path / "images" / "testing" / "t.jpg", noise())
    dataset = ADE20K(tmp_path, "test")
    assert dataset.load(0).label is None
    with pytest.raises(InputError, match="t has no label"):
        dataset.load_label(0)


def test_ade20k_list_of_stems_in_the_root_selects(tmp_path: Path) -> None:
    make_ade20k(tmp_path, ("a", "b", "c"))
    (tmp_path / "train.txt").write_text("c\na\n")
    assert [ADE20K(tmp_path, "train").load(i).name for i in range(2)] == ["c", "a"]
    assert len(ADE20K(tmp_path, "val")) == 3


def test_joined_splits_keep_unique_names(tmp_path: Path) -> None:
    dataset = ADE20K(make_ade20k(tmp_path), "train+val")
    assert [item.name for item in dataset.items] == ["train/a", "train/b", "val/a", "val/b"]


@pytest.mark.parametrize("entry", ["b", "b.jpg", "  b  "])
def test_a_list_file_keeps_its_images(tmp_path: Path, entry: str) -> None:
    make_ade20k(tmp_path)
    listing = tmp_path / "list.txt"
    listing.write_text(f"{entry}\n\n")
    dataset = create_dataset(Data(dataset="ade20k"), str(tmp_path), "train", list_file=str(listing))
    assert [dataset.load(i).name for i in range(len(dataset))] == ["b"]


def test_a_list_file_with_an_unknown_stem_names_its_line(tmp_path: Path) -> None:
    make_ade20k(tmp_path)
    (tmp_path / "list.txt").write_text("a\nzebra\n")
    with pytest.raises(InputError, match=r"list\.txt, line 2: no image 'zebra'"):
        ADE20K(tmp_path, "train", list_file=str(tmp_path / "list.txt"))


def test_camvid_void_is_ignored_in_both_layouts(tmp_path: Path) -> None:
    label = np.full(SIZE, 11, np.uint8)
    label[0] = 10
    save(tmp_path / "here" / "images" / "val" / "x.jpg", noise())
    save(tmp_path / "here" / "annotations" / "val" / "x.png", label)
    save(tmp_path / "segnet" / "val" / "x.png", noise())
    save(tmp_path / "segnet" / "valannot" / "x.png", label)
    for name in ("here", "segnet"):
        dataset = CamVid(tmp_path / name, "val")
        assert np.unique(dataset.load_label(0)).tolist() == [10, 255]
        assert dataset.files(0)[0] is not None


def test_a_missing_root_is_named_with_its_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere does not exist; --run\.data must name .* images/train"):
        create_dataset(Data(dataset="camvid"), str(tmp_path / "nowhere"), "train")
    with pytest.raises(InputError, match=r"set --run\.data"):
        create_dataset(Data(dataset="ade20k"), "", "train")


def test_an_unknown_data_set_or_split_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'camvid'"):
        create_dataset(Data(dataset="camvit"), "", "train")
    with pytest.raises(InputError, match="train, val, test"):
        create_dataset(Data(dataset="camvid"), str(tmp_path), "training")


def test_a_missing_label_is_found_before_training_unless_told_not_to_look(tmp_path: Path) -> None:
    make_ade20k(tmp_path)
    (tmp_path / "annotations" / "training" / "b.png").unlink()
    with pytest.raises(DataFileError, match=r"b\.jpg has no label: expected .*b\.png") as caught:
        ADE20K(tmp_path, "train")
    assert caught.value.kind == "missing label"
    with pytest.raises(DataFileError, match=r"expected the label .*b\.png"):
        ADE20K(tmp_path, "train", check_files=False).load(1)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.4, 0.98])
def test_a_truncated_image_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = save(tmp_path / f"image{suffix}", noise(size=(64, 80)))
    assert read_image(path).shape == (64, 80, 3)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataFileError, match="is truncated") as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_an_empty_file_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").touch()
    with pytest.raises(DataFileError, match=r"image\.jpg is not an image"):
        read_image(tmp_path / "image.jpg")


def test_a_thumbnail_does_not_hide_a_truncated_image(tmp_path: Path) -> None:
    thumbnail = io.BytesIO()
    Image.fromarray(noise()).save(thumbnail, "JPEG")
    exif = Image.Exif()
    exif[0x9286] = thumbnail.getvalue()  # any tag will do: an end mark inside the header
    path = save(tmp_path / "image.jpg", noise(size=(64, 80)), exif=exif)
    data = path.read_bytes()
    assert data.count(b"\xff\xd9") == 2
    assert read_image(path).shape == (64, 80, 3)
    path.write_bytes(data[: int(0.9 * len(data))])
    with pytest.raises(DataFileError, match="truncated"):
        read_image(path)


def test_bytes_after_the_end_mark_are_no_fault(tmp_path: Path) -> None:
    path = save(tmp_path / "image.jpg", np.full((64, 80, 3), 90, np.uint8))
    path.write_bytes(path.read_bytes() + b"trailing bytes of a camera")
    assert read_image(path).shape == (64, 80, 3)


def test_gray_images_get_three_channels(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "gray.png", np.full(SIZE, 40, np.uint8)))
    assert image.shape == (*SIZE, 3)
    assert np.unique(image).tolist() == [40]


def test_a_palette_label_gives_its_indices(tmp_path: Path) -> None:
    picture = Image.fromarray(np.full(SIZE, 3, np.uint8)).convert("P")
    picture.putpalette([200, 100, 50] * 256)
    picture.putdata([3] * (SIZE[0] * SIZE[1]))
    picture.save(tmp_path / "label.png")
    assert np.unique(read_label(tmp_path / "label.png")).tolist() == [3]


@pytest.mark.parametrize("size", [(7, 1), (1, 7), (1, 1)])
def test_a_label_of_one_row_or_column_keeps_both_axes(tmp_path: Path, size: tuple[int, int]) -> None:
    assert read_label(save(tmp_path / "thin.png", np.full(size, 2, np.uint8))).shape == size


def test_a_color_image_of_one_row_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="got mode RGB"):
        read_label(save(tmp_path / "row.png", np.zeros((1, 7, 3), np.uint8)))


def test_unusable_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="got mode RGB"):
        read_label(save(tmp_path / "color.png", noise()))
    with pytest.raises(DataFileError, match="value 1000"):
        read_label(save(tmp_path / "deep.png", np.full(SIZE, 1000, np.uint16)))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataFileError, match="cannot decode the label"):
        read_label(tmp_path / "text.png")


def test_a_value_outside_the_classes_names_file_and_file_value(tmp_path: Path) -> None:
    dataset = ADE20K(make_ade20k(tmp_path, raw=151), "train")
    with pytest.raises(DataFileError, match=r"a\.png holds the value 151, outside the 150 classes") as caught:
        dataset.load(0)
    assert caught.value.kind == "values outside the classes"


def test_a_label_of_another_size_names_both_sizes(tmp_path: Path) -> None:
    make_ade20k(tmp_path)
    save(tmp_path / "annotations" / "training" / "a.png", np.ones((5, 8), np.uint8))
    with pytest.raises(DataFileError, match=r"a\.png is 8x5, its image .* is 8x6") as caught:
        ADE20K(tmp_path, "train").load(0)
    assert caught.value.kind == "size mismatch"
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.kind, str(copy)) == ("size mismatch", str(caught.value))


def test_orientation_is_honored_unless_the_label_says_otherwise(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    make_ade20k(tmp_path)
    save(tmp_path / "images" / "training" / "a.jpg", noise(), exif=exif)
    assert read_image(tmp_path / "images" / "training" / "a.jpg").shape == (SIZE[1], SIZE[0], 3)
    assert ADE20K(tmp_path, "train").load(0).image.shape == (*SIZE, 3)


def test_the_generated_data_set_takes_no_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no files"):
        create_dataset(Data(dataset="toy"), "", "train", list_file=str(tmp_path / "list.txt"))


def test_names_of_data_sets_are_known_without_torch() -> None:
    code = "import sys; from segcore.data import DATASETS; print(len(DATASETS), 'torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == [str(len(DATASETS)), "False"]
