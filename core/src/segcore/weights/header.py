"""What one of our weights files says about itself, read from its header without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors
from msgspec import Meta

from segcore.errors import InputError, check
from segcore.recipe.plain import from_json

SUFFIX = ".safetensors"
PRETRAINED = f"model{SUFFIX}"
"""Name of the file in a folder or repository of `save_pretrained`."""
_RUN = (f"best{SUFFIX}", f"last{SUFFIX}")
META_ENTRY = "segcore"
"""Of the header: the JSON text of a `CheckpointMeta`."""
Color = Annotated[list[Annotated[int, Meta(ge=0, le=255)]], Meta(min_length=3, max_length=3)]


@dataclass(frozen=True, kw_only=True)
class CheckpointMeta:
    """What a weights file says about itself; plain data."""

    paper: str
    recipe_name: str
    recipe: dict[str, Any]
    """Resolved recipe, as `segcore.recipe.to_plain` gives it."""
    classes: list[str]
    palette: list[Color]
    """RGB color of each class, 0-255."""
    iteration: int
    scores: dict[str, float]
    """Of the last validation; empty where there was none."""
    versions: dict[str, str]
    """See `segcore.weights.files.run_versions`."""

    def __post_init__(self) -> None:
        check(
            len(self.palette) == len(self.classes),
            f"it names {len(self.classes)} classes and {len(self.palette)} colors; expected one color for each",
        )


def require_checkpoint(path: Path) -> None:
    """Raise an `InputError` where there is no such file."""
    check(path.is_file(), f"the checkpoint {path} does not exist; give the path of a {SUFFIX} or .pth file")


def find_weights(folder: Path) -> Path:
    """Return the weights in a folder: those of `save_pretrained`, or the best ones of a run, else the last ones.

    Raises:
        InputError: if it has none.
    """
    for name in (PRETRAINED, *_RUN):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder} has no weights: none of {PRETRAINED}, {' and '.join(_RUN)}")


def damaged(path: Path, error: Exception) -> InputError:
    """Return the sentence about a file that safetensors or the system refuses to read."""
    if isinstance(error, OSError):
        return InputError(f"cannot read {path}: {error.strerror or error}")
    return InputError(f"{path} is truncated or no safetensors file ({error}); copy or download it again")


def parse_meta(header: Mapping[str, str], path: Path) -> CheckpointMeta | None:
    """Return what the header of a safetensors file says; None for a file that is not ours."""
    return from_json(CheckpointMeta, header[META_ENTRY], f"{path}: header") if META_ENTRY in header else None


def read_meta(path: Path) -> CheckpointMeta | None:
    """Return what a checkpoint says about itself; None for published ones, which do not.

    Raises:
        InputError: if the file is absent or damaged.
    """
    require_checkpoint(path)
    if path.suffix != SUFFIX:
        return None
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return parse_meta(file.metadata() or {}, path)
    except (safetensors.SafetensorError, OSError) as error:
        raise damaged(path, error) from error
