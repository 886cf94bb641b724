"""Published tensor names of MemoryNet, and what shapes tell about a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memorynet.model import MemoryNet
from memorynet.names import infer_model, name_map
from memorynet.recipes import HRNET_W48, PAPER, R50, R101, RECIPES, S101, VIT_L, MemoryNetModel
from segcore.build import fine_tune_from, model_for_checkpoint
from segcore.errors import InputError
from segcore.recipe import Recipe
from segcore.recipe.plain import to_plain
from segcore.weights.files import save_weights
from segcore.weights.header import CheckpointMeta
from tests.memorynet.networks import SMALL, random, small_network

CASES = Path(__file__).parents[1] / "parity" / "cases" / "memorynet"
VARIANTS = {
    "r50": R50,
    "r101 two slots": replace(R101, slots=2),
    "s101 pyramid": replace(S101, context="ppm"),
    "hrnet": HRNET_W48,
    "hrnet reduced": replace(HRNET_W48, reduction=True),
    "vit": VIT_L,
    "vit 464": replace(VIT_L, image_size=464),
    "fcn, narrow": replace(R50, context="none", width=64, attention_width=16),
    "ocr": replace(R50, context="ocr"),
    "no auxiliary head": replace(R50, auxiliary=False),
}


def _shapes(model: MemoryNet) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in name_map(model).export(model).items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_options_are_found_from_the_shapes_of_every_variant(variant: str) -> None:
    options = replace(VARIANTS[variant], pretrained=False)
    with torch.device("meta"):
        model = MemoryNet(options, num_classes=4)
    other = MemoryNetModel(backbone="resnet18", pretrained=False, width=7, context="ppm")
    assert infer_model(other, _shapes(model)) == options


def test_tables_of_the_recipes_image_size_keep_it() -> None:
    with torch.device("meta"):
        model = MemoryNet(replace(VIT_L, pretrained=False, image_size=464), num_classes=4)
    found = infer_model(replace(VIT_L, pretrained=False, image_size=473), _shapes(model))  # 29 patches, too
    assert isinstance(found, MemoryNetModel)
    assert found.image_size == 473


@pytest.mark.parametrize(
    "case", ["deeplabv3_hrnetv2w48_lip", "deeplabv3_vitl_ade20k", "psp_r50_cityscapes", "deeplabv3_r50_slots2"]
)
def test_every_published_name_is_used_and_none_is_invented(case: str) -> None:
    published = json.loads((CASES / f"{case}.json").read_text())
    shapes = {name: tuple(shape) for name, shape in published["state_dict"].items()}
    with torch.device("meta"):
        options = infer_model(replace(SMALL, dilations=(1, 12, 24, 36)), shapes)
        assert isinstance(options, MemoryNetModel)
        model = MemoryNet(options, published["num_classes"])
    assert _shapes(model) == shapes


def test_a_published_file_loads_into_the_network_it_was_made_with(tmp_path: Path) -> None:
    source = small_network(slots=2, context="none")
    tensors = name_map(source).export(source)
    torch.save({"model": tensors, "cur_epoch": 3, "cur_iter": 7}, tmp_path / "published.pth")
    recipe = replace(RECIPES["toy"], model=SMALL)  # one slot, ASPP: the file says otherwise
    model = model_for_checkpoint(PAPER, recipe, 5, tmp_path / "published.pth")
    image = random(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(image), source(image), rtol=0, atol=0)


def test_dilations_that_do_not_fit_the_branches_are_an_error() -> None:
    shapes = _shapes(small_network())
    with pytest.raises(InputError, match=r"4 branches .* --model\.dilations names 2"):
        infer_model(replace(SMALL, dilations=(1, 6)), shapes)


def test_a_checkpoint_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"no MemoryNet head .* starts with backbone\.conv1\.weight"):
        infer_model(SMALL, {"backbone.conv1.weight": (64, 3, 7, 7)})


def _recipe(model: MemoryNetModel) -> Recipe:
    return replace(RECIPES["toy"], model=model)


def test_fine_tuning_may_change_how_the_memory_learns(tmp_path: Path) -> None:
    source = small_network(num_classes=7, momentum_lr=0.01)
    meta = CheckpointMeta(
        paper="memorynet",
        recipe_name="toy",
        recipe=to_plain(_recipe(replace(SMALL, momentum_lr=0.01))),
        classes=[str(i) for i in range(7)],
        palette=[[0, 0, 0]] * 7,
        iteration=1,
        scores={},
        versions={},
    )
    save_weights(tmp_path / "w.safetensors", source.state_dict(), meta)
    changed = _recipe(replace(SMALL, momentum_lr=0.002, average="joint", consistency_loss=1.0))
    model = fine_tune_from(PAPER, changed, 5, tmp_path / "w.safetensors")
    assert isinstance(model, MemoryNet)
    assert model.head.memory.settings.momentum_lr == 0.002
    assert not model.head.memory.rows.any()  # other classes: the memory starts empty
    name = "head.bottleneck.conv.weight"
    assert torch.equal(model.state_dict()[name], source.state_dict()[name])


def test_a_momentum_above_one_is_refused_with_what_to_do() -> None:
    recipe = _recipe(SMALL)
    fast = replace(recipe, optim=replace(recipe.optim, lr=0.2))
    with pytest.raises(
        InputError, match=r"--optim\.lr 0\.2 makes the memory's momentum 1\.8.*--model\.momentum-lr 0\.2"
    ):
        PAPER.build(fast, 5)
