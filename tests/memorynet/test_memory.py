"""How the memory is read: the fast form, the published gradient, several slots; and when it changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memorynet.context import Attention
from memorynet.memory import MemoryRead, update_memory
from memorynet.recipes import RECIPES, MemorySettings
from segcore.training.optim import learning_rate
from tests.memorynet.networks import STEP, batch_of, random, small_network

CLASSES, CHANNELS = 5, 12


def _read(**settings: object) -> MemoryRead:
    torch.manual_seed(0)
    read = MemoryRead(CHANNELS, MemorySettings(attention_width=8, **settings))  # pyright: ignore[reportArgumentType]
    return read.double().eval()


def _inputs(slots: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return pixel features, first logits and rows, in float64."""
    pixels, logits = random(2, CHANNELS, 6, 7).double(), random(2, CLASSES, 6, 7, seed=1).double()
    return pixels, logits, random(CLASSES, slots, CHANNELS, seed=2).double()


def _mixed(weights: Tensor, rows: Tensor) -> Tensor:
    """The definition: Z = P @ memory, as a map."""
    batch, _, height, width = weights.shape
    mixed = weights.permute(0, 2, 3, 1).flatten(0, 2) @ rows  # saves `rows` itself for the backward pass
    return mixed.view(batch, height, width, -1).permute(0, 3, 1, 2)


def test_projecting_rows_before_mixing_equals_the_definition() -> None:
    read, (pixels, logits, rows) = _read(), _inputs()
    expected = read.attentions[0](pixels, _mixed(logits.softmax(dim=1), rows[:, 0]))
    torch.testing.assert_close(read(pixels, logits, rows), expected)


def test_the_attention_equals_its_formula() -> None:
    torch.manual_seed(0)
    attention = Attention(CHANNELS, 8, "ReLU").double().eval()
    query, key_map = random(2, CHANNELS, 3, 4).double(), random(2, CHANNELS, 5, 2, seed=1).double()
    q, k, v = attention.query(query), attention.key(key_map), attention.value(key_map)
    weights = torch.einsum("bcn,bcm->bnm", q.flatten(2), k.flatten(2)).mul(8**-0.5).softmax(dim=-1)
    context = torch.einsum("bnm,bcm->bcn", weights, v.flatten(2)).view(2, 8, 3, 4)
    torch.testing.assert_close(attention(query, key_map), attention.out(context))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_attention_never_holds_the_weights_of_all_pairs(memory_format: torch.memory_format) -> None:
    attention = Attention(CHANNELS, 8, "ReLU").to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
    pixels = random(2, CHANNELS, 16, 18).contiguous(memory_format=memory_format)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        attention(pixels, pixels).sum().backward()
    kernels = [event.key for event in profile.key_averages() if "_scaled_dot_product" in event.key]
    assert kernels
    assert not any("math" in kernel for kernel in kernels), kernels


@pytest.mark.parametrize("gradient", ["updated", "clean"])
def test_the_gradient_is_that_of_a_memory_overwritten_before_the_backward_pass(gradient: str) -> None:
    read, (pixels, logits, rows) = _read(gradient=gradient).train(), _inputs()
    updated, factor = random(CLASSES, 1, CHANNELS, seed=3).double(), random(2, CHANNELS, 6, 7, seed=4).double()
    inputs = [pixels.requires_grad_(), logits.requires_grad_(), *read.parameters()]
    ours = torch.autograd.grad((read(pixels, logits, rows, updated) * factor).sum(), inputs)
    stored = rows[:, 0].clone()
    loss = (read.attentions[0](pixels, _mixed(logits.softmax(dim=1), stored)) * factor).sum()
    if gradient == "updated":
        stored.data.copy_(updated[:, 0])  # unseen by autograd, as in the reference
    theirs = torch.autograd.grad(loss, inputs)
    for mine, published in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, published)


def test_the_published_gradient_differs_from_the_clean_one_and_the_value_does_not() -> None:
    pixels, logits, rows = _inputs()
    updated = random(CLASSES, 1, CHANNELS, seed=3).double()
    results = []
    for gradient in ("updated", "clean"):
        leaf = logits.clone().requires_grad_()
        output = _read(gradient=gradient)(pixels, leaf, rows, updated)
        results.append((output.detach(), torch.autograd.grad(output.sum(), leaf)[0]))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert (results[0][1] - results[1][1]).norm() > 0.1 * results[1][1].norm()


def test_several_slots_have_an_attention_each_and_are_fused() -> None:
    read, (pixels, logits, rows) = _read(slots=3), _inputs(slots=3)
    assert read.fuse is not None
    weights = logits.softmax(dim=1)
    slots = [read.attentions[j](pixels, _mixed(weights, rows[:, j])) for j in range(3)]
    torch.testing.assert_close(read(pixels, logits, rows), read.fuse(torch.cat(slots, dim=1)))


def test_hard_reading_takes_the_row_of_the_most_probable_class() -> None:
    read, (pixels, logits, rows) = _read(read="hard"), _inputs()
    taken = rows[:, 0][logits.argmax(dim=1)].permute(0, 3, 1, 2)
    torch.testing.assert_close(read(pixels, logits, rows), read.attentions[0](pixels, taken))


def test_momentum_follows_the_learning_rate_or_stays() -> None:
    assert MemorySettings(momentum=0.9).momentum_at(0.003) == 0.9
    following = MemorySettings(momentum=0.9, momentum_lr=0.009)
    assert following.momentum_at(0.01) == pytest.approx(1.0)
    assert following.momentum_at(1e-4) == pytest.approx(0.01)


def test_a_training_step_updates_the_memory_from_its_pixel_features_at_label_size() -> None:
    model = small_network().train()
    images, target = batch_of(40, 56)
    before = model.head.memory.rows.clone()
    features, _ = model._encode(images)
    with torch.no_grad():
        pixels, _ = model.head.first.pixels(features)
    large = F.interpolate(pixels, size=(40, 56), mode="bilinear", align_corners=False)
    model.losses(images, target, STEP)
    expected = update_memory(before, large, target.label, 0.9 / 0.1 * STEP.lr)
    torch.testing.assert_close(model.head.memory.rows, expected, rtol=1e-4, atol=1e-5)
    assert model.head.memory.num_batches_tracked.tolist() == [1, 1, 1, 1, 0]
    assert torch.equal(model.head.memory.rows[4], before[4])  # absent


def test_the_first_step_fills_empty_rows_with_plain_means() -> None:
    model = small_network(levels="concatenated", auxiliary=False).train()
    model.head.memory.rows.zero_()
    images, target = batch_of(64, 64)
    model.losses(images, target, STEP)
    filled = model.head.memory.rows.abs().sum(dim=(1, 2)) > 0
    assert filled.tolist() == [True, True, True, True, False]


def test_padding_for_the_backbone_does_not_reach_the_memory() -> None:
    model = small_network(backbone="efficientformerv2_s0", levels="concatenated", auxiliary=False).train()
    images, target = batch_of(40, 72)
    assert model.legal_size(40, 72) != (40, 72)
    before = model.head.memory.rows.clone()
    padded = F.pad(images, (0, model.legal_size(40, 72)[1] - 72, 0, model.legal_size(40, 72)[0] - 40))
    features = model.levels(model.backbone(padded))
    pixels, _ = model.head.first.pixels(features)
    large = F.interpolate(pixels.detach(), size=tuple(padded.shape[-2:]), mode="bilinear", align_corners=False)
    model.losses(images, target, STEP)
    expected = update_memory(before, large[..., :40, :72], target.label, 0.9 / 0.1 * STEP.lr)
    torch.testing.assert_close(model.head.memory.rows, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_forward_reads_the_memory_and_never_changes_it(mode: str) -> None:
    model = small_network().train(mode == "train")
    before = model.head.memory.rows.clone()
    model(batch_of(64, 64)[0])
    torch.testing.assert_close(model.head.memory.rows, before, rtol=0, atol=0)


def test_the_memory_gets_no_gradient_and_no_optimizer() -> None:
    model = small_network(consistency_loss=1.0).train()
    model.losses(*batch_of(64, 64), STEP).total().backward()
    assert not model.head.memory.rows.requires_grad
    assert all(not name.startswith("head.memory") for name, _ in model.named_parameters())


def test_the_memory_stays_in_full_precision_under_autocast() -> None:
    plain, mixed = small_network().train(), small_network().train()
    images, target = batch_of(64, 64)
    plain.losses(images, target, STEP)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = mixed.losses(images, target, STEP)
    assert mixed.head.memory.rows.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in losses.terms.values())
    difference = (mixed.head.memory.rows - plain.head.memory.rows).norm()
    assert difference < 0.03 * plain.head.memory.rows.norm()
    losses.total().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixed.parameters())


def test_batches_without_labels_leave_the_memory_as_it_is() -> None:
    model = small_network().train()
    images, target = batch_of(64, 64)
    before = model.head.memory.rows.clone()
    losses = model.losses(images, target._replace(label=torch.full_like(target.label, 255)), STEP)
    assert all(value.isfinite() for value in (*losses.terms.values(), *losses.logged.values()))
    torch.testing.assert_close(model.head.memory.rows, before, rtol=0, atol=0)


def test_momentum_of_a_published_run_ends_at_a_hundredth() -> None:
    recipe = RECIPES["r50-cityscapes"]
    settings = MemorySettings(momentum_lr=0.009)
    total_steps = recipe.schedule.iterations
    rates = [learning_rate(recipe.schedule, total_steps, recipe.optim.lr, 1.0, i) for i in (0, total_steps)]
    assert [settings.momentum_at(rate) for rate in rates] == pytest.approx([1.0, 0.01])
