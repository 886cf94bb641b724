"""Published tensor names of CGRSeg, and what shapes tell about a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cgrseg.model import CGRSeg
from cgrseg.names import infer_model, name_map
from cgrseg.recipes import CGRSEG_B, CGRSEG_L, CGRSEG_S0, CGRSEG_T, PAPER, RECIPES, CGRSegModel
from segcore.build import model_for_checkpoint
from segcore.errors import InputError
from tests.cgrseg.networks import small_network

VARIANTS = {"s0": CGRSEG_S0, "t": CGRSEG_T, "b": CGRSEG_B, "b5": replace(CGRSEG_B, pyramid_modules=5), "l": CGRSEG_L}


def _shapes(model: CGRSeg) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in name_map(model).export(model).items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_options_are_found_from_the_shapes_of_every_variant(variant: str) -> None:
    options = replace(VARIANTS[variant], pretrained=False)
    with torch.device("meta"):
        model = CGRSeg(options, num_classes=4)
    other = CGRSegModel(backbone="resnet18", pretrained=False, width=7, band=3, drop_path=options.drop_path)
    assert infer_model(other, _shapes(model)) == options


def test_a_published_file_loads_into_the_network_it_was_made_with(tmp_path: Path) -> None:
    source = small_network(num_classes=5, pyramid_modules=2)
    tensors = {f"module.{name}": tensor for name, tensor in name_map(source).export(source).items()}
    tensors["module.backbone.network.4.4.token_mixer.attention_biases"] = torch.zeros(8, 49)  # unused: dropped
    tensors["module.backbone.network.4.4.token_mixer.attention_bias_idxs_seg"] = torch.zeros(256, 256)
    file = tmp_path / "published.pth"
    torch.save({"meta": {"iter": 3}, "state_dict": tensors}, file)
    recipe = RECIPES["s0-ade20k"]  # five modules: the file says two
    model = model_for_checkpoint(PAPER, recipe, 5, file)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(image), source(image), rtol=0, atol=0)


def test_names_round_trip_without_loss() -> None:
    source, target = small_network(), small_network()
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(1)
    names = name_map(source)
    target.load_state_dict(names.convert(target, names.export(source)))
    for (name, mine), other in zip(target.state_dict().items(), source.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, msg=name)


def test_a_missing_tensor_is_an_error_that_names_it() -> None:
    model = small_network()
    names = name_map(model)
    tensors = names.export(model)
    del tensors["decode_head.lgc.conv_mask.weight"]
    tensors["decode_head.extra"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"1 missing \(decode_head\.lgc\.conv_mask\.weight\).*decode_head\.extra"):
        names.convert(model, tensors)


def test_another_backbone_keeps_its_own_names_under_the_published_head() -> None:
    model = CGRSeg(CGRSegModel(backbone="resnet18", pretrained=False, width=16, pyramid_modules=1), num_classes=3)
    published = name_map(model).export(model)
    assert "backbone.model.layer1.0.conv1.weight" in published
    assert "decode_head.conv_seg.weight" in published
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    inferred = infer_model(CGRSegModel(backbone="resnet18"), shapes)
    assert inferred == CGRSegModel(backbone="resnet18", width=16, pyramid_modules=1)


def test_a_checkpoint_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"no CGRSeg head .* starts with backbone\.conv1\.weight"):
        infer_model(CGRSEG_T, {"backbone.conv1.weight": (64, 3, 7, 7)})
