"""Every decoder of segmentation_models_pytorch on our backbones; the contract tests take one of them in full."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import get_args

import pytest
import torch

from segcore.baselines.recipes import FCN, SMP, Decoder, SMPModel
from segcore.build import build_model
from segcore.errors import InputError
from segcore.recipe import Recipe
from segcore.segmentor import StepInfo, Target

OPTIONS = SMPModel(backbone="resnet18", pretrained=False, backbone_norm="batch", decoder="unet", width=64)


def recipe(**options: object) -> Recipe:
    return replace(SMP.recipes["toy"], model=replace(OPTIONS, **options))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("decoder", get_args(Decoder))
def test_every_decoder_takes_any_size_and_trains_all_its_parameters(decoder: str) -> None:
    torch.manual_seed(0)
    model = build_model(SMP, recipe(decoder=decoder), 5)
    image, label = torch.randn(2, 3, 65, 97), torch.randint(0, 5, (2, 65, 97))
    model.losses(image, Target(label), StepInfo(0, 10, 1e-3)).total().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.inference_mode():
        assert model.eval().logits(image).shape == (2, 5, 65, 97)


def test_the_decoders_are_the_librarys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same encoder maps, decoder and classifier give what the library's network gives."""
    import segmentation_models_pytorch as library

    torch.manual_seed(0)
    theirs = library.Unet("resnet18", encoder_weights=None, decoder_channels=(64, 32, 16, 8, 4), classes=5).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        maps = theirs.encoder(image)
        without_half = [*maps[:1], maps[1][:, :0], *maps[2:]]
        model = build_model(SMP, recipe(), 5).eval()
        ours = model.head([*maps[2:]])
        decoder = model.head.decoder  # pyright: ignore[reportAttributeAccessIssue]
        expected = model.head.classifier(decoder(without_half))  # pyright: ignore[reportCallIssue]
    assert type(decoder) is type(theirs.decoder)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    assert ours.shape == (1, 5, 64, 96)


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("segmentation_models_pytorch")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install 'segcore\[smp\]'"):
        build_model(SMP, recipe(), 5)


def test_fcn_has_openmmlabs_names() -> None:
    model = build_model(FCN, FCN.recipes["toy"], 3)
    names = {FCN.name_map(model).to_published(name) for name in model.state_dict()}
    wanted = {"decode_head.convs.1.bn.weight", "decode_head.conv_seg.bias", "auxiliary_head.convs.0.conv.weight"}
    assert wanted <= names
