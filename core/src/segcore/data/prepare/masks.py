"""Pascal Context masks of PyTorch-Encoding (`train.pth`, `val.pth`): image number -> map of the 60 labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segcore.data.labels import load_metadata
from segcore.data.prepare.runner import Job
from segcore.errors import InputError

_YEAR_DIGITS = 4


def read_masks(files: Sequence[Path], folder: Path) -> tuple[list[Job], dict[str, list[str]]]:
    """Return the label files to write into a folder, and the sorted stems of each file's split.

    Args:
        files: `train.pth`, `val.pth`; the name is the split.

    Raises:
        InputError: if a file holds something else, or more than tensors, arrays and Pillow images.
    """
    jobs: list[Job] = []
    stems: dict[str, list[str]] = {}
    for path in files:
        if path.stem not in ("train", "val"):
            raise InputError(f"{path}: expected the name train.pth or val.pth, which says the split")
        names: list[str] = []
        for number, mask in _load(path).items():
            digits = str(number)
            names.append(f"{digits[:_YEAR_DIGITS]}_{digits[_YEAR_DIGITS:]}")
            jobs.append(Job(folder / f"{names[-1]}.png", relabel_mask, (mask, f"{path}, image {digits}")))
        stems[path.stem] = sorted(names)
    return jobs, stems


def _load(path: Path) -> Mapping[int, Any]:
    from torch.serialization import safe_globals  # torch loads only for this kind of file

    from segcore.weights.torch_files import read_torch_file

    with safe_globals([Image.Image]):  # pixels only: its pickled state runs no code
        content = read_torch_file(path)
    if not isinstance(content, Mapping) or not content or not all(str(key).isdigit() for key in content):
        raise InputError(f"{path}: expected a table of image number -> mask, got {type(content).__name__}")
    return content


def relabel_mask(mask: Any, place: str) -> np.ndarray:
    """Return a stored mask, a Pillow image, an array or a tensor, as (H, W) uint8 labels 0..59.

    Raises:
        InputError: if it is no label map or holds other values; the message names `place`.
    """
    label = np.asarray(mask)
    num_labels = len(load_metadata("pascal_context_60")["classes"])
    if label.ndim != 2 or not np.issubdtype(label.dtype, np.integer):
        raise InputError(f"{place}: expected a map of labels, got shape {label.shape} of {label.dtype}")
    unknown = np.unique(label[(label < 0) | (label >= num_labels)])
    if len(unknown):
        values = ", ".join(map(str, unknown[:5]))
        raise InputError(f"{place}: the unknown label id {values}; expected 0 to {num_labels - 1}")
    return label.astype(np.uint8)
