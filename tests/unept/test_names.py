"""Published tensor names of UN-EPT, and what shapes tell about a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segcore.build import model_for_checkpoint
from segcore.errors import InputError
from tests.parity.case_files import DEFAULT_DIRECTORY
from tests.unept.networks import random_image, small_network, small_options
from unept.model import UNEPT
from unept.names import infer_model, name_map
from unept.recipes import PAPER, RECIPES, UNEPT_DEIT, UNEPT_R50, UNEPTModel


def _shapes(model: UNEPT) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in name_map(model).export(model).items()}


@pytest.mark.parametrize("options", [UNEPT_R50, UNEPT_DEIT], ids=["r50", "deit"])
def test_names_and_shapes_are_the_published_ones(options: UNEPTModel) -> None:
    case = json.loads((DEFAULT_DIRECTORY / "unept" / "deit_480.json").read_text())
    with torch.device("meta"):
        model = UNEPT(replace(options, pretrained=False), num_classes=150)
    ours = _shapes(model)
    published = {name: tuple(shape) for name, shape in case["state_dict"].items()}
    if options is UNEPT_R50:
        case = json.loads((DEFAULT_DIRECTORY / "unept" / "r50_96.json").read_text())
        published = {name: tuple(shape) for name, shape in case["state_dict"].items()}
        published["query_embed.weight"] = (3600, 256)
    assert ours == published


@pytest.mark.parametrize(
    "options", [UNEPT_R50, UNEPT_DEIT, replace(UNEPT_R50, levels=2)], ids=["r50", "deit", "two levels"]
)
def test_options_are_found_from_the_shapes(options: UNEPTModel) -> None:
    wanted = replace(options, pretrained=False, window=160, points=4, encoder_layers=1, decoder_layers=3)
    with torch.device("meta"):
        model = UNEPT(wanted, num_classes=4)
    start = UNEPTModel(backbone="resnet18", pretrained=False, width=64, window=96)
    assert infer_model(start, _shapes(model)) == wanted


def test_heads_that_do_not_explain_the_samples_give_way_to_the_published_number() -> None:
    with torch.device("meta"):
        model = UNEPT(replace(UNEPT_R50, pretrained=False, window=96), num_classes=4)
    found = infer_model(RECIPES["toy"].model, _shapes(model))  # 4 heads with 4 points each
    assert isinstance(found, UNEPTModel)
    assert (found.heads, found.points) == (8, 16)


def test_a_published_file_loads_into_the_network_it_was_made_with(tmp_path: Path) -> None:
    source = small_network(num_classes=5, backbone="resnet50c", heads=8, decoder_layers=1)
    torch.save({"meta": {"iter": 3}, "state_dict": name_map(source).export(source)}, tmp_path / "published.pth")
    recipe = RECIPES["r50-ade20k"]  # another width, window and depth: the file says which
    model = model_for_checkpoint(PAPER, recipe, 5, tmp_path / "published.pth").eval()
    image = random_image(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(image), source(image), rtol=0, atol=0)


def test_a_missing_tensor_is_an_error_that_names_it() -> None:
    model = small_network()
    names = name_map(model)
    tensors = names.export(model)
    del tensors["mask_head.3.weight"]
    tensors["context_branch.extra"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"1 missing \(mask_head\.3\.weight\).*context_branch\.extra"):
        names.convert(model, tensors)


def test_another_backbone_keeps_its_own_names_beside_the_published_head() -> None:
    shapes = _shapes(small_network())
    assert {"backbone.layer1.0.conv1.weight", "cls.weight", "query_embed.weight"} <= shapes.keys()
    assert infer_model(small_options(width=8, window=8), shapes) == small_options()


def test_a_checkpoint_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"no UN-EPT head .* starts with backbone\.conv1\.weight"):
        infer_model(UNEPT_R50, {"backbone.conv1.weight": (64, 3, 7, 7)})
