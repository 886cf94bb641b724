"""8-bit ONNX files by onnxruntime's static quantization, calibrated on images, and what it costs in mIoU."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segcore.build import BuiltModel
from segcore.data.folder import ALL, FolderDataset, split_folders
from segcore.data.listing import IMAGE_SUFFIXES, find_files
from segcore.data.read import read_image
from segcore.errors import InputError
from segcore.evaluation.inference import network_input, predict_labels, views
from segcore.evaluation.metrics import ConfusionMatrix
from segcore.export.form import ExportedNetwork, Form
from segcore.export.onnx_file import check_installed, open_session
from segcore.export.program import largest_image
from segcore.export.write import exported_bytes
from segcore.files import atomic_write
from segcore.images.transforms import MEAN, STD
from segcore.recipe import Recipe
from segcore.segmentor import Size

_MOST_IMAGES = 100
"""Images that calibrate; ranges change little after."""
_OPERATORS = ["Conv", "MatMul", "Gemm"]
"""What is computed in 8 bits: nearly all of the work. Norms, softmax and IIWA's matching keep float."""


class OnnxNetwork(nn.Module):
    """A session as a network that inference can run: normalized images -> logits of the image's size.

    Class numbers become logits of 0 and 1.
    """

    def __init__(self, content: bytes, form: Form, num_classes: int) -> None:
        super().__init__()
        self.session, self.form, self.num_classes = open_session(content), form, num_classes

    def forward(self, image: Tensor) -> Tensor:
        (values,) = self.session.run(None, {"image": as_input(image, self.form)})
        if self.form.output == "logits":
            return torch.from_numpy(values)
        label = torch.from_numpy(values.astype(np.int64))
        return nn.functional.one_hot(label, self.num_classes).permute(0, 3, 1, 2).float()


def as_input(image: Tensor, form: Form) -> np.ndarray:
    """Return what a graph of a form takes of a normalized image (B, 3, H, W)."""
    if not form.normalize:
        return image.numpy()
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return (image * std + mean).round().clamp(0, 255).to(torch.uint8).numpy()


def export_int8(built: BuiltModel, path: Path, form: Form, folder: Path) -> None:
    """Write an 8-bit ONNX file, and print sizes and, where the folder has masks, mIoU before and after.

    Raises:
        InputError: see `segcore.export.write.export`; also for a folder without images, or with other classes.
    """
    check_installed()
    names = calibration_images(folder)
    dataset = labeled_images(built, folder)
    content = exported_bytes(built.model, form, "onnx")
    most = largest_image(ExportedNetwork(built.model, form)) or (2**15, 2**15)
    small = quantized(content, form, built.recipe, names, most)
    with atomic_write(path) as file:
        file.write(small)
    print(f"{len(content) / 2**20:.1f} MiB before, {len(small) / 2**20:.1f} MiB in 8 bits, {len(names)} images")
    if dataset is not None:
        before, after = (_miou(part, form, built, dataset) for part in (content, small))
        print(f"mIoU {100 * before:.2f} % before, {100 * after:.2f} % in 8 bits, {len(dataset)} images")


def calibration_images(folder: Path) -> list[Path]:
    """Return the images of a folder, or of a folder of own data, evenly chosen where there are many.

    Raises:
        InputError: if there are none.
    """
    inner = folder / "images" if (folder / "images").is_dir() else folder
    found = [inner / name for name in find_files(inner, IMAGE_SUFFIXES)]
    if not found:
        raise InputError(f"--int8 {folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none")
    return found[:: max(len(found) // _MOST_IMAGES, 1)][:_MOST_IMAGES]


def labeled_images(built: BuiltModel, folder: Path) -> FolderDataset | None:
    """Return the labeled images of a folder of own data, None where it has no masks.

    Raises:
        InputError: if it has other classes than the network.
    """
    if not (folder / "masks").is_dir():
        return None
    dataset = FolderDataset(folder, "val" if "val" in split_folders(folder) else ALL)
    if list(dataset.classes.names) != built.meta.classes:
        raise InputError(f"--int8 {folder} has other classes than the checkpoint; leave masks/ out, or give its data")
    return dataset


def _inputs(names: list[Path], form: Form, recipe: Recipe, most: Size) -> Iterator[dict[str, np.ndarray]]:
    """Yield what the network sees of the images in the recipe's test, of large ones the part that it takes."""
    protocol = replace(recipe.evaluate, flip=False, ratios=(1.0,))
    for name in names:
        view = views(read_image(name, max_pixels=recipe.data.max_pixels), protocol)[0]
        image, _ = network_input(view, protocol, torch.device("cpu"))
        yield {"image": as_input(image[..., : most[0], : most[1]], form)}


def quantized(content: bytes, form: Form, recipe: Recipe, names: list[Path], most: Size) -> bytes:
    """Return an ONNX file in 8 bits (weights per channel, activations by their range over the images)."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs = _inputs(names, form, recipe, most)

        def get_next(self) -> Any:
            return next(self.inputs, None)

    logging.getLogger().addFilter(_is_ours)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
            source.write_bytes(content)
            quantize_static(
                source,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=_OPERATORS,
            )
            return target.read_bytes()
    finally:
        logging.getLogger().removeFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    """Leave out the advice of onnxruntime's quantization, which it gives through the root logger."""
    return "pre-processing" not in record.getMessage()


def _miou(content: bytes, form: Form, built: BuiltModel, dataset: FolderDataset) -> float:
    """Return the mIoU of an ONNX file in the recipe's test, single scale."""
    network = OnnxNetwork(content, form, len(built.meta.classes))
    protocol = replace(built.recipe.evaluate, flip=False, ratios=(1.0,))
    matrix = ConfusionMatrix(len(built.meta.classes))
    for sample in (dataset[i] for i in range(len(dataset))):
        assert sample.label is not None
        size = (sample.image.shape[0], sample.image.shape[1])
        label = predict_labels(network, views(sample.image, protocol), protocol, size)
        matrix.update(label, torch.from_numpy(sample.label))
    return matrix.scores().miou
