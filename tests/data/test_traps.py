"""What `segcore data check` says about data sets whose files can all be read, but mean something else."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segcore.commands.main import main
from segcore.data import create_dataset
from segcore.data.base import SegmentationDataset
from segcore.data.check import CheckReport, check_dataset
from segcore.recipe import Data
from tests.data.test_datasets import noise, save

SIZE = (40, 60)


def regions(*values: int) -> np.ndarray:
    """Return a mask of slanted stripes of the values."""
    rows, columns = np.indices(SIZE)
    return np.asarray(values, np.uint8)[(rows + columns) * len(values) // (sum(SIZE) - 1)]


def make(root: Path, mask: np.ndarray, classes: str = "road car tree", number: int = 12) -> Path:
    root.mkdir(exist_ok=True)
    (root / "classes.txt").write_text("\n".join(classes.split()))
    for i in range(number):
        save(root / "images" / f"{i:02d}.png", noise(i, SIZE))
        save(root / "masks" / f"{i:02d}.png", mask)
    return root


def open_train(root: Path, **options: object) -> SegmentationDataset:
    return create_dataset(Data(dataset="folder", **options), str(root), "train", check_files=False)  # pyright: ignore


def found(root: Path, **options: object) -> dict[str, str]:
    """Return what is suspicious about the training split: kind -> sentence."""
    report = check_dataset(open_train(root, **options))
    return {suspicion.kind: suspicion.message for suspicion in report.suspicions}


def mended(root: Path, **options: object) -> CheckReport:
    """Check with the options that a sentence names: nothing is left to be said."""
    report = check_dataset(open_train(root, **options))
    assert report.is_clean
    assert not report.suspicions
    return report


def test_a_sound_folder_is_not_suspicious(tmp_path: Path) -> None:
    mended(make(tmp_path, regions(0, 1, 2, 255)))


def test_masks_of_0_and_255_are_named(tmp_path: Path) -> None:
    root = make(tmp_path, regions(0, 255), "background object")
    assert found(root) == {
        "unusual mask values": "the masks hold 0 and 255, which counts as unlabeled: probably 0 is background and 255 "
        "an object; pass --data.mask-values 0 255"
    }
    report = mended(root, mask_values=(0, 255))
    assert report.ignored == 0
    assert report.pixels.min() > 0


def test_masks_of_0_and_255_with_one_class_need_two(tmp_path: Path) -> None:
    sentence = found(make(tmp_path, regions(0, 255), "object"))["unusual mask values"]
    assert sentence.endswith("--data.mask-values 0 255; the class file, which has 1, must then name these two")


def test_masks_that_count_from_1_are_named(tmp_path: Path) -> None:
    root = make(tmp_path, regions(1, 2, 3, 255))
    sentence = found(root)["unusual mask values"]
    assert sentence == (
        "the masks hold 1 to 3 but no class 0: probably they count from 1; pass --data.mask-values 1 2 3"
    )
    mended(root, mask_values=(1, 2, 3))


def test_masks_with_one_value_more_than_classes_are_named(tmp_path: Path) -> None:
    root = make(tmp_path, regions(0, 1, 2, 3))
    assert found(root)["unusual mask values"].endswith("or pass --data.ignore 0 --data.mask-values 1 2 3")
    mended(root, mask_values=(1, 2, 3), ignore=0)


def test_masks_of_gray_levels_are_named(tmp_path: Path) -> None:
    root = make(tmp_path, regions(0, 85, 170))
    assert "probably gray levels; pass --data.mask-values 0 85 170, in" in found(root)["unusual mask values"]
    mended(root, mask_values=(0, 85, 170))


def test_a_value_that_is_not_listed_is_named(tmp_path: Path) -> None:
    root = make(tmp_path, regions(0, 1, 2))
    save(root / "masks" / "05.png", regions(0, 1, 77))
    assert found(root) == {
        "unlisted values": "the masks hold values that are no class: 77 (in 1 masks); add their classes to the class "
        "file; if one means no label, pass --data.ignore with it; many values in few pixels come from masks that were "
        "compressed or resized"
    }
    mended(root, ignore=77)


def test_a_listed_class_that_never_occurs_is_named(tmp_path: Path) -> None:
    message = found(make(tmp_path, regions(0, 2)))["classes that never occur"]
    assert message.startswith("no mask has the classes car; their scores are undefined here")
    assert "`segcore data split`" in message


@pytest.mark.parametrize("quality", [75, 95])
def test_lossy_masks_are_named(quality: int, tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(np.kron(regions(0, 40, 90, 5), np.ones((4, 4), np.uint8))).save(content, "JPEG", quality=quality)
    root = make(tmp_path, np.asarray(Image.open(content)), " ".join(f"c{i}" for i in range(120)))
    for i in range(12):
        save(root / "images" / f"{i:02d}.png", noise(i, (160, 240)))
    assert found(root)["lossy masks"].startswith("10 of 10 hold single pixels of other")


@pytest.mark.parametrize(("interpolation", "is_lossy"), [(cv2.INTER_LINEAR, True), (cv2.INTER_NEAREST, False)])
def test_masks_resized_with_interpolation_are_named(interpolation: int, is_lossy: bool, tmp_path: Path) -> None:
    mask = cv2.resize(regions(0, 30, 60, 90), (53, 37), interpolation=interpolation)
    root = make(tmp_path, mask, " ".join(f"c{i}" for i in range(99)))
    for i in range(12):
        save(root / "images" / f"{i:02d}.png", noise(i, (37, 53)))
    assert ("lossy masks" in found(root)) == is_lossy


@pytest.mark.parametrize(
    ("of", "orientation", "size", "is_unclear"),
    [
        ("images", 3, SIZE, True),
        ("images", 2, SIZE, True),
        ("masks", 3, SIZE, True),
        ("images", 6, (40, 40), True),
        ("images", 6, SIZE, False),  # sizes tell which way the mask was drawn
        ("images", 1, SIZE, False),
    ],
)
def test_image_and_mask_of_different_rotation_are_named(
    of: str, orientation: int, size: tuple[int, int], is_unclear: bool, tmp_path: Path
) -> None:
    root = make(tmp_path, regions(0, 1, 2)[: size[0], : size[1]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    for i in range(12):
        save(root / "images" / f"{i:02d}.png", noise(i, size))
    picture = noise(5, size) if of == "images" else regions(0, 1, 2)
    save(root / of / "05.png", picture, exif=exif)
    kinds = found(root)
    assert ("unclear rotation" in kinds) == is_unclear
    if is_unclear:
        assert kinds["unclear rotation"].startswith("1 of 10 have an EXIF rotation")
        assert "mogrify -auto-orient" in kinds["unclear rotation"]


@pytest.mark.parametrize(("highest", "is_dark"), [(4095, True), (65535, False)])
def test_16_bit_images_that_use_12_bits_are_named(highest: int, is_dark: bool, tmp_path: Path) -> None:
    root = make(tmp_path, regions(0, 1, 2))
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, highest + 1, (*SIZE, 3)).astype(np.uint16)
        (root / "images" / f"{i:02d}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    assert ("dark 16-bit images" in found(root)) == is_dark


def test_a_4_band_tiff_is_a_fault(tmp_path: Path) -> None:
    root = make(tmp_path, regions(0, 1, 2))
    (root / "images" / "05.png").unlink()
    bands = np.zeros((*SIZE, 4), np.uint8)
    (root / "images" / "05.tif").write_bytes(cv2.imencode(".tiff", bands)[1].tobytes())
    faults = check_dataset(open_train(root)).faults["unreadable image"]
    assert (faults.count, faults.names) == (1, ["05"])
    assert "has 4 bands" in faults.messages[0]


def test_one_picture_in_train_and_validation_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make(tmp_path, regions(0, 1, 2))
    assert main(["data", "check", "folder", "--root", str(root)]) == 0
    assert "shared pictures" not in capsys.readouterr().out
    Image.open(root / "images" / "10.png").save(root / "images" / "04.tif")  # validates, as every tenth does
    (root / "images" / "04.png").unlink()
    assert main(["data", "check", "folder", "--root", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "suspicious, shared pictures: 1 pictures are in train and in val" in printed
    assert "(first: train 04 = val 10)" in printed


def test_a_stray_mask_value_names_the_option_for_no_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make(tmp_path, regions(0, 1, 77))
    assert main(["data", "check", "folder", "--root", str(root), "--split", "val"]) == 2
    printed = capsys.readouterr().out
    assert "holds the value 77, outside the 3 classes of folder; if it means no label, pass --data.ignore" in printed
    assert main(["data", "check", "folder", "--root", str(root), "--split", "val", "--data.ignore", "77"]) == 0


def test_the_check_has_the_options_that_sentences_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make(tmp_path, regions(0, 255))
    (root / "classes.txt").rename(root / "names.txt")
    assert main(["data", "check", "folder", "--root", str(root)]) == 2
    assert "or pass --data.classes" in capsys.readouterr().err
    (root / "names.txt").write_text("background\nobject\n")
    words = ["--data.classes", str(root / "names.txt"), "--data.mask-values", "0", "255"]
    assert main(["data", "check", "folder", "--root", str(root), *words]) == 0
    assert capsys.readouterr().out.count("no faults") == 2
