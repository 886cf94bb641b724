"""From recipes and checkpoints to networks, and `segcore convert` between the two kinds of files."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segcore import build
from segcore.build import build_from_checkpoint, fine_tune_from, model_for_checkpoint
from segcore.commands import convert as convert_command
from segcore.errors import InputError
from segcore.recipe import Recipe
from segcore.recipe.plain import to_plain
from segcore.weights.files import read_checkpoint, save_weights
from segcore.weights.header import CheckpointMeta
from tests.tiny_paper import PAPER, TinyModel, TinySegmentor, published_tensors

RECIPE = PAPER.recipes["toy"]
IMAGE = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)


@pytest.fixture(autouse=True)
def _tiny_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (build, convert_command):
        monkeypatch.setattr(module, "load_paper", lambda _: PAPER)


def _model(width: int = 4, num_classes: int = 3) -> TinySegmentor:
    torch.manual_seed(0)
    return TinySegmentor(width, num_classes).eval()


def _recipe(**options: object) -> Recipe:
    return replace(RECIPE, model=replace(RECIPE.model, **options))


def _save_ours(path: Path, model: TinySegmentor, recipe: Recipe = RECIPE, paper: str = "tiny") -> Path:
    names = [f"class {i}" for i in range(model.num_classes)]
    meta = CheckpointMeta(
        paper=paper,
        recipe_name="toy",
        recipe=to_plain(recipe),
        classes=names,
        palette=[[i, i, i] for i in range(model.num_classes)],
        iteration=1,
        scores={},
        versions={},
    )
    save_weights(path, model.state_dict(), meta)
    return path


def _save_published(path: Path, model: TinySegmentor, **meta: object) -> Path:
    torch.save({"state_dict": published_tensors(model), "meta": meta}, path)
    return path


def test_a_published_file_tells_its_own_options(tmp_path: Path) -> None:
    source = _model(width=6)
    path = _save_published(tmp_path / "p.pth", source)
    model = model_for_checkpoint(PAPER, RECIPE, 3, path).eval()
    torch.testing.assert_close(model(IMAGE), source(IMAGE), rtol=0, atol=0)


def test_our_file_tells_its_own_options_and_says_which_it_replaces(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = _model(width=6)
    path = _save_ours(tmp_path / "w.safetensors", source, _recipe(width=6))
    with caplog.at_level(logging.WARNING, logger="segcore"):
        model = model_for_checkpoint(PAPER, RECIPE, 3, path).eval()
        model_for_checkpoint(PAPER, _recipe(width=6), 3, path)
    torch.testing.assert_close(model(IMAGE), source(IMAGE), rtol=0, atol=0)
    assert caplog.text.count("w.safetensors was trained with --model.width 6: used instead of what") == 1


def test_another_backbone_is_refused_with_the_two_ways_out(tmp_path: Path) -> None:
    path = _save_ours(tmp_path / "w.safetensors", _model(), _recipe(backbone="resnet18"))
    with pytest.raises(InputError, match="another model: its backbone is resnet18, the recipe's stem") as caught:
        model_for_checkpoint(PAPER, RECIPE, 3, path)
    assert "add --model.backbone resnet18, or give its run's work directory in place of the recipe" in str(caught.value)
    model_for_checkpoint(PAPER, _recipe(backbone="resnet18"), 3, path)


def test_a_published_file_of_another_network_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"layer1.weight": torch.zeros(1)}}, tmp_path / "resnet.pth")
    with pytest.raises(InputError, match=r"resnet\.pth is a checkpoint of another model: the checkpoint has no stem"):
        model_for_checkpoint(PAPER, RECIPE, 3, tmp_path / "resnet.pth")


def test_a_checkpoint_of_another_paper_is_refused(tmp_path: Path) -> None:
    path = _save_ours(tmp_path / "w.safetensors", _model(), paper="other")
    with pytest.raises(InputError, match=r"w\.safetensors is a checkpoint of other, not of tiny"):
        model_for_checkpoint(PAPER, RECIPE, 3, path)


def test_another_class_number_is_refused_when_testing(tmp_path: Path) -> None:
    path = _save_ours(tmp_path / "w.safetensors", _model(num_classes=7))
    with pytest.raises(InputError, match="was trained for 7 classes, the data set here has 3"):
        model_for_checkpoint(PAPER, RECIPE, 3, path)


@pytest.mark.parametrize("is_ours", [True, False])
def test_fine_tuning_starts_from_the_weights_and_says_what_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_ours: bool
) -> None:
    source = _model(num_classes=7)
    path = tmp_path / ("w.safetensors" if is_ours else "p.pth")
    path = _save_ours(path, source) if is_ours else _save_published(path, source)
    with caplog.at_level(logging.WARNING, logger="segcore"):
        model = fine_tune_from(PAPER, RECIPE, 3, path)
    torch.testing.assert_close(model.state_dict()["stem.weight"], source.stem.weight.detach(), rtol=0, atol=0)
    assert caplog.text.count("classifier.weight, classifier.bias start from their initial values") == 1


@pytest.mark.parametrize("is_ours", [True, False])
def test_fine_tuning_never_changes_the_recipe_silently(tmp_path: Path, is_ours: bool) -> None:
    source, path = _model(width=6), tmp_path / ("w.safetensors" if is_ours else "p.pth")
    path = _save_ours(path, source, _recipe(width=6)) if is_ours else _save_published(path, source)
    with pytest.raises(InputError, match=r"made with other options; repeat the command with --model\.width 6"):
        fine_tune_from(PAPER, RECIPE, 3, path)
    fine_tune_from(PAPER, _recipe(width=6, pretrained=True, weights="elsewhere"), 3, path)


def test_a_weights_file_alone_gives_the_network_its_classes_and_its_recipe(tmp_path: Path) -> None:
    source = _model(width=6, num_classes=5)
    built = build_from_checkpoint(_save_ours(tmp_path / "w.safetensors", source, _recipe(width=6)))
    torch.testing.assert_close(built.model.eval()(IMAGE), source(IMAGE), rtol=0, atol=0)
    assert built.meta.classes == [f"class {i}" for i in range(5)]
    assert built.recipe == _recipe(width=6)
    assert isinstance(built.recipe.model, TinyModel)


def test_a_published_file_alone_is_not_enough(tmp_path: Path) -> None:
    path = _save_published(tmp_path / "p.pth", _model())
    with pytest.raises(InputError, match=r"p\.pth is a published file.*segcore convert"):
        build_from_checkpoint(path)


def test_conversion_there_and_back_gives_the_same_tensors(tmp_path: Path) -> None:
    source = _model(width=6)
    colors = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    published = _save_published(tmp_path / "p.pth", source, CLASSES=("a", "b", "c"), PALETTE=colors, iter=160)
    ours, back = tmp_path / "w.safetensors", tmp_path / "back.pth"
    assert convert_command.main([str(published), str(ours), "--paper", "tiny", "--recipe", "toy"]) == 0
    meta = read_checkpoint(ours).meta
    assert meta is not None
    assert (meta.paper, meta.recipe_name, meta.classes, meta.palette) == ("tiny", "toy", ["a", "b", "c"], colors)
    assert (meta.iteration, meta.recipe["model"]["width"]) == (160, 6)
    assert convert_command.main([str(ours), str(back)]) == 0
    first, second = read_checkpoint(published), read_checkpoint(back)
    assert second.published_meta["CLASSES"] == ("a", "b", "c")
    assert set(first.tensors) == set(second.tensors)  # what the network has no use for, too
    for name, tensor in second.tensors.items():
        torch.testing.assert_close(tensor, first.tensors[name], rtol=0, atol=0)


def test_classes_come_from_the_recipes_data_set_where_the_file_names_none(tmp_path: Path) -> None:
    published = _save_published(tmp_path / "p.pth", _model(num_classes=11))
    ours = tmp_path / "w.safetensors"
    convert_command.main([str(published), str(ours), "--paper", "tiny", "--recipe", "camvid"])
    meta = read_checkpoint(ours).meta
    assert meta is not None
    assert len(meta.classes) == 11


def test_classes_can_be_given_as_a_file(tmp_path: Path) -> None:
    published = _save_published(tmp_path / "p.pth", _model(num_classes=2))
    (tmp_path / "classes.txt").write_text("stone\nwater\n")
    ours, classes = tmp_path / "w.safetensors", str(tmp_path / "classes.txt")
    convert_command.main([str(published), str(ours), "--paper", "tiny", "--recipe", "toy", "--classes", classes])
    meta = read_checkpoint(ours).meta
    assert meta is not None
    assert meta.classes == ["stone", "water"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["w.safetensors"], "needs --paper NAME and --recipe NAME"),
        (["w.onnx"], "expected OUT to end with .safetensors"),
        (["w.safetensors", "--paper", "tiny", "--recipe", "huge"], "tiny has no recipe 'huge'"),
        (["w.safetensors", "--paper", "tiny", "--recipe", "toy", "--classes", "x"], "has no fixed classes"),
    ],
)
def test_impossible_conversions_are_one_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    published = _save_published(tmp_path / "p.pth", _model())
    with pytest.raises(InputError, match=sentence):
        convert_command.main([str(published), str(tmp_path / words[0]), *words[1:]])
