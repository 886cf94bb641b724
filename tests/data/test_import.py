"""`segcore data import`: each format as its tool writes it becomes the label map that was drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask  # pyright: ignore

from segcore.commands.main import main
from segcore.data.annotations.colors import voc_colors
from segcore.data.annotations.drawing import box_points, ellipse_points, polygons
from segcore.data.folder import FolderDataset
from tests.data import annotation_files as files


def run(kind: str, source: Path, out: Path, *words: str) -> int:
    return main(["data", "import", kind, str(source), "--out", str(out), "--processes", "1", *words])


def label_of(out: Path, split: str = "") -> np.ndarray:
    return np.asarray(Image.open(out / "masks" / split / "a.png"))


def classes_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "classes.json").read_text())


@pytest.mark.parametrize(
    ("kind", "make", "words", "split", "classes"),
    [
        ("coco", files.coco, ("--images", "val"), "", ["road", "car"]),
        ("coco", files.panoptic, ("--images", "images"), "", ["road", "car"]),
        ("yolo", files.yolo, (), "train", ["road", "car"]),
        ("labelme", files.labelme, (), "", ["car", "road"]),
        ("cvat", files.cvat, (), "", ["road", "car"]),
        ("labelstudio", files.label_studio, (), "", ["car", "road"]),
    ],
    ids=["coco instances", "coco panoptic", "yolo", "labelme", "cvat", "label studio"],
)
def test_shapes_become_the_label_map(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    make: Callable[[Path], Path],
    words: tuple[str, ...],
    split: str,
    classes: list[str],
) -> None:
    (tmp_path / "source").mkdir()
    source = make(tmp_path / "source")
    monkeypatch.chdir(tmp_path / "source")
    assert run(kind, source, tmp_path / "out", *words) == 0
    assert classes_of(tmp_path / "out")["classes"] == classes
    numbers = {name: number for number, name in enumerate(classes)}
    np.testing.assert_array_equal(label_of(tmp_path / "out", split), files.expected(numbers["car"], numbers["road"]))
    dataset = FolderDataset(tmp_path / "out", split or "all")
    assert dataset.load(0).image.shape == (*files.SIZE, 3)


def test_an_empty_yolo_image_is_unlabeled_and_parts_stay_parts(tmp_path: Path) -> None:
    assert run("yolo", files.yolo(tmp_path / "s"), tmp_path / "out") == 0
    label = np.asarray(Image.open(tmp_path / "out" / "masks" / "val" / "b.png"))
    assert set(np.unique(label)) == {255}


def test_coco_text_run_lengths_are_those_of_pycocotools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = coco_mask.encode(np.asfortranarray(files.mask_of(files.CAR)))
    source = files.coco(tmp_path / "s", {"size": [6, 8], "counts": encoded["counts"].decode()})
    assert run("coco", source, tmp_path / "out", "--images", str(tmp_path / "s" / "val")) == 0
    np.testing.assert_array_equal(label_of(tmp_path / "out"), files.expected(car=1, road=0))


def test_voc_has_its_own_background_colors_and_parts(tmp_path: Path) -> None:
    assert run("voc", files.voc(tmp_path / "s"), tmp_path / "out") == 0
    assert classes_of(tmp_path / "out") == {
        "classes": ["background", "road", "car"], "palette": [[0, 0, 0], [128, 64, 128], [0, 0, 142]],
    }  # fmt: skip
    np.testing.assert_array_equal(label_of(tmp_path / "out", "train"), files.expected(car=2, road=1, unlabeled=0))


def test_voc_as_published_has_21_classes_and_void(tmp_path: Path) -> None:
    root = files.voc(tmp_path / "s")
    (root / "labelmap.txt").unlink()
    label = files.expected(car=7, road=255, unlabeled=0)
    picture = Image.fromarray(label)
    palette = np.zeros((256, 3), np.uint8)
    palette[:21], palette[255] = voc_colors(21), (224, 224, 192)
    picture.putpalette(palette.tobytes())
    picture.save(root / "SegmentationClass" / "a.png")
    assert run("voc", root, tmp_path / "out") == 0
    assert voc_colors(21)[7] == (128, 128, 128)
    assert voc_colors(21)[15] == (192, 128, 128)
    np.testing.assert_array_equal(label_of(tmp_path / "out", "train"), label)


def test_colors_are_found_listed_and_numbered_or_taken_from_a_table(tmp_path: Path) -> None:
    masks = files.colored(tmp_path / "s")
    images = ("--images", str(tmp_path / "s" / "images"))
    assert run("colors", masks, tmp_path / "found", *images) == 0
    assert classes_of(tmp_path / "found")["classes"] == ["#00008e", "#090909", "#804080"]
    np.testing.assert_array_equal(label_of(tmp_path / "found"), files.expected(car=0, road=2, unlabeled=1))
    (tmp_path / "table.csv").write_text("name,r,g,b\nroad,128,64,128\ncar,0,0,142\nvoid,9,9,9\n")
    assert run("colors", masks, tmp_path / "named", *images, "--colors", str(tmp_path / "table.csv")) == 0
    assert classes_of(tmp_path / "named")["classes"] == ["road", "car", "void"]
    np.testing.assert_array_equal(label_of(tmp_path / "named"), files.expected(car=1, road=0, unlabeled=2))


def test_the_order_of_the_file_decides_where_asked(tmp_path: Path) -> None:
    source, images = files.coco(tmp_path / "s"), ("--images", str(tmp_path / "s" / "val"))
    assert run("coco", source, tmp_path / "out", *images, "--overlap", "file") == 0
    np.testing.assert_array_equal(label_of(tmp_path / "out") == 0, files.mask_of(files.ROAD) > 0)


def test_pixels_without_a_shape_may_be_a_class(tmp_path: Path) -> None:
    words = ("--images", str(tmp_path / "s" / "val"), "--background", "other", "--split", "train")
    assert run("coco", files.coco(tmp_path / "s"), tmp_path / "out", *words) == 0
    assert classes_of(tmp_path / "out")["classes"] == ["other", "road", "car"]
    np.testing.assert_array_equal(label_of(tmp_path / "out", "train"), files.expected(car=2, road=1, unlabeled=0))


def test_a_second_run_keeps_what_is_there_and_other_classes_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("cvat", files.cvat(tmp_path / "s"), tmp_path / "out") == 0
    mask = tmp_path / "out" / "masks" / "a.png"
    before = mask.stat().st_mtime_ns
    assert run("cvat", tmp_path / "s" / "annotations.xml", tmp_path / "out") == 0
    assert mask.stat().st_mtime_ns == before
    assert "wrote 0 masks of 2 classes" in capsys.readouterr().out
    text = (tmp_path / "s" / "annotations.xml").read_text().replace("car", "van")
    (tmp_path / "s" / "annotations.xml").write_text(text)
    assert run("cvat", tmp_path / "s", tmp_path / "out") == 2
    assert "classes.json lacks the class van of the annotations" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "make", "damage", "sentence"),
    [
        ("coco", files.coco, ("instances_val.json", '"image_id"', '"image"'), "is not in COCO's form: 'image_id'"),
        ("coco", files.coco, ("instances_val.json", '"a.jpg"', '"../a.jpg"'), "leads out of their folder"),
        ("coco", files.coco, ("instances_val.json", '"a.jpg"', '"b.jpg"'), "the annotated image b.jpg is not in"),
        ("coco", files.coco, ("instances_val.json", '"car"', '"road"'), "two classes of the name road"),
        ("yolo", files.yolo, ("labels/train/a.txt", "1 0.25", "9 0.25"), "a.txt, line 1: expected a class"),
        ("labelme", files.labelme, ("a.json", '"imageWidth"', '"imageW"'), "is not in LabelMe's form"),
        ("cvat", files.cvat, ("annotations.xml", 'left="2"', 'left="x"'), "the image a.jpg is not in CVAT's form"),
        ("cvat", files.cvat, ("annotations.xml", "</annotations>", ""), "is not readable as XML"),
        ("labelstudio", files.label_studio, ("project-1.json", '"annotations"', '"label"'), "export it from Label"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    make: Callable[[Path], Path],
    damage: tuple[str, str, str],
    sentence: str,
) -> None:
    source, (name, old, new) = make(tmp_path / "s"), damage
    text = (tmp_path / "s" / name).read_text()
    assert old in text
    (tmp_path / "s" / name).write_text(text.replace(old, new))
    words = ("--images", str(tmp_path / "s" / "val")) if kind == "coco" else ()
    assert run(kind, source, tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_a_pixel_belongs_to_an_outline_with_its_center() -> None:
    patch = polygons((4, 4), [[0.4, 0.4, 2.5, 0.4, 2.5, 2.6, 0.4, 2.6]])  # centers 0.5 to 2.5, the last one outside
    assert (patch.top, patch.left, patch.mask.tolist()) == (0, 0, [[True, True]] * 3)
    outside = polygons((4, 4), [[-5, -5, 9, -5, 9, 9, -5, 9]])
    assert outside.mask.all()
    assert outside.mask.shape == (4, 4)
    assert polygons((4, 4), [[1, 1, 3, 1, 3, 1]]).mask.size == 0


def test_outlines_are_filled_as_a_brute_force_test_of_every_center() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.uniform(-2, 14, (7, 2))
        patch = polygons((12, 10), [points.ravel().tolist()])
        filled = np.zeros((12, 10), bool)
        filled[patch.top : patch.top + patch.mask.shape[0], patch.left : patch.left + patch.mask.shape[1]] = patch.mask
        for y in range(12):
            for x in range(10):
                crossings = 0
                for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
                    if (y0 > y + 0.5) != (y1 > y + 0.5):
                        crossings += x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0) <= x + 0.5
                assert filled[y, x] == crossings % 2


def test_boxes_and_ellipses_turn_clockwise() -> None:
    np.testing.assert_allclose(box_points(2, 3, 4, 1, 90), [2, 3, 2, 7, 1, 7, 1, 3], atol=1e-9)
    np.testing.assert_allclose(box_points(0, 0, 4, 2, 90, about_center=True), [3, -1, 3, 3, 1, 3, 1, -1], atol=1e-9)
    points = np.reshape(ellipse_points(5, 5, 3, 1, 90), (-1, 2))
    np.testing.assert_allclose([np.ptp(points[:, 0]), np.ptp(points[:, 1])], [2, 6], atol=1e-9)
