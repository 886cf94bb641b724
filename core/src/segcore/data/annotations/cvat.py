"""CVAT for images 1.1: one XML with polygons, boxes, ellipses and masks of all images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from segcore.data.annotations.drawing import Shape, box_points, ellipse_points, polygons, runs
from segcore.data.annotations.pictures import Annotations, ImageFinder, Picture, output_name, sorted_classes
from segcore.errors import InputError

_Element = ElementTree.Element


def read(source: Path, images: Path | None, _: Path | None) -> Annotations:
    """Read an annotations.xml, or the folder of it.

    Shapes are in the order of their z_order. Classes are the labels of the task, in its order and colors.

    Args:
        images: folder of the images; None is the one beside the XML called images, else the XML's own.

    Raises:
        InputError: if it is no such file, or names an image that is missing.
    """
    file = source / "annotations.xml" if source.is_dir() else source
    try:
        root = ElementTree.parse(file).getroot()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except ElementTree.ParseError as error:
        raise InputError(f"{file} is not readable as XML: {error}") from error
    if root.find("track") is not None:
        raise InputError(f"{file} is in the form for videos; export it from CVAT as 'CVAT for images 1.1'")
    beside = file.parent / "images"
    find = ImageFinder(images or (beside if beside.is_dir() else file.parent))
    result = Annotations([], [])
    for element in root.iter("image"):
        try:
            result.pictures.append(_picture(element, find, result))
        except (KeyError, ValueError) as error:
            raise InputError(f"{file}: the image {element.get('name')} is not in CVAT's form: {error!r}") from error
    if not result.pictures:
        raise InputError(f"{file} holds no image; export it from CVAT as 'CVAT for images 1.1'")
    labels = [(label.findtext("name", ""), label.findtext("color", "")) for label in root.iter("label")]
    areas = {shape.name for picture in result.pictures for shape in picture.shapes}
    result.classes = [name for name, _ in labels] if areas <= {name for name, _ in labels} else []
    if result.classes and all(len(color) == 7 for _, color in labels):
        result.colors = [(int(c[1:3], 16), int(c[3:5], 16), int(c[5:7], 16)) for _, c in labels]
    result.classes = result.classes or sorted_classes(result.pictures)
    return result


def _picture(element: _Element, find: ImageFinder, result: Annotations) -> Picture:
    values = element.attrib
    found: list[tuple[int, Shape]] = []
    for child in element:
        rings = list(_rings(child))
        if child.tag == "mask":
            box = (int(child.attrib["left"]), int(child.attrib["top"]))
            sides = (int(child.attrib["width"]), int(child.attrib["height"]))
            counts = [int(word) for word in child.attrib["rle"].split(",")]
            shape = Shape(child.attrib["label"], runs, (counts, (*box, *sides), False))
        elif rings:
            shape = Shape(child.attrib["label"], polygons, (rings,))
        else:
            result.skipped[child.tag] += child.tag != "tag"
            continue
        found.append((int(child.get("z_order", "0")), shape))
    shapes = tuple(shape for _, shape in sorted(found, key=lambda entry: entry[0]))  # stable
    size = (int(values["height"]), int(values["width"]))
    return Picture(output_name(values["name"]), find(values["name"]), size, shapes)


def _rings(child: _Element) -> Iterator[list[float]]:
    """Yield the outline of a shape; none of masks, points and lines."""
    values = child.attrib
    turn = float(values.get("rotation", 0))
    if child.tag == "polygon":
        yield [float(word) for point in values["points"].split(";") for word in point.split(",")]
    elif child.tag == "box":
        left, top, right, bottom = (float(values[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        yield box_points(left, top, right - left, bottom - top, turn, about_center=True)
    elif child.tag == "ellipse":
        x, y, across, down = (float(values[name]) for name in ("cx", "cy", "rx", "ry"))
        yield ellipse_points(x, y, across, down, turn)
