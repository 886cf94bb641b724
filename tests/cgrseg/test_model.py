"""The CGRSeg network: sizes, fast forms against published ones, precision, compile and export."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cgrseg.model import (
    BandConv,
    CGRSeg,
    CGRSegHead,
    ClassPrototypes,
    LevelConv,
    PyramidContext,
    RectangularModule,
)
from cgrseg.recipes import CGRSegModel
from segcore.distributed import synchronized_norms
from segcore.errors import InputError
from segcore.layers.fuse import fuse_norms
from segcore.segmentor import StepInfo, Target
from tests.cgrseg.networks import small_network

STEP = StepInfo(iteration=0, total=1, lr=0.0)


def _image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("size", "logits"),
    [
        ((64, 96), (8, 12)),
        ((60, 92), (8, 12)),  # legal as it is
        ((32, 32), (4, 4)),
        ((50, 70), (7, 9)),
        ((33, 47), (33, 47)),  # padded to 64x64, resized and cut
        ((1, 5), (1, 5)),
    ],
)
def test_any_image_size_gives_logits(size: tuple[int, int], logits: tuple[int, int]) -> None:
    with torch.no_grad():
        output = small_network(num_classes=5)(_image(1, 3, *size))
    expected = logits if logits == size or size[0] % 32 in (0, *range(17, 32)) else size
    is_legal = all(side % 32 == 0 or side % 32 >= 17 for side in size)
    assert output.shape == (1, 5, *(expected if is_legal else size))
    assert output.isfinite().all()


def test_an_image_of_illegal_size_equals_the_padded_image_cut() -> None:
    model = small_network()
    image = _image(1, 3, 40, 70)
    with torch.no_grad():
        padded = model(F.pad(image, (0, 0, 0, 24)))
        expected = F.interpolate(padded, size=(64, 70), mode="bilinear", align_corners=False)[..., :40, :]
        torch.testing.assert_close(model(image), expected)


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    model = small_network()
    images = _image(3, 3, 64, 96)
    with torch.no_grad():
        together = model(images)
        for i in range(3):
            torch.testing.assert_close(model(images[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_separable_band_convolution_equals_the_published_form(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = BandConv(6, 11).double()
    x = _image(2, 6, 5, 7).double().contiguous(memory_format=memory_format).requires_grad_()
    rows, columns = x.mean(dim=3, keepdim=True), x.mean(dim=2, keepdim=True)
    fast = conv(rows, columns)
    plain = F.conv2d(rows + columns, conv.weight, conv.bias, padding=(0, 5), groups=6)
    torch.testing.assert_close(fast, plain)
    weight = torch.randn_like(fast)
    inputs = (x, conv.weight, conv.bias)
    for mine, published in zip(
        torch.autograd.grad((fast * weight).sum(), inputs, retain_graph=True),  # pyright: ignore[reportArgumentType]
        torch.autograd.grad((plain * weight).sum(), inputs),  # pyright: ignore[reportArgumentType]
        strict=True,
    ):
        torch.testing.assert_close(mine, published)


def test_convolution_before_the_upsampling_equals_the_published_order() -> None:
    torch.manual_seed(0)
    conv = LevelConv(6, 4, 1).double()
    x = _image(2, 6, 4, 5).double()
    upsampled = F.interpolate(x, size=(8, 9), mode="bilinear", align_corners=False)
    torch.testing.assert_close(conv(x, (8, 9)), F.conv2d(upsampled, conv.weight, conv.bias))


def test_the_pyramid_pools_overlapping_windows_where_rows_are_odd() -> None:
    pyramid = PyramidContext((2, 3, 4), CGRSegModel(backbone="", pyramid_modules=1, band=3)).eval()
    levels = [_image(1, 2, 20, 12), _image(1, 3, 10, 6), _image(1, 4, 5, 3)]
    seen = []
    pyramid.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    context = pyramid(levels)
    assert [tuple(c.shape) for c in context] == [(1, 2, 3, 2), (1, 3, 3, 2), (1, 4, 3, 2)]
    # 5 rows in 3 windows: 0-1, 1-3, 3-4
    expected = levels[2][:, :, 1:4, 0:2].mean(dim=(2, 3))
    torch.testing.assert_close(seen[0][:, 5:, 1, 0], expected)


def test_prototypes_are_means_of_pixels_by_class_in_full_precision() -> None:
    features, logits = _image(2, 5, 4, 6), _image(2, 3, 4, 6, seed=1)
    weights = logits.flatten(2).softmax(dim=2)
    expected = torch.einsum("bkn,ben->bek", weights, features.flatten(2))[..., None]
    torch.testing.assert_close(ClassPrototypes()(features, logits), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ClassPrototypes()(features, logits), expected)


def test_half_precision_stays_close_and_trains() -> None:
    model = small_network()
    image = _image(2, 3, 64, 96)
    with torch.no_grad():
        expected = model(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (model(image).float() - expected).std() < 0.05 * expected.std()
        losses = model.train().losses(image, Target(torch.zeros(2, 64, 96, dtype=torch.int64)), STEP)
    losses.total().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_folding_removes_every_norm_of_the_network_and_keeps_its_logits() -> None:
    model = small_network()
    folded = fuse_norms(model)
    assert not any(isinstance(m, _BatchNorm) for m in folded.modules())
    image = _image(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(image)
        difference = (folded(image) - expected).abs().max() / expected.std()
    assert difference < 1e-4


def test_copies_and_pickles_of_a_used_network_give_the_same_logits() -> None:
    model = small_network()
    image = _image(1, 3, 64, 96)
    with torch.inference_mode():
        expected = model(image)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(twin(image), expected, rtol=0, atol=0)


def test_weights_loaded_after_use_take_effect() -> None:
    first, second = small_network(), small_network()
    with torch.no_grad():
        for name, parameter in second.named_parameters():
            if name.endswith("position_bias.table"):
                parameter.mul_(-3)
        image = _image(1, 3, 64, 96)
        before = first(image)
        first.load_state_dict(second.state_dict())
        torch.testing.assert_close(first(image), second(image), rtol=0, atol=0)
        assert not torch.allclose(first(image), before)


def test_only_norms_outside_the_rectangular_modules_are_synchronized() -> None:
    published, everywhere = small_network(), small_network(sync_all_norms=True)
    inside = {
        norm
        for module in published.modules()
        if isinstance(module, RectangularModule)
        for norm in module.modules()
        if isinstance(norm, _BatchNorm)
    }
    norms = {m for m in published.modules() if isinstance(m, _BatchNorm)}
    assert len(inside) == 2 * 4  # pyramid and three levels, two norms each
    assert synchronized_norms(published) == norms - inside
    assert len(synchronized_norms(everywhere)) == len(norms)


def test_initial_head_is_the_published_one() -> None:
    torch.manual_seed(0)
    width = 1024  # wide, so that standard deviations are sharp
    head = CGRSegHead((8, 16, 32), 150, CGRSegModel(backbone="", width=width, pyramid_modules=1, band=3))
    assert float(head.classifier.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not head.classifier.bias.any()
    # kaiming fan_out of a depthwise convolution, not divided by its groups
    assert float(head.prior.conv.weight.detach().std()) == pytest.approx((2 / width) ** 0.5, rel=0.1)
    features, prototypes = _image(1, width, 4, 4), _image(1, width, 150, 1)
    torch.testing.assert_close(head.guidance(features, prototypes), 0.5 * features)
    assert all((m.gamma == 1e-6).all() for m in head.modules() if isinstance(m, RectangularModule))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_the_head_works_on_another_backbone(name: str) -> None:
    model = CGRSeg(CGRSegModel(backbone=name, pretrained=False, width=16, pyramid_modules=1), num_classes=3).eval()
    with torch.no_grad():
        assert model(_image(1, 3, 64, 96)).shape == (1, 3, 8, 12)


def test_a_backbone_with_too_few_levels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class TwoLevels(nn.Module):
        channels, strides = (8, 16), (8, 16)

    monkeypatch.setattr("segcore.backbones.create_backbone", lambda *_, **__: TwoLevels())
    with pytest.raises(InputError, match=r"strides \[8, 16\]; CGRSeg needs 3 levels"):
        CGRSeg(CGRSegModel(backbone="two"), num_classes=3)


@pytest.mark.parametrize("option", [{"band": 10}, {"width": 0}, {"pyramid_modules": 0}, {"dropout": 1.0}])
def test_impossible_options_are_refused_by_their_flag(option: dict[str, float]) -> None:
    flag = next(iter(option)).replace("_", "-")
    with pytest.raises(InputError, match=rf"--model\.{flag}"):
        CGRSegModel(backbone="efficientformerv2_s1", **option)  # pyright: ignore[reportArgumentType]


def test_loss_falls_while_one_image_is_learnt() -> None:
    torch.manual_seed(0)
    model = small_network(num_classes=2).train()
    image = _image(2, 3, 64, 64)
    target = Target((F.avg_pool2d(image[:, 0], 9, 1, 4) > 0).long())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = model.losses(image, target, STEP).terms["decode.loss_ce"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_export_equals_eager_for_another_batch_size() -> None:
    model = small_network()
    image = _image(2, 3, 64, 96)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (image,), dynamic_shapes=({0: batch},)).module()
    for other in (image, _image(3, 3, 64, 96, seed=1), _image(1, 3, 64, 96, seed=2)):
        with torch.no_grad():
            torch.testing.assert_close(exported(other), model(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_training", [False, True])
def test_the_graph_is_traced_in_one_piece(is_training: bool) -> None:
    model = small_network(dropout=0.0).train(is_training)
    image = _image(2, 3, 64, 64)
    torch._dynamo.reset()
    # "eager" runs what was traced without generating code: a graph break would raise, and nothing is built
    traced = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(image), model(image), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_equals_eager() -> None:
    model = small_network()
    image = _image(2, 3, 64, 96)
    torch._dynamo.reset()
    with torch.no_grad():
        expected = model(image)
        compiled = torch.compile(model, fullgraph=True)
        assert (compiled(image) - expected).abs().max() < 1e-4 * expected.std()


def test_importing_the_package_and_its_recipes_loads_no_torch() -> None:
    code = "import sys, cgrseg, cgrseg.recipes; cgrseg.RECIPES; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_gives_out_its_classes() -> None:
    import cgrseg

    assert cgrseg.CGRSeg is CGRSeg
    model = cgrseg.cgrseg_t(4, pretrained=False)
    assert model.num_classes == 4
    with pytest.raises(AttributeError, match="no attribute 'cgrseg_x'"):
        _ = cgrseg.cgrseg_x  # pyright: ignore[reportAttributeAccessIssue]
