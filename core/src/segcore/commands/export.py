"""`segcore export`: trained networks as ONNX file, torch.export program (.pt2), or page that runs in browsers."""

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
class logits (B, K, H, W).

With --web FOLDER in place of OUT: a page that runs the networks of all checkpoints in the visitor's browser. Any static
host serves the folder; `segcore web FOLDER` shows it here."""
_SUFFIXES = (".onnx", ".pt2")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export."""

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CHECKPOINT OUT")]
    """Weights of ours (.safetensors) and the file to write, .onnx or .pt2; with --web one or more weights."""
    web: str = ""
    """Folder for a page that runs the networks in a browser; an earlier page there is replaced."""
    runtime: str = ""
    """With --web: an unpacked onnxruntime-web of npm, copied into the folder; else visitors load it from a content
    network, checked by its hash."""
    examples: str = ""
    """With --web: folder whose first five pictures are offered to try; else generated scenes."""
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
        check_ranges(self)
        check(not self.int8 or Path(self.int8).is_dir(), f"--int8 {self.int8} is no folder; give one with images")
        if self.web:
            self._check_web()
            return
        given = [name for name in ("runtime", "examples") if getattr(self, name)]
        check(not given, f"--{' and --'.join(given)} are for pages; add --web FOLDER")
        check(len(self.files) == 2, "expected CHECKPOINT OUT, or CHECKPOINT... --web FOLDER")
        check(self.out.suffix in _SUFFIXES, f"{self.out}: expected OUT to end with .onnx or .pt2")
        check((self.height > 0) == (self.width > 0), "--height and --width go together; leave both out for any size")
        check(not self.int8 or self.out.suffix == ".onnx", f"--int8 writes ONNX, {self.out} is not; end it with .onnx")
        check(not (self.int8 and self.height), "--int8 writes networks for any size; leave out --height and --width")

    def _check_web(self) -> None:
        fixed = [name for name in ("normalize", "argmax", "height", "width") if getattr(self, name)]
        check(not fixed, f"--{' and --'.join(fixed)} are for files; a page has its own form")
        check(len(self.files) > 0, "--web needs at least one CHECKPOINT")
        strange = [str(path) for path in self.files if path.suffix in _SUFFIXES]
        check(not strange, f"{' and '.join(strange)}: with --web all words are checkpoints")

    @property
    def checkpoint(self) -> Path:
        """The weights, without --web."""
        return self.files[0]

    @property
    def out(self) -> Path:
        """The file to write, without --web."""
        return self.files[1]


def main(words: list[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        InputError: for a checkpoint that cannot be read, impossible options, a missing extra, or a network that cannot
            be expressed.
    """
    options = parse_options("segcore export", _DESCRIPTION, ExportOptions, words)
    if options.web:
        _export_page(options)
        return 0
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


def _export_page(options: ExportOptions) -> None:
    for checkpoint in options.files:
        require_checkpoint(checkpoint)
    from segcore.web.folder import PageOptions, write_page_folder

    runtime, examples, int8 = (
        Path(word) if word else None for word in (options.runtime, options.examples, options.int8)
    )
    folder = Path(options.web)
    page = PageOptions(runtime=runtime, examples=examples, int8=int8)
    for network in write_page_folder(options.files, folder, page).networks:
        miou = "" if network.miou is None else f", mIoU {100 * network.miou:.2f} %"
        print(
            f"{network.name}: {network.precision}, {network.bytes / 2**20:.1f} MiB, {network.seconds:.2f} s here{miou}"
        )
    print(f"wrote {folder}; open it with: segcore web {folder}")
