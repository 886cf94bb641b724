"""`segcore export`: a trained network as an ONNX file or a torch.export program (.pt2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segcore.commands.parsing import parse_options
from segcore.errors import check
from segcore.recipe.ranges import NOT_NEGATIVE, check_ranges
from segcore.weights.header import require_checkpoint

_DESCRIPTION = """Write the network of a checkpoint as one file that needs no segcore: ONNX (OUT.onnx) or a torch.export
program (OUT.pt2), for images of any size and any batch. Classes, palette, recipe and the rules of the input are inside.
The file is compared with the network at three sizes before it is written. Input: normalized RGB (B, 3, H, W); output:
class logits (B, K, H, W)."""
_SUFFIXES = (".onnx", ".pt2")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """Weights of ours (.safetensors)."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """File to write: .onnx or .pt2."""
    height: Annotated[int, NOT_NEGATIVE] = 0
    """The one height of the images, pixels; 0 takes any."""
    width: Annotated[int, NOT_NEGATIVE] = 0
    """The one width of the images, pixels; 0 takes any."""
    normalize: bool = False
    """Normalize inside: the input is RGB bytes, uint8 (B, 3, H, W)."""
    argmax: bool = False
    """Class numbers (B, H, W) in place of logits."""
    int8: str = ""
    """Folder of images (or of own data: images/, masks/, classes.txt): write an 8-bit network, calibrated on them.
    Where there are masks, mIoU before and after is printed. ONNX only."""

    def __post_init__(self) -> None:
        check(self.out.suffix in _SUFFIXES, f"{self.out}: expected OUT to end with .onnx or .pt2")
        check_ranges(self)
        check((self.height > 0) == (self.width > 0), "--height and --width go together; leave both out for any size")
        check(not self.int8 or self.out.suffix == ".onnx", f"--int8 writes ONNX, {self.out} is not; end it with .onnx")
        check(not (self.int8 and self.height), "--int8 writes networks for any size; leave out --height and --width")
        check(not self.int8 or Path(self.int8).is_dir(), f"--int8 {self.int8} is no folder; give one with images")


def main(words: list[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        InputError: for a checkpoint that cannot be read, impossible options, a missing extra, or a network that cannot
            be expressed.
    """
    options = parse_options("segcore export", _DESCRIPTION, ExportOptions, words)
    require_checkpoint(options.checkpoint)
    from segcore.build import build_from_checkpoint  # torch loads only here, so --help is instant
    from segcore.export.form import Form, largest_size
    from segcore.export.int8 import export_int8
    from segcore.export.write import export

    built = build_from_checkpoint(options.checkpoint)
    size = (options.height, options.width) if options.height else None
    output: Literal["logits", "label"] = "label" if options.argmax else "logits"
    form = Form(size=size, normalize=options.normalize, output=output)
    most = largest_size(built.model)
    if most:
        print(f"{built.meta.paper} takes images of at most {most[0]} x {most[1]} pixels; cut larger ones into windows")
    if options.int8:
        export_int8(built, options.out, form, Path(options.int8))
    else:
        export(built.model, options.out, form)
    print(f"wrote {options.out} for images of {f'{size[0]} x {size[1]} pixels' if size else 'any size'}")
    return 0
