"""The UN-EPT network: windows, sizes, coupling of images, start values, precision, compile and export."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from segcore.errors import InputError
from segcore.evaluation.inference import slide, whole
from segcore.export.form import largest_size
from segcore.layers.fuse import fuse_norms
from segcore.models import create_model
from tests.unept.networks import STEP, random_image, random_target, small_network, small_options
from unept.context import ContextBranch, PyramidAttention
from unept.model import UNEPT
from unept.recipes import UNEPTModel


def test_a_window_gives_logits_at_stride_8_and_a_smaller_image_is_padded_to_it() -> None:
    model = small_network(num_classes=5)
    image = random_image(1, 3, 40, 64)
    with torch.no_grad():
        padded = model(F.pad(image, (0, 0, 0, 24)))
        assert padded.shape == (1, 5, 8, 8)
        expected = F.interpolate(padded, size=(64, 64), mode="bilinear", align_corners=False)[..., :40, :]
        torch.testing.assert_close(model(image), expected)


def test_an_image_larger_than_the_window_is_refused_with_what_to_do() -> None:
    model = small_network()
    with (
        torch.no_grad(),
        pytest.raises(InputError, match=r"64x64 pixels, got 72x64.*--evaluate\.mode slide"),
    ):
        whole(model, random_image(1, 3, 72, 64))
    with torch.no_grad(), pytest.raises(InputError, match=r"--model\.resize-queries true"):
        model.head([random_image(1, 3, 72, 64), *model.backbone(random_image(1, 3, 72, 64))])


def test_with_resized_queries_the_window_itself_is_unchanged_and_other_sizes_are_taken() -> None:
    fixed, any_size = small_network(num_classes=5), small_network(num_classes=5, resize_queries=True)
    with torch.no_grad():
        window = random_image(1, 3, 64, 64)
        torch.testing.assert_close(any_size(window), fixed(window), rtol=0, atol=0)
        for height, width in ((72, 64), (33, 47), (100, 130)):
            logits = any_size(random_image(1, 3, height, width))
            assert logits.shape[-2:] in ((height // 8, width // 8), (height, width))
            assert logits.isfinite().all()


@pytest.mark.parametrize(("size", "lines"), [((40, 48), 1), ((64, 64), 0), ((60, 64), 0)])
def test_crops_that_are_mostly_padding_are_said_once(
    size: tuple[int, int], lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = small_network().train()
    for _ in range(2):
        model.losses(random_image(2, 3, *size), random_target(2, *size, num_classes=7), STEP)
    assert [record.message.startswith("training crops of 40x48 pixels") for record in caplog.records] == [True] * lines


def test_windows_in_a_batch_give_what_single_windows_give() -> None:
    model, image = small_network(), random_image(1, 3, 90, 120)
    with torch.inference_mode():
        one, many = (slide(model, image, (64, 64), (24, 24), batch=batch, pad_window=True) for batch in (1, 6))
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-5)


def test_images_of_a_batch_influence_each_other_in_published_training_only() -> None:
    first, second = random_image(2, 3, 64, 64), random_image(2, 3, 64, 64)
    second[1] = random_image(3, 64, 64, seed=1)
    for kind, is_coupled in (("batch", True), ("value", False), ("pixels", False)):
        model = small_network(self_attention=kind, dropout=0.0)
        model.head.context.train()  # batch norms stay in evaluation: they would couple the images, too
        with torch.no_grad():
            assert torch.allclose(model(first)[0], model(second)[0], atol=1e-5) != is_coupled, kind


def test_the_boundary_heads_run_in_training_only() -> None:
    model, calls = small_network(), []
    for head in (model.head.boundary, model.head.direction):
        head.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(random_image(1, 3, 64, 64))
        assert calls == []
        model.losses(random_image(2, 3, 64, 64), random_target(2, 64, 64, 7), STEP)
    assert len(calls) == 2


def test_a_crop_larger_than_the_window_is_refused_in_the_first_step() -> None:
    with pytest.raises(InputError, match=r"got 64x72.*train with --augment\.crop 64 64"):
        small_network().train().losses(random_image(2, 3, 64, 72), random_target(2, 64, 72, 7), STEP)


def test_a_crop_smaller_than_the_window_trains() -> None:
    model = small_network().train()
    losses = model.losses(random_image(2, 3, 40, 56), random_target(2, 40, 56, 7), STEP)
    assert losses.terms.keys() == {f"decode.loss_{part}" for part in ("ce", "boundary", "direction", "refined")}
    losses.total().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_context_branch_starts_as_published() -> None:
    torch.manual_seed(0)
    branch = ContextBranch(UNEPTModel(backbone="none")).requires_grad_(False)
    assert branch.level_embedding.std() == pytest.approx(1, abs=0.1)
    for module in branch.modules():
        if isinstance(module, PyramidAttention):
            assert not module.deform.sampling_offsets.weight.any()
            offsets = module.deform.sampling_offsets.bias.view(8, 3, 16, 2)
            torch.testing.assert_close(offsets[0, 0, :, 0], torch.arange(1.0, 17))
            assert module.deform.value_proj.weight.std() == pytest.approx((2 / 512) ** 0.5, rel=0.05)
    for stack in (branch.encoder, branch.decoder):
        first, second = (dict(layer.named_parameters()) for layer in stack)
        for name, parameter in first.items():
            is_matrix = parameter.ndim > 1 and "sampling_offsets" not in name and "attention_weights" not in name
            assert torch.equal(parameter, second[name]) != is_matrix, name
        matrix, bias = first["feedforward.0.weight"], first["feedforward.0.bias"]
        assert matrix.std() == pytest.approx((2 / (256 + 2048)) ** 0.5, rel=0.05)
        assert bias.std() == pytest.approx(1 / (3 * 256) ** 0.5, rel=0.1)  # PyTorch's uniform start


def test_folding_removes_every_norm_of_head_and_backbone_and_keeps_the_logits() -> None:
    model, image = small_network(), random_image(1, 3, 64, 64)
    folded = fuse_norms(model)
    assert not any(isinstance(module, _BatchNorm) for module in folded.head.modules())
    with torch.no_grad():
        expected = model(image)
        assert (folded(image) - expected).abs().max() < 1e-4 * expected.std()


def test_copies_and_pickles_of_a_used_network_give_the_same_logits() -> None:
    model, image = small_network(), random_image(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(image)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(twin(image), expected, rtol=0, atol=0)


def test_half_precision_stays_close_and_trains() -> None:
    model, image = small_network(), random_image(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (model(image).float() - expected).std() < 0.1 * expected.std()
        losses = model.train().losses(image, random_target(2, 64, 64, 7), STEP)
    losses.total().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet50c", "vit_tiny_patch16_224"])
def test_the_head_works_on_another_backbone(name: str) -> None:
    with torch.no_grad():
        assert small_network(3, backbone=name)(random_image(1, 3, 64, 64)).shape == (1, 3, 8, 8)


def test_the_published_backbones_give_three_levels_of_one_stride() -> None:
    for name, stride in (("resnet50c", 8), ("deit_base_distilled_patch16_384", 16)):
        with torch.device("meta"):
            model = UNEPT(small_options(backbone=name), num_classes=3)
            levels = model.backbone(torch.empty(1, 3, 64, 64))
        assert [tuple(level.shape[-2:]) for level in levels[-3:]] == [(64 // stride,) * 2] * 3


def test_a_backbone_with_too_few_levels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class TwoLevels(nn.Module):
        channels, strides = (8, 16), (8, 16)

    monkeypatch.setattr("unept.model.create_backbone", lambda *_, **__: TwoLevels())
    with pytest.raises(InputError, match=r"strides \[8, 16\]; UN-EPT needs 3 levels"):
        UNEPT(small_options(), num_classes=3)


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_the_pyramid_has_as_many_levels_as_the_options_say(levels: int) -> None:
    model = small_network(levels=levels)
    assert len(model.head.levels) == len(model.head.context.level_embedding) == levels
    assert {m.deform.levels for m in model.modules() if isinstance(m, PyramidAttention)} == {levels}
    channels = [projection.in_channels for projection in model.head.levels]  # pyright: ignore[reportAttributeAccessIssue]
    assert channels == list(model.backbone.channels[-levels:])  # pyright: ignore[reportIndexIssue]
    image = random_image(2, 3, 64, 64)
    assert model(image).shape == (2, 7, 8, 8)
    model.train().losses(image, random_target(2, 64, 64, 7), STEP).terms["decode.loss_ce"].backward()
    assert all(projection.weight.grad.abs().sum() > 0 for projection in model.head.levels)  # pyright: ignore


def test_a_window_of_parts_of_patches_is_refused() -> None:
    options = small_options(backbone="deit_base_distilled_patch16_384", window=72)
    with torch.device("meta"), pytest.raises(InputError, match=r"--model\.window 72: deit_base.* needs 80 pixels"):
        UNEPT(options, num_classes=3)


@pytest.mark.parametrize(
    "option",
    [
        {"window": 60},
        {"width": 30},
        {"heads": 0},
        {"points": 0},
        {"feedforward": 0},
        {"encoder_layers": 0},
        {"decoder_layers": 0},
        {"dropout": 1.0},
    ],
)
def test_impossible_options_are_refused_by_their_flag(option: dict[str, float]) -> None:
    flag = next(iter(option)).replace("_", "-")
    with pytest.raises(InputError, match=rf"--model\.{flag}"):
        small_options(**option)


def test_export_equals_eager_for_another_batch_size() -> None:
    model, image = small_network(), random_image(2, 3, 64, 64)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (image,), dynamic_shapes=({0: batch},)).module()
    for other in (image, random_image(3, 3, 64, 64, seed=1), random_image(1, 3, 64, 64, seed=2)):
        with torch.no_grad():
            torch.testing.assert_close(exported(other), model(other), rtol=1e-4, atol=1e-5)


def test_the_training_step_is_traced_in_one_piece() -> None:
    model = small_network(dropout=0.0).train()
    image, target = random_image(2, 3, 64, 64), random_target(2, 64, 64, 7)
    expected = model.losses(image, target, STEP)
    torch.compiler.reset()
    # "eager" runs what was traced without generating code: a graph break would raise, and nothing is built
    losses = torch.compile(model.losses, fullgraph=True, backend="eager")(image, target, STEP)
    torch.testing.assert_close(losses.terms, expected.terms, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses.logged, expected.logged, rtol=1e-4, atol=1e-5)


def test_a_network_of_one_window_takes_images_up_to_it() -> None:
    assert largest_size(create_model("unept-toy", resize_queries=False)) == (192, 192)
    assert largest_size(create_model("unept-toy")) is None
