"""Every paper's network leaves as ONNX and as torch.export program, for images of any size, and stays the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from segcore.export.form import Form
from segcore.export.onnx_file import open_session
from segcore.export.write import export
from segcore.models import create_model
from segcore.paper import Paper
from segcore.segmentor import Segmentor

SIZES = ((1, 96, 160), (2, 75, 131), (1, 192, 50))


def _network(paper: Paper) -> Segmentor:
    """Return the toy network with weights and statistics that differ from tensor to tensor."""
    torch.manual_seed(0)
    model = create_model(f"{paper.name}-toy").eval()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "bias", "gamma", "memory.rows")):
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    return model


def _image(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height))


def test_onnxruntime_gives_the_networks_logits_at_any_size(paper: Paper, tmp_path: Path) -> None:
    model = _network(paper)
    export(model, tmp_path / "m.onnx", Form())
    session = open_session((tmp_path / "m.onnx").read_bytes())
    for size in SIZES:
        image = _image(*size)
        with torch.inference_mode():
            expected = model.logits(image)
        (logits,) = session.run(None, {"image": image.numpy()})
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-3 * float(expected.std()), rtol=0)


_LOAD = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
for name in sys.argv[2:]:
    image, expected = torch.load(name)
    torch.testing.assert_close(program(image)[0], expected, rtol=0, atol=1e-3 * float(expected.std()))
assert not any(name.split(".")[0] in ("segcore", "iiwa", "unept", "timm") for name in sys.modules)
"""


@pytest.mark.slow  # IIWA takes minutes
def test_a_program_needs_no_package_of_ours(paper: Paper, tmp_path: Path) -> None:
    model = _network(paper)
    export(model, tmp_path / "m.pt2", Form())
    names = []
    for size in ((1, 96, 160), (2, 64, 128), (1, 192, 64)):
        with torch.inference_mode():
            pair = (_image(*size), model.logits(_image(*size)).clone())
        torch.save(pair, tmp_path / f"{len(names)}.pt")
        names.append(str(tmp_path / f"{len(names)}.pt"))
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-c", _LOAD, str(tmp_path / "m.pt2"), *names]
    result = subprocess.run(words, env=bare, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_form_of_the_browser_page_equals_the_network(paper: Paper, tmp_path: Path) -> None:
    export(_network(paper), tmp_path / "m.onnx", Form(normalize=True, output="coarse"))  # compared when it is written
    assert (tmp_path / "m.onnx").stat().st_size > 0
