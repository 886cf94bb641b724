"""ConvNeXt: the norms on its levels, stochastic depth, and the original release's tensor names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers.drop import DropPath
from torch import Tensor

from segcore.backbones import create_backbone
from segcore.backbones.convnext import ORIGINAL
from segcore.errors import InputError

_SMALL: dict[str, Any] = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}


def _image(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def _original(backbone: torch.nn.Module) -> dict[str, Tensor]:
    """Return a classifier's file as the original release has it: no output norms, one norm and a head."""
    channels = 32
    tensors = {name: tensor for name, tensor in ORIGINAL.export(backbone).items() if not name.startswith("norm")}
    extra = {"norm": (channels,), "head": (10, channels)}
    return tensors | {
        f"{name}.{leaf}": torch.zeros(shape if leaf == "weight" else shape[:1])
        for name, shape in extra.items()
        for leaf in ("weight", "bias")
    }


def test_levels_are_normalized_over_channels_with_eps_1e_6() -> None:
    torch.manual_seed(0)
    normalized = create_backbone("convnext_tiny", pretrained=False, **_SMALL).eval()
    plain = create_backbone("convnext_tiny", pretrained=False, output_norm=False, **_SMALL).eval()
    plain.load_state_dict({k: t for k, t in normalized.state_dict().items() if not k.startswith("norms.")})
    with torch.no_grad():
        for level, raw in zip(normalized(_image(64, 96)), plain(_image(64, 96)), strict=True):
            variance, mean = torch.var_mean(raw, dim=1, keepdim=True, correction=0)
            torch.testing.assert_close(level, (raw - mean) / (variance + 1e-6).sqrt(), rtol=1e-4, atol=1e-5)


def test_published_names_are_those_of_the_original_release() -> None:
    with torch.device("meta"):
        backbone = create_backbone("convnext_large", pretrained=False)
    names = set(ORIGINAL.export(backbone))
    expected = {f"downsample_layers.{i}.{k}.{leaf}" for i in range(4) for k in (0, 1) for leaf in ("weight", "bias")}
    expected |= {f"norm{i}.{leaf}" for i in range(4) for leaf in ("weight", "bias")}
    for stage, depth in enumerate((3, 3, 27, 3)):
        for block in range(depth):
            layers = ("dwconv", "norm", "pwconv1", "pwconv2")
            expected |= {f"stages.{stage}.{block}.{m}.{leaf}" for m in layers for leaf in ("weight", "bias")}
            expected.add(f"stages.{stage}.{block}.gamma")
    assert names == expected
    assert {ORIGINAL.to_published(f"backbone.{n}") for n in backbone.state_dict()} == {f"backbone.{n}" for n in names}


@pytest.mark.parametrize("form", ["original", "timm"])
def test_an_imagenet_file_fills_everything_but_the_output_norms(form: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = create_backbone("convnext_tiny", pretrained=False, output_norm=False, **_SMALL)
    file = tmp_path / "convnext.pth"
    if form == "original":
        torch.save({"model": _original(source)}, file)
    else:
        model = timm.create_model("convnext_tiny", pretrained=False, num_classes=10, **_SMALL)
        own = {
            name.removeprefix("model.").replace("stem_", "stem.").replace("stages_", "stages."): tensor
            for name, tensor in source.state_dict().items()
        }
        assert set(own) < set(model.state_dict())
        torch.save(model.state_dict() | own, file)
    loaded = create_backbone("convnext_tiny", weights=str(file), **_SMALL).state_dict()
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0, msg=name)
    for i in range(4):
        assert (loaded[f"norms.{i}.weight"] == 1).all()
        assert (loaded[f"norms.{i}.bias"] == 0).all()


def test_a_file_of_another_width_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "convnext.pth"
    torch.save({"model": _original(create_backbone("convnext_tiny", pretrained=False, **_SMALL))}, file)
    with pytest.raises(InputError, match=r"convnext\.pth does not fit convnext_atto"):
        create_backbone("convnext_atto", weights=str(file))


def test_stochastic_depth_rises_linearly_over_all_blocks_and_layer_scale_starts_where_told() -> None:
    with torch.device("meta"):
        backbone = create_backbone("convnext_large", pretrained=False, drop_path_rate=0.4)
    rates = [module.drop_prob for module in backbone.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.4 * i / 35 for i in range(1, 36)])
    scaled = create_backbone("convnext_tiny", pretrained=False, ls_init_value=1.0, **_SMALL)
    gammas = [tensor for name, tensor in scaled.state_dict().items() if name.endswith("gamma")]
    assert len(gammas) == 5
    assert all((gamma == 1).all() for gamma in gammas)
