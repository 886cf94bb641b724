"""Small sources of each annotation format, as their tools write them: one image of 8x6 (width x height), two classes.

Every source draws the same label map where its format can: a large "road" from (1, 1) to (7, 5) and a small "car" from
(2, 2) to (4, 4) that overlaps it, listed before it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (6, 8)
ROAD = (1, 1, 7, 5)  # left, top, right, bottom
CAR = (2, 2, 4, 4)
Box = tuple[int, int, int, int]


def outline(box: Box) -> list[tuple[int, int]]:
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def mask_of(box: Box) -> np.ndarray:
    left, top, right, bottom = box
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def expected(car: int, road: int, unlabeled: int = 255) -> np.ndarray:
    """Return the label map with the smaller shape above."""
    label = np.full(SIZE, unlabeled, np.uint8)
    label[mask_of(ROAD) > 0] = road
    label[mask_of(CAR) > 0] = car
    return label


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run_lengths(flags: np.ndarray) -> list[int]:
    """Return the lengths of equal values, beginning with those of 0."""
    changes = np.flatnonzero(np.diff(flags)) + 1
    counts = np.diff([0, *changes.tolist(), len(flags)]).tolist()
    return [0, *counts] if flags[0] else counts


def coco(root: Path, car_segmentation: object | None = None) -> Path:
    """instances_val.json, with a polygon and column-wise run lengths (a crowd)."""
    image(root / "val" / "a.jpg")
    flat = [float(value) for point in outline(CAR) for value in point]
    crowd = {"counts": run_lengths(mask_of(ROAD).T.ravel()), "size": list(SIZE)}
    content = {
        "info": {"description": "", "version": "1.0"},
        "licenses": [],
        "images": [{"id": 42, "width": 8, "height": 6, "file_name": "a.jpg", "license": 0, "date_captured": ""}],
        "annotations": [
            {"id": 1, "image_id": 42, "category_id": 7, "segmentation": car_segmentation or [flat], "area": 4.0,
             "bbox": [2.0, 2.0, 2.0, 2.0], "iscrowd": 0},
            {"id": 2, "image_id": 42, "category_id": 3, "segmentation": crowd, "area": 24, "bbox": [1, 1, 6, 4],
             "iscrowd": 1},
        ],
        "categories": [
            {"id": 7, "name": "car", "supercategory": "vehicle"}, {"id": 3, "name": "road", "supercategory": "ground"},
        ],
    }  # fmt: skip
    (root / "instances_val.json").write_text(json.dumps(content))
    return root / "instances_val.json"


def panoptic(root: Path) -> Path:
    """panoptic_val.json and panoptic_val/a.png, with the colors of the panoptic categories."""
    image(root / "images" / "a.jpg")
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[mask_of(ROAD) > 0] = (1, 2, 0)  # 513
    colors[mask_of(CAR) > 0] = (4, 0, 1)  # 65540
    (root / "panoptic_val").mkdir()
    Image.fromarray(colors).save(root / "panoptic_val" / "a.png")
    segments = [
        {"id": 513, "category_id": 3, "iscrowd": 0, "bbox": [1, 1, 6, 4], "area": 20},
        {"id": 65540, "category_id": 7, "iscrowd": 0, "bbox": [2, 2, 2, 2], "area": 4},
    ]
    content = {
        "images": [{"id": 42, "width": 8, "height": 6, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 42, "file_name": "a.png", "segments_info": segments}],
        "categories": [
            {"id": 3, "name": "road", "supercategory": "ground", "isthing": 0, "color": [128, 64, 128]},
            {"id": 7, "name": "car", "supercategory": "vehicle", "isthing": 1, "color": [0, 0, 142]},
        ],
    }
    (root / "panoptic_val.json").write_text(json.dumps(content))
    return root / "panoptic_val.json"


def yolo(root: Path) -> Path:
    """data.yaml of Ultralytics with a train and a val part; the val image shows nothing."""
    image(root / "images" / "train" / "a.jpg")
    image(root / "images" / "val" / "b.jpg")
    lines = [
        f"{number} " + " ".join(f"{x / 8:.6f} {y / 6:.6f}" for x, y in outline(box))
        for number, box in ((1, CAR), (0, ROAD))
    ]
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "a.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\n\nnames:\n  0: road\n  1: car\n")
    return root / "data.yaml"


def labelme(root: Path) -> Path:
    """A folder of labelme 5: a polygon, a rectangle, a mask, and a point that has no area."""
    image(root / "a.jpg")
    data = io.BytesIO()
    Image.fromarray(mask_of(CAR)[2:4, 2:4] > 0).save(data, "PNG")
    common = {"group_id": None, "description": "", "flags": {}}
    shapes = [
        {"label": "car", "points": [[2.0, 2.0], [3.0, 3.0]], "shape_type": "mask",
         "mask": base64.b64encode(data.getvalue()).decode(), **common},
        {"label": "road", "points": [[1.0, 1.0], [7.0, 5.0]], "shape_type": "rectangle", "mask": None, **common},
        {"label": "car", "points": [[0.0, 0.0]], "shape_type": "point", "mask": None, **common},
    ]  # fmt: skip
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "a.jpg", "imageData": None}
    (root / "a.json").write_text(json.dumps({**content, "imageHeight": 6, "imageWidth": 8}, indent=2))
    return root


def cvat(root: Path) -> Path:
    """annotations.xml of "CVAT for images 1.1": a mask above a box by its z_order, and a point."""
    image(root / "images" / "a.jpg")
    (root / "annotations.xml").write_text(
        """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <job>
      <id>5</id>
      <size>1</size>
      <labels>
        <label><name>road</name><color>#804080</color><type>any</type><attributes></attributes></label>
        <label><name>car</name><color>#00008e</color><type>any</type><attributes></attributes></label>
      </labels>
    </job>
    <dumped>2026-01-01 00:00:00.000000+00:00</dumped>
  </meta>
  <image id="0" name="a.jpg" width="8" height="6">
    <mask label="car" source="manual" occluded="0" rle="0, 4" left="2" top="2" width="2" height="2" z_order="1">
    </mask>
    <box label="road" source="manual" occluded="0" xtl="1.00" ytl="1.00" xbr="7.00" ybr="5.00" z_order="0">
    </box>
    <points label="car" source="manual" occluded="0" points="0.50,0.50" z_order="2">
    </points>
  </image>
</annotations>
"""
    )
    return root / "annotations.xml"


def brush_bytes(mask: np.ndarray) -> list[int]:
    """Return Label Studio's bytes of a mask: RGBA, run by run."""
    values = np.repeat((mask * 255)[..., None], 4, axis=-1).ravel()
    widths = (2, 4, 8, 15)
    bits = f"{len(values):032b}{8 - 1:05b}" + "".join(f"{width - 1:04b}" for width in widths)
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, stop in pairwise(starts):
        bits += f"1{2:02b}{stop - start - 1:08b}{values[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def label_studio(root: Path) -> Path:
    """The JSON export: a brush stroke, a polygon in percent, and a key point; its upload has a prefix."""
    image(root / "a.jpg")
    common = {"original_width": 8, "original_height": 6, "image_rotation": 0, "from_name": "tag", "to_name": "image"}
    points = [[100 * x / 8, 100 * y / 6] for x, y in outline(ROAD)]
    result = [
        {**common, "id": "b1", "type": "brushlabels", "origin": "manual",
         "value": {"format": "rle", "rle": brush_bytes(mask_of(CAR)), "brushlabels": ["car"]}},
        {**common, "id": "p1", "type": "polygonlabels", "origin": "manual",
         "value": {"points": points, "closed": True, "polygonlabels": ["road"]}},
        {**common, "id": "k1", "type": "keypointlabels", "origin": "manual",
         "value": {"x": 1.0, "y": 1.0, "width": 0.5, "keypointlabels": ["car"]}},
    ]  # fmt: skip
    annotations = [
        {"id": 8, "completed_by": 2, "was_cancelled": True, "result": []},
        {"id": 9, "completed_by": 1, "was_cancelled": False, "result": result},
    ]
    name = "1a2b3c4d-a.jpg"
    task = {"id": 1, "annotations": annotations, "file_upload": name, "data": {"image": f"/data/upload/1/{name}"}}
    empty = {"id": 2, "annotations": [], "file_upload": "x-b.jpg", "data": {"image": "/data/upload/1/x-b.jpg"}}
    (root / "project-1.json").write_text(json.dumps([task, empty]))
    return root / "project-1.json"


def painted(colors: Sequence[tuple[int, int, int]], rest: tuple[int, int, int]) -> Image.Image:
    """Return the mask in colors of car, road and the rest."""
    pixels = np.full((*SIZE, 3), rest, np.uint8)
    for box, color in zip((ROAD, CAR), reversed(colors), strict=True):
        pixels[mask_of(box) > 0] = color
    return Image.fromarray(pixels)


def voc(root: Path) -> Path:
    """The folder that CVAT exports as "Segmentation mask 1.1"."""
    image(root / "JPEGImages" / "a.jpg")
    (root / "SegmentationClass").mkdir()
    painted([(0, 0, 142), (128, 64, 128)], (0, 0, 0)).save(root / "SegmentationClass" / "a.png")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\n"
    )
    return root


def colored(root: Path) -> Path:
    """Images, and masks with a color per class."""
    image(root / "images" / "a.jpg")
    (root / "masks").mkdir()
    painted([(0, 0, 142), (128, 64, 128)], (9, 9, 9)).save(root / "masks" / "a.png")
    return root / "masks"
