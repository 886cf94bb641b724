"""MemoryNet as a whole: contexts, levels, losses, the interface for other heads, compilers."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from memorynet.context import AtrousPyramid, ConcatenatedLevels, PyramidPooling
from memorynet.model import FirstHead, MemoryHead, MemoryNet, MemorySegmentor, PixelHead
from memorynet.recipes import MemoryNetModel, MemorySettings
from segcore.backbones import create_backbone
from segcore.errors import InputError
from segcore.layers.fcn_head import FCNHead
from segcore.layers.fuse import fuse_norms
from segcore.segmentor import StepInfo, Target
from tests.memorynet.networks import SMALL, STEP, batch_of, random, small_network

FORMS: dict[str, dict[str, Any]] = {
    "aspp": {},
    "ppm": {"context": "ppm"},
    "ocr": {"context": "ocr"},
    "ocr without auxiliary head": {"context": "ocr", "auxiliary": False},
    "no context": {"context": "none"},
    "two slots": {"slots": 2},
    "hard": {"read": "hard"},
    "mean": {"strategy": "mean"},
    "dilated": {"output_stride": 8},
    "concatenated": {"levels": "concatenated", "auxiliary": False},
    "reduced": {"levels": "concatenated", "auxiliary": False, "reduction": True},
    "leaky": {"activation": "LeakyReLU"},
    "transformer": {
        "backbone": "vit_tiny_patch16_224",
        "levels": "layers",
        "transformer_layers": (3, 6, 9, 12),
        "image_size": 64,
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_predicts_and_trains(form: str) -> None:
    model = small_network(consistency_loss=1.0, **FORMS[form])
    images, target = batch_of(64, 80)
    with torch.no_grad():
        logits = model(images)
    assert logits.shape[:2] == (2, 5)
    assert logits.isfinite().all()
    model.train().losses(images, target, STEP).total().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert unused == []


@pytest.mark.parametrize("form", sorted({*FORMS} - {"hard"}))  # hard reading has no gradient: only losses trains it
def test_a_loss_of_ones_own_trains_all_but_what_is_named(form: str) -> None:
    model = small_network(**FORMS[form]).train()
    model(batch_of(64, 80)[0]).sum().backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unused == set(model._ddp_params_and_buffers_to_ignore)
    assert bool(unused) == (form not in ("concatenated", "reduced", "ocr", "ocr without auxiliary head"))


def test_training_with_an_empty_memory_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    images, target = batch_of(64, 64)

    def said(model: MemoryNet) -> int:
        caplog.clear()
        for _ in range(2):
            model(images)
        return sum("empty memory" in record.message for record in caplog.records)

    model = small_network()
    model.head.memory.rows.zero_()
    assert said(model) == 0  # evaluation
    with torch.no_grad():
        assert said(model.train()) == 0
    assert said(model) == 1
    model = small_network().train()
    model.head.memory.rows.zero_()
    model.losses(images, target, STEP)
    assert said(model) == 0


def test_the_strides_are_those_of_the_levels() -> None:
    image = random(1, 3, 64, 96)
    sizes = {"aspp": (2, 3), "dilated": (8, 12), "concatenated": (16, 24), "reduced": (8, 12), "transformer": (4, 6)}
    for form, size in sizes.items():
        with torch.no_grad():
            assert tuple(small_network(**FORMS[form])(image).shape[-2:]) == size


def test_losses_have_the_published_weights() -> None:
    images, target = batch_of(64, 64)
    terms, logged = small_network(consistency_loss=0.5).train().losses(images, target, STEP)
    double = small_network(consistency_loss=1.0, first_loss=0.8).train().losses(images, target, STEP).terms
    names = {"decode.loss_ce", "first.loss_ce", "aux_0.loss_ce", "memory.loss_consistency"}
    assert terms.keys() == names
    assert logged.keys() == {"decode.acc_seg"}
    ratios = {name: (double[name] / terms[name]).item() for name in names}
    assert ratios == pytest.approx({**dict.fromkeys(names, 1.0), "first.loss_ce": 2, "memory.loss_consistency": 2})


def test_the_loss_is_averaged_over_labeled_pixels() -> None:
    model, (images, target) = small_network().train(), batch_of(64, 64)
    features, _ = model._encode(images)
    _, first = model.head.first.pixels(features)
    large = F.interpolate(first, size=(64, 64), mode="bilinear", align_corners=False)
    expected = 0.4 * F.cross_entropy(large, target.label, ignore_index=255)
    terms = small_network().train().losses(images, target, STEP).terms
    torch.testing.assert_close(terms["first.loss_ce"], expected)


def test_the_consistency_loss_starts_in_the_second_epoch_and_reads_the_updated_memory() -> None:
    model, (images, target) = small_network(consistency_loss=1.0).train(), batch_of(64, 64)
    assert "memory.loss_consistency" not in model.losses(images, target, STEP._replace(epoch=1)).terms
    norm: Any = model.head.classify.transform.bn
    steps = int(norm.num_batches_tracked)
    terms = model.losses(images, target, STEP).terms
    assert int(norm.num_batches_tracked) == steps + 2  # the final classifier's norm sees the rows, too
    again = copy.deepcopy(model).head.consistency(model.head.memory.rows)
    torch.testing.assert_close(terms["memory.loss_consistency"], again)


def test_the_reduction_runs_once_with_the_statistics_of_four_times() -> None:
    levels = ConcatenatedLevels((4, 6), reduction=True, activation="ReLU")
    maps = [random(2, 4, 9, 11), random(2, 6, 5, 6, seed=1)]
    (reduced,) = levels.train()(maps)
    assert reduced.shape == (2, 10, 5, 6)
    norm = levels.reduction.bn
    assert isinstance(norm, nn.BatchNorm2d)
    joined = torch.cat([maps[0], F.interpolate(maps[1], size=(9, 11), mode="bilinear")], dim=1)
    conv: Any = levels.reduction.conv
    seen, expected = conv(joined), torch.zeros(10)
    for _ in range(4):
        expected = 0.9 * expected + 0.1 * seen.mean(dim=(0, 2, 3))
    torch.testing.assert_close(norm.running_mean, expected)


def test_context_modules_concatenate_in_the_published_order() -> None:
    x = random(2, 6, 9, 8)
    pyramid = AtrousPyramid(6, 4, (1, 3), "ReLU").eval()
    seen: list[Tensor] = []
    pyramid.bottleneck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pyramid(x)
    pooled = pyramid.global_branch(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, 9, 8)
    torch.testing.assert_close(seen[0], torch.cat([pyramid.branches[0](x), pyramid.branches[1](x), pooled], dim=1))
    pooling = PyramidPooling(6, 4, "ReLU").eval()
    pooling.bottleneck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pooling(x)
    torch.testing.assert_close(seen[1][:, :6], x)
    torch.testing.assert_close(
        seen[1][:, 6:10], pooling.branches[0](x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, 9, 8)
    )


def test_a_memory_works_on_the_fully_convolutional_head_of_core() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", pretrained=False)
    first = FCNHead(backbone.channels[1], 16, num_classes=5, index=1, dropout=0.0)
    assert isinstance(first, PixelHead)
    settings = MemorySettings(momentum=0.5, attention_width=8, dropout=0.0)
    head = MemoryHead(first, num_classes=5, settings=settings)
    model = MemorySegmentor(backbone, head, num_classes=5)
    images, target = batch_of(64, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for i in range(10):
        step = model.losses(images, target, StepInfo(i, 10, 1e-2))
        assert step.terms.keys() == {"decode.loss_ce", "first.loss_ce"}
        step.total().backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(step.terms["decode.loss_ce"].detach()))
    assert losses[-1] < 0.7 * losses[0], losses
    assert head.memory.rows[:4].abs().sum(dim=(1, 2)).min() > 0
    names = set(model.state_dict())
    assert all(any(name.startswith(prefix) for name in names) for prefix in model.classifiers)


def test_initial_weights_are_those_of_plain_pytorch() -> None:
    torch.manual_seed(0)
    model = MemoryNet(SMALL, num_classes=5)
    assert isinstance(model.head.first, FirstHead)
    conv: Any = model.head.first.bottleneck.conv
    bound = conv.weight[0].numel() ** -0.5
    assert 0.95 * bound < float(conv.weight.detach().abs().max()) <= bound
    assert float(model.auxiliary[0].classifier.weight.detach().std()) == pytest.approx((1 / 48) ** 0.5, rel=0.2)  # pyright: ignore
    assert not model.head.memory.rows.any()


def test_leaky_heads_keep_a_plain_backbone() -> None:
    model = small_network(activation="LeakyReLU")
    assert not any(isinstance(m, nn.LeakyReLU) for m in model.backbone.modules())
    heads = [m for part in (model.head, model.auxiliary) for m in part.modules()]  # pyright: ignore
    assert not any(isinstance(m, nn.ReLU) for m in heads)
    slopes = {m.negative_slope for m in heads if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.01}


@pytest.mark.parametrize("form", ["aspp", "two slots", "concatenated"])
def test_folding_removes_every_norm_of_the_head_and_keeps_the_logits(form: str) -> None:
    model, image = small_network(**FORMS[form]), random(1, 3, 64, 96)
    folded = fuse_norms(model)
    assert not any(isinstance(m, _BatchNorm) for m in folded.head.modules())
    with torch.no_grad():
        expected = model(image)
        assert (folded(image) - expected).abs().max() < 1e-4 * expected.std()


class _Convolution(nn.Conv2d):
    """A backbone that is traced in no time."""

    channels, strides = (8,), (8,)

    def forward(self, input: Tensor) -> list[Tensor]:
        return [super().forward(input).relu()]


def _traceable(slots: int) -> MemorySegmentor:
    torch.manual_seed(0)
    settings = MemorySettings(slots=slots, momentum_lr=0.1, attention_width=4, dropout=0.0, consistency_loss=1.0)
    head = MemoryHead(FirstHead(8, 6, num_classes=5, settings=settings), num_classes=5, settings=settings)
    return MemorySegmentor(_Convolution(3, 8, 8, 8), head, num_classes=5).train()


@pytest.mark.parametrize(("slots", "backend"), [(1, "eager"), pytest.param(2, "aot_eager", marks=pytest.mark.slow)])
def test_a_training_step_is_one_graph_for_every_learning_rate(slots: int, backend: str) -> None:
    plain, traced = _traceable(slots), _traceable(slots)
    images, target = batch_of(32, 40)
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=3):  # first and second epoch, and one for a number that changes
        step = torch.compile(traced.losses, fullgraph=True, backend=backend)
        for i in range(6):
            info = StepInfo(i, 10, 0.05 - 0.005 * i, epoch=1 + i // 3)
            ours, expected = step(images, target, info), plain.losses(images, target, info)
            torch.testing.assert_close(ours.total(), expected.total())
            torch.testing.assert_close(traced.head.memory.rows, plain.head.memory.rows)
    ours.total().backward()
    assert all(p.grad is not None for p in traced.parameters())


def test_one_image_per_process_is_refused_where_a_pooled_map_is_normalized() -> None:
    images, target = batch_of(64, 64, batch=1)
    with pytest.raises(InputError, match=r"at least two images per process .* raise --data\.batch"):
        small_network().train().losses(images, target, STEP)
    small_network(context="none").train().losses(images, target, STEP)


def test_a_consistency_loss_of_a_single_row_is_refused() -> None:
    images, target = batch_of(64, 64, classes=(0,))
    with pytest.raises(InputError, match="needs more than one memory row"):
        small_network(num_classes=1, consistency_loss=1.0).train().losses(images, target, STEP)


def test_a_backbone_of_one_level_needs_the_auxiliary_head_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneLevel(nn.Conv2d):
        channels, strides = (8,), (16,)

    monkeypatch.setattr("memorynet.model.create_backbone", lambda *_, **__: OneLevel(3, 8, 16, 16))
    with pytest.raises(InputError, match=r"1 feature level; .* --model\.auxiliary false"):
        MemoryNet(SMALL, num_classes=3)


def test_layers_of_what_is_no_transformer_are_refused() -> None:
    with pytest.raises(InputError, match=r"resnet18 is no plain transformer, which --model\.transformer-layers"):
        small_network(transformer_layers=(3, 6))


@pytest.mark.parametrize(
    "option",
    [
        {"width": 0},
        {"attention_width": 0},
        {"slots": 0},
        {"image_size": -1},
        {"dropout": 1.0},
        {"momentum": 1.5},
        {"momentum_lr": -1.0},
        {"first_loss": -1.0},
        {"consistency_loss": -1.0},
        {"dilations": ()},
        {"strategy": "mean", "slots": 2},
        {"reduction": True},
    ],
)
def test_impossible_options_are_refused_by_their_flag(option: dict[str, Any]) -> None:
    flag = next(iter(option)).replace("_", "-")
    with pytest.raises(InputError, match=rf"--model\.{flag}"):
        MemoryNetModel(backbone="resnet18", **option)


def test_importing_the_package_and_its_recipes_loads_no_torch() -> None:
    code = "import sys, memorynet, memorynet.recipes; memorynet.RECIPES; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_gives_out_its_classes() -> None:
    import memorynet

    for name in memorynet.__all__:
        assert getattr(memorynet, name) is not None
    with torch.device("meta"):
        assert memorynet.memorynet_hrnet_w48(4, pretrained=False).num_classes == 4
    with pytest.raises(AttributeError, match="no attribute 'memorynet_x'"):
        _ = memorynet.memorynet_x  # pyright: ignore[reportAttributeAccessIssue]


def test_targets_of_another_size_than_whole_patches_train() -> None:
    model = small_network(**FORMS["transformer"]).train()
    images, target = batch_of(50, 70)
    assert model.losses(images, Target(target.label), STEP).total().isfinite()
