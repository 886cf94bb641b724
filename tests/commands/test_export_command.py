"""An exported network is the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segcore import build
from segcore.commands import export as export_module
from segcore.commands.export import export, main
from segcore.commands.main import main as segcore_main
from segcore.errors import InputError
from segcore.recipe.plain import to_plain
from segcore.weights.files import save_weights
from segcore.weights.header import CheckpointMeta
from tests.tiny_paper import PAPER, TinySegmentor


def _model() -> TinySegmentor:
    torch.manual_seed(0)
    return TinySegmentor(4, 3)


def test_an_exported_program_equals_the_network_at_any_batch_size(tmp_path: Path) -> None:
    model = _model().train()
    export(model, (16, 24), tmp_path / "m.pt2", "pt2")
    assert model.training  # exporting leaves the mode as it was
    program = torch.export.load(tmp_path / "m.pt2").module()
    model.eval()
    for batch in (1, 2, 5):
        image = torch.randn(batch, 3, 16, 24, generator=torch.Generator().manual_seed(batch))
        torch.testing.assert_close(program(image), model(image))


def test_the_command_exports_a_weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "load_paper", lambda _: PAPER)
    model = _model()
    meta = CheckpointMeta(
        paper="tiny",
        recipe_name="toy",
        recipe=to_plain(PAPER.recipes["toy"]),
        classes=["a", "b", "c"],
        palette=[[0, 0, 0]] * 3,
        iteration=0,
        scores={},
        versions={},
    )
    save_weights(tmp_path / "w.safetensors", model.state_dict(), meta)
    words = [str(tmp_path / "w.safetensors"), str(tmp_path / "m.pt2"), "--height", "16", "--width", "8"]
    assert main(words) == 0
    image = torch.ones(3, 3, 16, 8)
    program = torch.export.load(tmp_path / "m.pt2").module()
    torch.testing.assert_close(program(image), model.eval()(image))


def test_an_absent_onnx_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs onnx and onnxscript; .*pip install 'segcore\[onnx\]'"):
        export(_model(), (16, 16), tmp_path / "m.onnx", "onnx")


def test_an_onnx_file_equals_the_network(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    model = _model().eval()
    export(model, (16, 16), tmp_path / "m.onnx", "onnx")
    image = torch.ones(3, 3, 16, 16)
    (logits,) = reference.ReferenceEvaluator(str(tmp_path / "m.onnx")).run(None, {"image": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(image).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["m.zip"], "expected OUT to end with .pt2 or .onnx"),
        (["m.pt2", "--height", "0"], "--height must be at least 1, got 0"),
        (["m.pt2"], "absent.safetensors does not exist"),
    ],
)
def test_impossible_exports_are_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segcore_main(["export", "absent.safetensors", *words]) == 2
    assert sentence in capsys.readouterr().err
