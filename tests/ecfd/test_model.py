"""ECFD's heads and network: sizes, batches, initial values, options, backbones, compilers."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecfd.fusion import SingleStreamFusion
from ecfd.model import CICM, ECFD, RCE, SICM
from ecfd.recipes import BASE, LARGE, SMALL, TINY, ECFDModel, Head
from segcore.distributed import synchronized_norms
from segcore.errors import InputError
from segcore.segmentor import StepInfo, Target
from tests.ecfd.networks import VARIANTS, feature_maps, options, small_head, small_network

STEP = StepInfo(iteration=0, total=1, lr=0.0)


def _image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(24, 40), (25, 33), (1, 1), (2, 9)])
def test_every_head_gives_logits_at_the_size_of_level_1(variant: Head, size: tuple[int, int]) -> None:
    with torch.no_grad():
        logits = small_head(variant)(feature_maps(*size, head=variant))
    assert logits.shape == (2, 5, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_of_a_batch_do_not_influence_each_other(variant: Head) -> None:
    head, features = small_head(variant), feature_maps(head=variant, batch=3)
    with torch.no_grad():
        together = head(features)
        for i in range(3):
            alone = head([x[i : i + 1] for x in features])
            torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_of_a_head_gets_a_gradient(variant: Head) -> None:
    head = small_head(variant).train()
    head(feature_maps(head=variant)).square().mean().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_context_is_unchanged_by_the_first_blocks_at_the_start() -> None:
    context, spatial, sizes = _image(2, 6, 24), _image(2, 24 + 6 + 2, 24), [(4, 6), (2, 3), (1, 2)]
    cicm = CICM(options())
    torch.testing.assert_close(cicm(context, spatial, sizes), context, rtol=0, atol=0)  # gamma starts at 0
    assert not torch.allclose(SICM(options())(spatial, context, sizes), spatial)


def test_single_stream_attention_reaches_the_output_through_the_mlp_only() -> None:
    block = SingleStreamFusion(options(), levels=1)
    nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(block.mlp.fc2.bias)
    tokens = _image(2, 6, 24)
    torch.testing.assert_close(block(tokens, [(2, 3)]), tokens, rtol=0, atol=0)
    assert block.mlp.fc1.out_features == 6  # a quarter, whatever the options say


def test_context_added_to_the_levels_needs_one_block_each() -> None:
    plain, added = small_head(depth=3), small_head(depth=3, context_to_levels=True)
    features = feature_maps()
    with torch.no_grad():
        assert not torch.allclose(plain(features), added(features))
    with pytest.raises(InputError, match=r"--model\.context-to-levels needs --model\.depth 3"):
        options(depth=2, context_to_levels=True)


def test_initial_head_is_the_published_one() -> None:
    torch.manual_seed(0)
    model = ECFD(options(channels=256, embed_dim=24), num_classes=150)
    head: Any = model.head
    assert float(head.classifier.weight.detach().std()) == pytest.approx(0.01, rel=0.03)
    assert not head.classifier.bias.any()
    assert not head.position.embedding.any()
    assert (head.clgd.gamma == 1).all()
    conv = head.fpn.fuse[0]  # PyTorch's default: uniform within 1 / sqrt(fan-in)
    assert float(conv.weight.detach().abs().max()) == pytest.approx(1 / math.sqrt(conv.in_channels * 9), rel=1e-3)
    auxiliary: Any = model.auxiliary
    fan_out = auxiliary[0].convs[0].conv.out_channels * 9
    assert float(auxiliary[0].convs[0].conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)


def test_sizes_of_the_paper_change_width_and_heads_alone() -> None:
    assert [(o.embed_dim, o.heads, o.embed_dim // o.heads) for o in (TINY, SMALL, BASE, LARGE)] == [
        (192, 6, 32),
        (384, 6, 64),
        (768, 12, 64),
        (1024, 16, 64),
    ]
    assert {(o.channels, o.depth, o.points, o.mlp_ratio, o.value_ratio) for o in (TINY, SMALL, BASE, LARGE)} == {
        (256, 3, 4, 0.5, 1.0)
    }


def test_the_loss_has_an_auxiliary_part_that_inference_does_not_compute() -> None:
    model, image = small_network(num_classes=3), _image(2, 3, 64, 96)
    called: list[str] = []
    assert model.auxiliary is not None
    model.auxiliary[0].register_forward_hook(lambda *_: called.append("auxiliary"))
    target = Target(torch.randint(0, 3, (2, 64, 96), generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        model(image)
        assert called == []
        losses = model.losses(image, target, STEP)
        logits = F.interpolate(model.auxiliary[0](model.backbone(image)), size=(64, 96), mode="bilinear")
    assert called == ["auxiliary"] * 2
    torch.testing.assert_close(losses.terms["aux_0.loss_ce"], 0.4 * F.cross_entropy(logits, target.label))


def test_all_norms_of_the_head_are_synchronized_and_the_backbone_follows_its_option() -> None:
    everywhere, head_only = small_network(), small_network(backbone_norm="batch")
    norms = [m for m in everywhere.modules() if isinstance(m, nn.BatchNorm2d)]
    assert synchronized_norms(everywhere) == set(norms)
    assert head_only.auxiliary is not None
    parts = (head_only.head, head_only.auxiliary)
    outside = {m for part in parts for m in part.modules() if isinstance(m, nn.BatchNorm2d)}
    assert synchronized_norms(head_only) == outside


@pytest.mark.parametrize(
    "backbone", ["resnet50c", "convnext_tiny", "swin_tiny_patch4_window7_224", "mobilenetv3_large_100"]
)
def test_the_head_works_on_another_backbone(backbone: str) -> None:
    model = small_network(num_classes=3, backbone=backbone)
    with torch.no_grad():
        assert model(_image(1, 3, 64, 96)).shape[:2] == (1, 3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_stays_close_and_trains(variant: Head) -> None:
    head, features = small_head(variant), feature_maps(head=variant)
    with torch.no_grad():
        expected = head(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features)
        assert (logits.float() - expected).std() < 0.05 * expected.std()
    logits.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


# the paper's own head is traced by the contract tests, in a network
@pytest.mark.parametrize(
    "variant", ["general", *(pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS if v != "general")]
)
def test_the_graph_of_every_head_is_traced_in_one_piece(variant: Head) -> None:
    head, features = small_head(variant), feature_maps(head=variant)
    torch._dynamo.reset()
    # "eager" runs what was traced without generating code: a graph break would raise, and nothing is built
    traced = torch.compile(copy.deepcopy(head), fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(traced(features), head(features), rtol=1e-4, atol=1e-5)


def test_export_equals_eager_for_another_batch_size() -> None:
    model = small_network(num_classes=3)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (_image(2, 3, 64, 96),), dynamic_shapes=({0: batch},)).module()
    for count in (2, 3, 1):
        image = _image(count, 3, 64, 96)
        with torch.no_grad():
            torch.testing.assert_close(exported(image), model(image), rtol=1e-3, atol=1e-4)


def test_a_backbone_with_too_few_levels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class ThreeLevels(nn.Module):
        channels, strides = (8, 16, 32), (8, 16, 32)

    monkeypatch.setattr("segcore.backbones.create_backbone", lambda *_, **__: ThreeLevels())
    with pytest.raises(InputError, match=r"strides \[8, 16, 32\]; ECFD needs 4 levels"):
        ECFD(options(backbone="three"), num_classes=3)


def test_drop_path_of_a_backbone_that_has_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"ghostnet_050 has no drop path; add --model\.drop-path 0"):
        small_network(backbone="ghostnet_050", drop_path=0.2)


def test_strategy_2_asks_for_a_dilated_backbone() -> None:
    with pytest.raises(InputError, match=r"strides \[4, 8, 16, 32\]; add --model\.output-stride 8"):
        ECFD(options(head="general"), num_classes=3)
    model = small_network(head="general", output_stride=8, backbone="resnet50c")
    assert not isinstance(model.head.get_submodule("rce"), RCE)


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ({"embed_dim": 0}, "--model.embed-dim"),
        ({"heads": 5}, "--model.heads"),
        ({"depth": 0}, "--model.depth"),
        ({"mlp_ratio": 0.001}, "--model.mlp-ratio"),
        ({"mlp_ratio": math.inf}, "--model.mlp-ratio"),
        ({"value_ratio": math.nan}, "--model.value-ratio"),
        ({"head": "spatial", "depth": 3, "context_to_levels": True}, "--model.context-to-levels needs --model.head"),
        ({"position_grid": (0, 4)}, "--model.position-grid"),
        ({"dropout": 1.0}, "--model.dropout"),
        ({"drop_path": -0.1}, "--model.drop-path"),
    ],
)
def test_impossible_options_are_refused_by_their_flag(option: dict[str, Any], flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        options(**option)


def test_importing_the_package_and_its_recipes_loads_no_torch() -> None:
    code = "import sys, ecfd, ecfd.recipes; ecfd.RECIPES; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_gives_out_its_classes() -> None:
    import ecfd

    assert ecfd.ECFD is ECFD
    assert ecfd.ECFDModel is ECFDModel
    with torch.device("meta"):
        models = [build(4, pretrained=False) for build in (ecfd.ecfd_tiny, ecfd.ecfd_small, ecfd.ecfd_base)]
    assert [model.num_classes for model in models] == [4, 4, 4]
    with pytest.raises(AttributeError, match="no attribute 'ecfd_x'"):
        _ = ecfd.ecfd_x  # pyright: ignore[reportAttributeAccessIssue]
