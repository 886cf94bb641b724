"""What the page reads first: its networks, their rules, examples and runtime, as plain data (manifest.json)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from segcore import __version__

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Runtime:
    """Where ONNX Runtime Web is.

    Attributes:
        base: address of its files; relative to the page, or of a content network.
        files: their names and hashes, which the page checks before it runs them.
    """

    version: str
    base: str
    files: dict[str, str]


@dataclass(frozen=True)
class Example:
    """A picture to try."""

    file: str
    name: str


@dataclass(frozen=True)
class Golden:
    """A picture and the label map that the network must give for it."""

    image: str
    labels: str


@dataclass(frozen=True)
class Protocol:
    """The rules of a test that are outside of the graph, see `segcore.recipe.Evaluate`."""

    family: str
    mode: str
    scale: tuple[int, int]
    keep_ratio: bool
    resize_divisor: int
    crop: tuple[int, int]
    stride: tuple[int, int]
    probabilities: bool


@dataclass(frozen=True)
class Network:
    """One exported network.

    Attributes:
        bytes, sha256: of the file.
        of: int8: name of the float32 network that it was made of.
        palette: RGB of every class.
        parameters: of the network, M not.
        miou: of the images of --int8 with masks, 0 to 1.
        seconds: golden picture to label map with onnxruntime on the CPU of the machine that exported it.
    """

    name: str
    title: str
    paper: str
    recipe: str
    backbone: str
    file: str
    bytes: int
    sha256: str
    precision: str
    of: str | None
    classes: list[str]
    palette: list[list[int]]
    protocol: Protocol
    parameters: int
    miou: float | None
    seconds: float
    golden: Golden


@dataclass(frozen=True)
class Manifest:
    """All of it."""

    runtime: Runtime
    examples: list[Example]
    networks: list[Network]
    version: int = 1
    segcore: str = field(default=__version__)


def is_page_folder(folder: Path) -> bool:
    """Tell whether a folder holds a page of ours: other pages have files of these names too."""
    try:
        msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return False
    return (folder / "index.html").is_file()
