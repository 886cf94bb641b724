"""`segcore export`: a trained network as a torch.export program (.pt2) or an ONNX file."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from segcore.commands.parsing import parse_options
from segcore.errors import InputError, check
from segcore.files import atomic_write
from segcore.recipe.ranges import AT_LEAST_1, check_ranges
from segcore.weights.header import require_checkpoint

if TYPE_CHECKING:
    from torch import nn

_DESCRIPTION = """Write the network of a checkpoint as one file that needs no segcore: a torch.export program (OUT.pt2)
or ONNX (OUT.onnx). Input: normalized RGB (B, 3, HEIGHT, WIDTH) with any batch size; output: class logits at the head's
stride."""
_KINDS: dict[str, Literal["pt2", "onnx"]] = {".pt2": "pt2", ".onnx": "onnx"}


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """Weights of ours (.safetensors)."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """File to write: .pt2 or .onnx."""
    height: Annotated[int, AT_LEAST_1] = 512
    """Height of the input, pixels."""
    width: Annotated[int, AT_LEAST_1] = 512
    """Width of the input, pixels."""

    def __post_init__(self) -> None:
        check(self.out.suffix in _KINDS, f"{self.out}: expected OUT to end with .pt2 or .onnx")
        check_ranges(self)


def main(words: list[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        InputError: for a checkpoint that cannot be read, an unknown suffix, or a missing extra.
    """
    options = parse_options("segcore export", _DESCRIPTION, ExportOptions, words)
    require_checkpoint(options.checkpoint)
    from segcore.build import build_from_checkpoint  # torch loads only here, so --help is instant

    built = build_from_checkpoint(options.checkpoint)
    export(built.model, (options.height, options.width), options.out, _KINDS[options.out.suffix])
    print(f"wrote {options.out} for inputs of {options.height} x {options.width} pixels")
    return 0


def export(model: nn.Module, size: tuple[int, int], path: Path, kind: Literal["pt2", "onnx"]) -> None:
    """Write a network, in evaluation mode, for one input size and any batch size.

    Args:
        size: height and width of the input, pixels.

    Raises:
        InputError: if the file cannot be written, or the extra for ONNX is not installed.
    """
    import torch  # only here, so --help is instant

    if kind == "onnx":
        missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            names = " and ".join(missing)
            raise InputError(f"ONNX export needs {names}; install the extra: pip install 'segcore[onnx]'")
    was_training = model.training
    model.eval()
    try:
        weight = next(model.parameters())
        example = torch.zeros(2, 3, *size, dtype=weight.dtype, device=weight.device)  # 1 would be fixed as a constant
        program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        with atomic_write(path) as file:
            if kind == "pt2":
                torch.export.save(program, file)  # pyright: ignore[reportArgumentType] - any binary file does
            else:
                program = torch.onnx.export(
                    program, dynamo=True, input_names=["image"], output_names=["logits"], verbose=False
                )
                assert program is not None
                file.write(program.model_proto.SerializeToString())
    finally:
        model.train(was_training)
