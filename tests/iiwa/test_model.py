"""The IIWA network: sizes, other backbones, losses, precision, compile and export."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from iiwa.model import IIWA
from iiwa.recipes import IIWAModel
from segcore.errors import InputError
from segcore.recipe import Loss
from segcore.segmentor import StepInfo, Target
from tests.iiwa.networks import TINY, noise, small_network

STEP = StepInfo(iteration=0, total=1, lr=0.0)


@pytest.mark.parametrize(
    ("size", "logits"),
    [((64, 96), (32, 48)), ((33, 47), (20, 24)), ((1, 5), (4, 4)), ((56, 64), (28, 32))],
)
def test_logits_have_stride_2_for_any_image_size(size: tuple[int, int], logits: tuple[int, int]) -> None:
    with torch.no_grad():
        output = small_network(num_classes=5)(noise(1, 3, *size))
    assert output.shape == (1, 5, *logits)  # 4 * ceil(ceil(H / 4) / 2)
    assert output.isfinite().all()


def test_a_dilated_backbone_has_the_strides_of_the_published_one() -> None:
    options = replace(TINY, backbone="resnet10t", output_stride=8, fusion_heads=(4, 8, 8))
    model = IIWA(options, 3).eval()
    assert model.backbone.strides == (4, 8, 8, 8)
    with torch.no_grad():
        assert model(noise(1, 3, 64, 97)).shape == (1, 3, 32, 52)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_other_backbones_get_windows_by_their_strides(name: str) -> None:
    model = IIWA(IIWAModel(backbone=name, pretrained=False, fusion_heads=(4, 8, 8), query_dim=32, embed_dim=32), 3)
    blocks = [fuse[0] for fuse in (model.head.neck.fuse1, model.head.neck.fuse2, model.head.neck.fuse3)]
    assert [block.query_window for block in blocks] == [(8, 8)] * 3  # strides 4, 8, 16, 32
    for size in ((64, 96), (97, 130)):
        with torch.no_grad():
            logits = model.eval()(noise(1, 3, *size))
        assert logits.shape[:2] == (1, 3)
        assert logits.isfinite().all()


def test_a_backbone_with_other_levels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Levels:
        channels: tuple[int, ...] = (8, 16, 32)
        strides: tuple[int, ...] = (4, 8, 16)

    monkeypatch.setattr("iiwa.model.create_backbone", lambda *_, **__: Levels())
    with pytest.raises(InputError, match=r"strides \[4, 8, 16\]; IIWA needs 4 levels"):
        IIWA(IIWAModel(backbone="three"), 3)
    Levels.channels, Levels.strides = (8, 16, 32, 64), (4, 6, 12, 24)
    with pytest.raises(InputError, match="each stride must be a multiple of the one before it"):
        IIWA(IIWAModel(backbone="odd"), 3)


def test_heads_that_do_not_divide_the_channels_are_refused_by_their_option() -> None:
    options = IIWAModel(backbone="convnext_atto", pretrained=False, fusion_heads=(3, 8, 16))
    with pytest.raises(
        InputError, match=r"--model\.fusion-heads \(3, 8, 16\) must divide the channels \[40, 80, 160\]"
    ):
        IIWA(options, 3)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("query_dim", 30),
        ("decoder_heads", 0),
        ("head_scale", 3),
        ("fusion_window", (0, 4)),
        ("decoder_dropout", 1.0),
        ("backbone_depths", (2, 2)),
        ("backbone_heads", (3, 3, 3, 3)),
        ("merge_strides", (4, 2, 3, 1)),
        ("fusion_rounds", 0),
        ("output_stride", 8),
        ("decoder_mlp_ratio", -1.0),
        ("decoder_mlp_ratio", float("nan")),
        ("embed_dim", 0),
    ],
)
def test_impossible_options_are_refused_by_their_flag(option: str, value: object) -> None:
    flag = "query-dim" if option == "head_scale" else option.replace("_", "-")
    with pytest.raises(InputError, match=rf"--model\.{flag}"):
        replace(TINY, **{option: value})


def test_the_auxiliary_loss_is_that_of_the_query_stem_weighed_by_the_recipe() -> None:
    torch.manual_seed(0)
    model = IIWA(TINY, 4, Loss(auxiliary=0.25)).eval()
    image, label = noise(2, 3, 64, 64), torch.randint(0, 4, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    terms, logged = model.losses(image, Target(label), STEP)
    assert (set(terms), set(logged)) == ({"decode.loss_ce", "aux_0.loss_ce"}, {"decode.acc_seg"})
    main, auxiliary = model.head.with_auxiliary(model.backbone(image))
    assert auxiliary.shape == (2, 4, 8, 8)
    torch.testing.assert_close(main, model(image))
    for name, logits, weight in (("decode", main, 1.0), ("aux_0", auxiliary, 0.25)):
        resized = F.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=False)
        torch.testing.assert_close(terms[f"{name}.loss_ce"], weight * F.cross_entropy(resized, label))


def test_hard_pixels_are_the_default_and_class_weights_reach_both_losses() -> None:
    model = small_network(num_classes=3)
    assert model.loss.settings == Loss(ohem=True)
    weighted = IIWA(TINY, 3, Loss(class_weight=(0.0, 0.0, 0.0)))
    terms = weighted.losses(noise(1, 3, 64, 64), Target(torch.zeros(1, 64, 64, dtype=torch.int64)), STEP).terms
    assert terms["decode.loss_ce"].item() == terms["aux_0.loss_ce"].item() == 0


def test_half_precision_stays_close_and_trains() -> None:
    model = small_network()
    image = noise(2, 3, 64, 96)
    with torch.no_grad():
        expected = model(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (model(image).float() - expected).std() < 0.2 * expected.std()  # single windows may match others
        losses = model.train().losses(image, Target(torch.zeros(2, 64, 96, dtype=torch.int64)), STEP)
    losses.total().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_alternative_fusion_and_several_rounds_build_and_run() -> None:
    for changes in ({"fusion": "1"}, {"fusion_rounds": 2}, {"head_scale": 1}, {"embed_dim": 32}):
        with torch.no_grad():
            assert small_network(3, **changes)(noise(1, 3, 64, 64)).isfinite().all()


def test_training_is_traced_in_one_piece() -> None:
    model = small_network(backbone_depths=(1, 1, 1, 1), decoder_depth=1).train()
    image = noise(2, 3, 64, 64)
    torch._dynamo.reset()
    # "eager" runs what was traced without generating code: a graph break would raise, and nothing is built
    traced = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(image), model(image), rtol=1e-4, atol=1e-4)


def test_export_equals_eager_for_another_batch_size() -> None:
    model = small_network(backbone_depths=(1, 1, 1, 1), decoder_depth=1)
    image = noise(2, 3, 64, 96)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (image,), dynamic_shapes=({0: batch},)).module()
    for other in (image, noise(3, 3, 64, 96, seed=1), noise(1, 3, 64, 96, seed=2)):
        with torch.no_grad():
            torch.testing.assert_close(exported(other), model(other), rtol=1e-4, atol=1e-4)


def test_importing_the_package_and_its_recipes_loads_no_torch() -> None:
    code = "import sys, iiwa, iiwa.recipes; iiwa.RECIPES; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_gives_out_its_classes() -> None:
    import iiwa

    assert iiwa.IIWA is IIWA
    with torch.device("meta"):
        model = iiwa.iiwa_s(4, pretrained=False)
    assert model.num_classes == 4
    with pytest.raises(AttributeError, match="no attribute 'iiwa_x'"):
        _ = iiwa.iiwa_x  # pyright: ignore[reportAttributeAccessIssue]
