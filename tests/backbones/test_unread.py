"""Parameters that lead only to levels which no head reads: found, fixed, and so no fault to several processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import segcore
from segcore.backbones import create_backbone, unread
from segcore.backbones.unread import freeze_unread, unread_parameters
from segcore.paper import installed_papers

WITH_PARTS_OF_LEVELS = ["swin_tiny_patch4_window7_224", "convnext_atto", "hrnet_w18_small", "vit_tiny_patch16_224"]


@pytest.mark.parametrize("levels", [(-1,), (-3, -2, -1), (0, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("name", [*WITH_PARTS_OF_LEVELS, "resnet18", "efficientformerv2_s0"])
def test_what_is_found_is_what_a_real_backward_pass_leaves_out(name: str, levels: tuple[int, ...]) -> None:
    backbone = create_backbone(name, pretrained=False)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    state = torch.get_rng_state()
    found = unread_parameters(backbone, levels)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)
    maps = backbone(torch.randn(2, 3, *backbone.legal_size(64, 64)))
    torch.stack([maps[level].sum() for level in levels]).sum().backward()
    assert found == [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    assert bool(found) == (name in WITH_PARTS_OF_LEVELS and len(levels) < 4)


def test_freezing_leaves_nothing_unread() -> None:
    backbone = create_backbone("convnext_atto", pretrained=False)
    freeze_unread(backbone, [-1])
    frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"norms.{i}.{part}" for i in range(3) for part in ("weight", "bias")]
    assert unread_parameters(backbone, [-1]) == []


@pytest.mark.parametrize("block", [torch.inference_mode, torch.no_grad])
def test_a_network_may_be_built_where_no_gradients_are_taken(block: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "_known", {})  # so that it is asked anew
    backbone = create_backbone("convnext_atto", pretrained=False)
    expected = unread_parameters(backbone, [-1])
    unread._known.clear()
    with block():
        found = unread_parameters(create_backbone("convnext_atto", pretrained=False), [-1])
    assert found == expected != []


@pytest.mark.parametrize("backbone", WITH_PARTS_OF_LEVELS)
@pytest.mark.parametrize("paper", sorted(installed_papers()))
def test_on_any_backbone_every_parameter_trains_by_both_kinds_of_loss(paper: str, backbone: str) -> None:
    recipe = installed_papers()[paper].recipes["toy"]
    options: dict[str, Any] = {"output_stride": 32} if hasattr(recipe.model, "output_stride") else {}
    if paper == "iiwa":
        options |= {"fusion_heads": (1, 1, 1)}
    if paper == "memorynet":  # as published on ResNets, whose heads take single levels
        options |= {"levels": "last", "reduction": False, "auxiliary": True}
    model = segcore.create_model(f"{paper}-toy", backbone=backbone, num_classes=4, **options)
    image, label = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64)

    def without_gradient() -> set[str]:
        left = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
        model.zero_grad()
        return left

    model(image).sum().backward()
    assert without_gradient() == set(model._ddp_params_and_buffers_to_ignore)
    model.losses(image, segcore.Target(label), segcore.StepInfo(0, 10, 1e-3, epoch=2)).total().backward()
    assert without_gradient() == set()
