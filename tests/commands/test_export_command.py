"""`segcore export`: options, what is written, what is refused."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch

from segcore import build
from segcore.commands.export import main
from segcore.commands.main import main as segcore_main
from segcore.data.toy.dataset import ToyScenes
from segcore.errors import InputError
from segcore.export.form import ExportedNetwork, Form
from segcore.export.onnx_file import open_session
from segcore.export.program import check_values
from segcore.export.write import export
from segcore.recipe.plain import to_plain
from segcore.weights.files import save_weights
from segcore.weights.header import CheckpointMeta
from tests.tiny_paper import PAPER, TinySegmentor

CLASSES = list(ToyScenes.classes.names)


def _model() -> TinySegmentor:
    torch.manual_seed(0)
    return TinySegmentor(4, len(CLASSES))


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights file of the tiny network with the classes of the generated scenes."""
    monkeypatch.setattr(build, "load_paper", lambda _: PAPER)
    meta = CheckpointMeta(
        paper="tiny",
        recipe_name="toy",
        recipe=to_plain(PAPER.recipes["toy"]),
        classes=CLASSES,
        palette=ToyScenes.classes.palette.tolist(),
        iteration=0,
        scores={},
        versions={},
    )
    save_weights(tmp_path / "w.safetensors", _model().state_dict(), meta)
    return tmp_path / "w.safetensors"


def _run(path: Path, image: torch.Tensor) -> np.ndarray:
    (output,) = open_session(path.read_bytes()).run(None, {"image": image.numpy()})
    return output


def test_the_command_exports_a_program_for_any_size_and_batch(weights: Path, tmp_path: Path) -> None:
    assert main([str(weights), str(tmp_path / "m.pt2")]) == 0
    extra = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=extra).module()
    assert json.loads(extra["metadata.json"])["paper"] == "tiny"
    for size in ((3, 16, 8), (1, 33, 57)):
        image = torch.ones(size[0], 3, *size[1:])
        torch.testing.assert_close(program(image)[0], _model().eval().logits(image))


def test_bytes_go_in_and_class_numbers_come_out(weights: Path, tmp_path: Path) -> None:
    assert main([str(weights), str(tmp_path / "m.onnx"), "--normalize", "--argmax"]) == 0
    pixels = torch.randint(0, 256, (2, 3, 37, 51), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    label = _run(tmp_path / "m.onnx", pixels)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    normalized = (pixels.float() - mean[:, None, None]) / std[:, None, None]
    expected = _model().eval().logits(normalized).argmax(dim=1)
    assert label.dtype == np.uint8
    assert (label == expected.numpy()).mean() > 0.999


def test_the_file_says_all_that_is_needed_to_use_it(weights: Path, tmp_path: Path) -> None:
    assert main([str(weights), str(tmp_path / "m.onnx"), "--normalize"]) == 0
    model = onnx.load(tmp_path / "m.onnx")
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["classes"]) == CLASSES
    assert json.loads(said["palette"]) == ToyScenes.classes.palette.tolist()
    assert json.loads(said["recipe"])["model"]["backbone"] == "stem"
    rules = json.loads(said["input"])
    assert (rules["channels"], rules["values"]) == ("RGB", "0 to 255, uint8")
    assert said["output"] == "logits"
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["image", "logits"]


def test_one_size_is_fixed_where_it_is_asked_for(weights: Path, tmp_path: Path) -> None:
    assert main([str(weights), str(tmp_path / "m.onnx"), "--height", "16", "--width", "24"]) == 0
    image = torch.ones(3, 3, 16, 24)
    np.testing.assert_allclose(_run(tmp_path / "m.onnx", image), _model().eval().logits(image).detach(), atol=1e-5)
    shape: Any = open_session((tmp_path / "m.onnx").read_bytes()).get_inputs()[0].shape
    assert shape[1:] == [3, 16, 24]


def _own_data(root: Path, count: int = 4) -> Path:
    scenes = ToyScenes("test", count, (48, 64))
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        sample = scenes[i]
        assert sample.label is not None
        cv2.imwrite(str(root / "images" / f"{i}.png"), sample.image)
        cv2.imwrite(str(root / "masks" / f"{i}.png"), sample.label)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def test_8_bits_say_what_they_cost(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = _own_data(tmp_path / "data")
    assert main([str(weights), str(tmp_path / "m.onnx"), "--int8", str(data)]) == 0
    printed = capsys.readouterr().out
    assert "MiB in 8 bits, 4 images" in printed
    assert "mIoU" in printed
    model = onnx.load(tmp_path / "m.onnx")
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    image = torch.randn(1, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    expected = _model().eval().logits(image).detach()
    # noise has brighter pixels than the scenes that calibrated: the mean, not the largest difference
    assert np.abs(_run(tmp_path / "m.onnx", image) - expected.numpy()).mean() < 0.1 * float(expected.std())


def test_images_without_masks_calibrate_and_nothing_is_scored(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _own_data(tmp_path / "data", 2) / "images"
    assert main([str(weights), str(tmp_path / "m.onnx"), "--int8", str(data), "--normalize", "--argmax"]) == 0
    printed = capsys.readouterr().out
    assert "2 images" in printed
    assert "mIoU" not in printed


def test_a_network_is_left_in_its_mode(tmp_path: Path) -> None:
    model = _model().train()
    export(model, tmp_path / "m.onnx", Form())
    assert model.training


def test_an_absent_onnx_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs onnx and onnxscript and onnxruntime; .*pip install 'segcore\[onnx\]'"):
        export(_model(), tmp_path / "m.onnx")


class _Jumping(TinySegmentor):
    """Gives other logits of images near a certain one, as an assignment with a tie does."""

    place: torch.Tensor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        is_there = image.shape == self.place.shape and torch.allclose(image, self.place, rtol=0, atol=1e-9)
        return super().forward(image) + 10 * is_there


def test_an_image_on_which_rounding_decides_proves_nothing_of_a_graph() -> None:
    smooth, jumping = _model().eval(), _Jumping(4, len(CLASSES)).eval()
    jumping.load_state_dict(smooth.state_dict())
    network, graph = (ExportedNetwork(model, Form(size=(33, 47))) for model in (jumping, smooth))
    jumping.place = network.before(network.example((33, 47), batch=1, seed=0))
    seen: list[torch.Tensor] = []

    def run(image: torch.Tensor) -> list[torch.Tensor]:
        seen.append(image)
        with torch.inference_mode():
            return list(graph(image))

    check_values(network, run, "the graph")
    assert [len(image) for image in seen] == [1, 1, 2]  # the first was near the jump
    smooth.classifier.weight.data += 1
    with pytest.raises(InputError, match=r"the graph gives other values \(logits\) than the network"):
        check_values(network, run, "the graph")


class _Branching(TinySegmentor):
    """Looks at the size in Python: a graph has one of the two ways only."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) * (2 if image.shape[-1] % 2 else 1)


def test_a_graph_that_gives_other_values_is_not_written(tmp_path: Path) -> None:
    for name in ("m.onnx", "m.pt2"):
        with pytest.raises(InputError, match=r"gives other values \(logits\) than the network"):
            export(_Branching(4, 3), tmp_path / name)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["m.zip"], "expected OUT to end with .onnx or .pt2"),
        (["m.pt2", "--height", "-1"], "--height must not be negative, got -1"),
        (["m.pt2", "--height", "32"], "--height and --width go together"),
        (["m.pt2", "--int8", "."], "--int8 writes ONNX"),
        (["m.onnx", "--int8", "absent"], "--int8 absent is no folder"),
        (["m.onnx", "--int8", ".", "--height", "8", "--width", "8"], "--int8 writes networks for any size"),
        (["m.pt2"], "absent.safetensors does not exist"),
    ],
)
def test_impossible_exports_are_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segcore_main(["export", "absent.safetensors", *words]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_help_loads_no_torch() -> None:
    code = "import sys; from segcore.commands.main import main; main(['export', '--help'])"
    check = f"try:\n    exec({code!r})\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", f"import sys\n{check}"], capture_output=True).returncode == 0
