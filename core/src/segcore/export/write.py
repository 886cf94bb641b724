"""Write a network for another runtime: made, compared with the network, and only then a file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Literal

import torch

from segcore.export.form import ExportedNetwork, Form
from segcore.export.onnx_file import check_installed, metadata_of, onnx_bytes, open_session, runner
from segcore.export.program import Part, check_values, evaluating, example_of, program_of
from segcore.files import atomic_write
from segcore.segmentor import Segmentor, size_of

Kind = Literal["pt2", "onnx"]
KINDS: dict[str, Kind] = {".pt2": "pt2", ".onnx": "onnx"}


def export(model: Segmentor, path: Path, form: Form | None = None) -> None:
    """Write a network, in evaluation mode, as what the suffix says: .pt2 (torch.export) or .onnx.

    Raises:
        InputError: if the file cannot be written, the extra for ONNX is not installed, the network cannot be expressed,
            or what came out gives other values than the network.
    """
    kind = KINDS[path.suffix]
    if kind == "onnx":
        check_installed()
    content = exported_bytes(model, form or Form(), kind)
    with atomic_write(path) as file:
        file.write(content)


def exported_bytes(model: Segmentor, form: Form, kind: Kind) -> bytes:
    """Return the content of a checked file, see `export`."""
    with evaluating(model):
        network = ExportedNetwork(model, form).eval()
        meta = model.origin.meta if model.origin else None
        metadata = metadata_of(network, meta)
        if kind == "pt2":
            return _pt2_bytes(network, metadata)
        content = onnx_bytes(network, metadata)
        check_values(network, runner(open_session(content)), "the ONNX graph")
        return content


def _pt2_bytes(network: ExportedNetwork, metadata: dict[str, str]) -> bytes:
    """Return a torch.export program, which takes images of legal sizes only, and is compared at those."""
    axes = {0: "batch"} if network.form.size else {0: "batch", 2: "height", 3: "width"}
    image = network.example(network.padded(*size_of(example_of(network))))
    program = program_of(Part(network, network.of_legal), (image,), [axes])
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"metadata.json": json.dumps(metadata)})
    buffer.seek(0)
    module = torch.export.load(buffer).module()

    def run(image: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode():
            return list(module(image))

    check_values(network, run, "the exported program", is_padded=True)
    return buffer.getvalue()
