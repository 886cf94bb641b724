"""Write the folder of the page: the page itself, the networks, pictures to check and to try them with, the runtime."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np
import torch

from segcore.build import BuiltModel, build_from_checkpoint
from segcore.data.listing import IMAGE_SUFFIXES, find_files
from segcore.data.read import read_image
from segcore.data.toy.dataset import ToyScenes
from segcore.errors import InputError
from segcore.evaluation.metrics import ConfusionMatrix
from segcore.export.form import ExportedNetwork, Form
from segcore.export.int8 import calibration_images, labeled_images, quantized
from segcore.export.onnx_file import check_installed, open_session
from segcore.export.program import largest_image
from segcore.export.write import exported_bytes
from segcore.files import make_folder, unfinished_name, writing
from segcore.opencv import cv2
from segcore.paper import load_paper
from segcore.predictor import Predictor
from segcore.recipe import Evaluate
from segcore.web.answer import PageNetwork
from segcore.web.manifest import MANIFEST, Example, Golden, Manifest, Network, Protocol, Runtime, is_page_folder
from segcore.web.runtime import FILES, VERSION, copy_runtime

MOST_DIFFERING = 1e-3
"""Share of the pixels that may differ in a golden picture: two classes equally likely but for rounding."""
_EXAMPLES = 5
_SCENE = (240, 320)
_LONGEST_EXAMPLE, _LONGEST_GOLDEN = 1280, 480
_MOST_CLASSES = 255
_WRITTEN = (
    *(MANIFEST, "index.html", "*.css", "*.js", "*.onnx", "*.golden.png", "*.golden-labels.png"),
    *("examples/?.png", "runtime/ort*", "runtime/LICENSE"),
)
"""What a page consists of, also one of another version."""


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """What goes into the folder.

    Attributes:
        runtime: an unpacked onnxruntime-web of npm; None leaves it where a content network has it.
        examples: folder of pictures to try; None draws scenes.
        int8: folder of images that calibrate an 8-bit network beside each; with masks its mIoU is measured.
    """

    runtime: Path | None = None
    examples: Path | None = None
    int8: Path | None = None


def write_page_folder(checkpoints: Sequence[Path], folder: Path, options: PageOptions) -> Manifest:
    """Write the folder, whole or not at all; an earlier page there is replaced.

    Raises:
        InputError: if the folder holds anything else, a checkpoint or picture cannot be read, a network cannot be
            expressed, or its graph does not answer as `Predictor` does.
    """
    check_installed()
    check_replaceable(folder)
    make_folder(folder.absolute().parent, "--web")
    unfinished = unfinished_name(folder.absolute())
    with writing(unfinished):
        unfinished.mkdir()
    try:
        manifest = _write(checkpoints, unfinished, options)
        with writing(folder):
            if folder.exists():
                shutil.rmtree(folder)
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return manifest


def check_replaceable(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier page.

    Raises:
        InputError: naming it.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--web {folder} is a file; give a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not is_page_folder(folder):
        raise InputError(f"--web {folder} holds something else than an earlier page; give another folder")
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        is_ours = any(len(inner.parts) == len(Path(form).parts) and inner.match(form) for form in _WRITTEN)
        if not is_ours and (path.is_symlink() or not path.is_dir()):
            raise InputError(f"--web {folder} holds {inner.as_posix()} beside an earlier page; give another folder")


def _write(checkpoints: Sequence[Path], folder: Path, options: PageOptions) -> Manifest:
    """Write all files into a new folder."""
    for file in files("segcore.web").joinpath("page").iterdir():
        if file.is_file():
            _save(folder / file.name, file.read_bytes())
    runtime = Runtime(VERSION, copy_runtime(options.runtime, folder), FILES)
    pictures = _examples(options.examples)
    examples = [Example(f"examples/{i + 1}.png", name) for i, (name, _) in enumerate(pictures)]
    for example, (_, pixels) in zip(examples, pictures, strict=True):
        _save(folder / example.file, _png(pixels))
    golden = _shrunk(pictures[0][1], _LONGEST_GOLDEN)
    networks: list[Network] = []
    for checkpoint in checkpoints:
        networks += _Exporter(checkpoint, golden, {network.name for network in networks}).write(folder, options.int8)
    manifest = Manifest(runtime, examples, networks)
    _save(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def _examples(folder: Path | None) -> list[tuple[str, np.ndarray]]:
    """Return names and pixels (H, W, 3) uint8 BGR of the pictures to try."""
    if folder is None:
        scenes = ToyScenes("test", _EXAMPLES, _SCENE)
        return [(f"generated scene {i + 1}", scenes.load(i).image) for i in range(_EXAMPLES)]
    names = find_files(folder, IMAGE_SUFFIXES)[:_EXAMPLES] if folder.is_dir() else []
    if not names:
        raise InputError(f"--examples {folder}: expected a folder of images ({', '.join(IMAGE_SUFFIXES)})")
    return [(Path(name).stem, _shrunk(read_image(folder / name), _LONGEST_EXAMPLE)) for name in names]


def _shrunk(pixels: np.ndarray, longest: int) -> np.ndarray:
    factor = longest / max(pixels.shape[:2])
    return pixels if factor >= 1 else cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


class _Exporter:
    """Writes a checkpoint's networks: as it is, and in 8 bits.

    Args:
        golden: (H, W, 3) uint8 BGR.
        taken: names of other networks.
    """

    def __init__(self, checkpoint: Path, golden: np.ndarray, taken: set[str]) -> None:
        self.checkpoint, self.golden = checkpoint, golden
        self.built = build_from_checkpoint(checkpoint)
        meta, recipe = self.built.meta, self.built.recipe
        self.protocol = replace(recipe.evaluate, flip=False, ratios=(1.0,))
        self.form = _form(checkpoint, self.protocol, len(meta.classes))
        self.name = _free_name(f"{meta.paper}-{meta.recipe_name}", taken)

    def write(self, folder: Path, images: Path | None) -> list[Network]:
        """Write graphs and golden pictures; returns what the page has to know of each."""
        if images is not None:  # refused before the minutes that an export may take
            calibration_images(images)
            labeled_images(self.built, images)
        content = exported_bytes(self.built.model, self.form, "onnx")
        page = PageNetwork(open_session(content), self.protocol)
        labels = self._verified(page)
        if images is None:
            return [self._network(folder, content, labels, page)]
        small = _in_8_bits(self.built, content, self.form, images)
        small_page = PageNetwork(open_session(small), self.protocol)
        before, after = _mious(self.built, images, (page, small_page))
        float_network = self._network(folder, content, labels, page, miou=before)
        quantized_labels = small_page.labels(self.golden)
        return [float_network, self._network(folder, small, quantized_labels, small_page, miou=after, is_int8=True)]

    def _verified(self, page: PageNetwork) -> np.ndarray:
        """Return `Predictor`'s label map of the golden picture, which the graph must give too."""
        predictor = replace(Predictor.from_checkpoint(self.checkpoint, device="cpu"), protocol=self.protocol, amp="off")
        expected = predictor(self.golden).label
        share = float(np.mean(page.labels(self.golden) != expected))
        if share > MOST_DIFFERING:
            raise InputError(
                f"{self.checkpoint}: the exported graph labels {100 * share:.2f} % of a picture's pixels otherwise "
                "than the network; it is not written. Please report this with the checkpoint's recipe"
            )
        return expected

    def _network(
        self,
        folder: Path,
        content: bytes,
        labels: np.ndarray,
        page: PageNetwork,
        *,
        miou: float | None = None,
        is_int8: bool = False,
    ) -> Network:
        meta, recipe = self.built.meta, self.built.recipe
        name = f"{self.name}.int8" if is_int8 else self.name
        golden = Golden(f"{self.name}.golden.png", f"{name}.golden-labels.png")
        _save(folder / f"{name}.onnx", content)
        _save(folder / golden.image, _png(self.golden))
        _save(folder / golden.labels, _png(labels))
        started = time.perf_counter()
        page.labels(self.golden)
        return Network(
            name=name,
            title=load_paper(meta.paper).title,
            paper=meta.paper,
            recipe=meta.recipe_name,
            backbone=recipe.model.backbone,
            file=f"{name}.onnx",
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            precision="int8" if is_int8 else "float32",
            of=self.name if is_int8 else None,
            classes=list(meta.classes),
            palette=[list(color) for color in meta.palette],
            protocol=protocol_rules(self.protocol),
            parameters=sum(parameter.numel() for parameter in self.built.model.parameters()),
            miou=miou,
            seconds=time.perf_counter() - started,
            golden=golden,
        )


def _form(checkpoint: Path, protocol: Evaluate, num_classes: int) -> Form:
    """Return what the graph does of the test's rules: padding and normalization.

    Raises:
        InputError: if the page could not follow the rest.
    """
    if num_classes > _MOST_CLASSES:
        raise InputError(f"{checkpoint} has {num_classes} classes; the page shows at most {_MOST_CLASSES}")
    if protocol.mode == "slide" and protocol.pad_divisor:
        raise InputError(f"{checkpoint}: the page cannot pad by --evaluate.pad-divisor and slide windows; set it to 0")
    padded = protocol.crop if protocol.mode == "slide" and protocol.pad_window else None
    return Form(normalize=True, output="coarse", padded=padded, divisor=max(protocol.pad_divisor, 1))


def protocol_rules(protocol: Evaluate) -> Protocol:
    """Return the part of a test's rules that the page follows."""
    return Protocol(
        family=protocol.family,
        mode=protocol.mode,
        scale=protocol.scale,
        keep_ratio=protocol.keep_ratio,
        resize_divisor=protocol.resize_divisor,
        crop=protocol.crop,
        stride=protocol.stride,
        probabilities=protocol.probabilities,
    )


def _in_8_bits(built: BuiltModel, content: bytes, form: Form, images: Path) -> bytes:
    most = largest_image(ExportedNetwork(built.model, form)) or (2**15, 2**15)
    return quantized(content, form, built.recipe, calibration_images(images), most)


def _mious(built: BuiltModel, images: Path, pages: Sequence[PageNetwork]) -> list[float | None]:
    """Return the mIoU of each network on the labeled images of a folder, None where it has no masks."""
    dataset = labeled_images(built, images)
    if dataset is None:
        return [None] * len(pages)
    matrices = [ConfusionMatrix(len(built.meta.classes)) for _ in pages]
    for sample in (dataset[i] for i in range(len(dataset))):
        assert sample.label is not None
        for page, matrix in zip(pages, matrices, strict=True):
            matrix.update(torch.from_numpy(page.labels(sample.image)), torch.from_numpy(sample.label))
    return [matrix.scores().miou for matrix in matrices]


def _free_name(wanted: str, taken: set[str]) -> str:
    """Return a name for files that no other network has."""
    name = re.sub(r"[^a-z0-9-]+", "-", wanted.lower()).strip("-")
    number = 1
    while (name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    return name if number == 1 else f"{name}-{number}"


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def _save(path: Path, content: bytes) -> None:
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
