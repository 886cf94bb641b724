"""The memory's update against its definition: features resized to the label, one class after the other."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memorynet.memory import present_classes, update_memory
from memorynet.recipes import Strategy

DEFINITION = Path(__file__).parents[2] / "bench" / "baselines" / "memory_update.py"
plain_update_memory = runpy.run_path(str(DEFINITION))["plain_update_memory"]

CLASSES = 7


def random_case(
    seed: int,
    *,
    batch: int = 2,
    channels: int = 6,
    cells: tuple[int, int] = (4, 5),
    pixels: tuple[int, int] = (19, 23),
    slots: int = 1,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return memory, features and a label in blocks of which a tenth is ignored."""
    generator = torch.Generator().manual_seed(seed)
    memory = torch.randn(CLASSES, slots, channels, generator=generator, dtype=torch.float64)
    features = torch.randn(batch, channels, *cells, generator=generator, dtype=torch.float64)
    coarse = torch.randint(0, CLASSES, (batch, 5, 5), generator=generator)
    coarse[torch.rand(coarse.shape, generator=generator) < 0.1] = 255
    rows, columns = torch.arange(pixels[0]) * 5 // pixels[0], torch.arange(pixels[1]) * 5 // pixels[1]
    return memory.to(dtype), features.to(dtype), coarse[:, rows][:, :, columns]


side = st.integers(1, 9)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    cells=st.tuples(side, side),
    pixels=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    slots=st.integers(1, 3),
    empty=st.sets(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, 2)), max_size=8),
    is_mean=st.booleans(),
    momentum=st.sampled_from((0.0, 0.01, 0.3, 0.9, 1.0)),
)
def test_the_update_is_the_definition_at_any_sizes_slots_and_empty_rows(
    seed: int,
    batch: int,
    cells: tuple[int, int],
    pixels: tuple[int, int],
    slots: int,
    empty: set[tuple[int, int]],
    is_mean: bool,
    momentum: float,
) -> None:
    memory, features, label = random_case(seed, batch=batch, cells=cells, pixels=pixels, slots=slots)
    for number, slot in empty:
        memory[number, min(slot, slots - 1)] = 0
    strategy: Strategy = "mean" if is_mean and slots == 1 else "cosine_similarity"
    expected = plain_update_memory(memory, features, label, momentum, strategy=strategy)
    result = update_memory(memory, features, label, momentum, strategy=strategy)
    torch.testing.assert_close(result, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("slots", [1, 3])
def test_several_steps_from_an_empty_memory_follow_the_definition(slots: int) -> None:
    memory = expected = torch.zeros(CLASSES, slots, 6, dtype=torch.float64)
    for step in range(6):
        _, features, label = random_case(step)
        expected = plain_update_memory(expected, features, label, 0.9 - step / 10)
        memory = update_memory(memory, features, label, 0.9 - step / 10)
        torch.testing.assert_close(memory, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("slots", [1, 2])
def test_float32_at_the_papers_width_is_within_rounding_of_the_definition(slots: int) -> None:
    memory, features, label = random_case(0, channels=512, cells=(8, 12), pixels=(64, 96), slots=slots)
    expected = plain_update_memory(memory, features, label, 0.9)
    result = update_memory(memory.float(), features.float(), label, 0.9)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


def test_features_of_the_labels_own_size_are_taken_as_they_are() -> None:
    memory, features, label = random_case(1, cells=(19, 23))
    result = update_memory(memory, features, label, 1.0, strategy="mean")
    for number in label.unique()[:-1].tolist():
        expected = features.permute(0, 2, 3, 1)[label == number].mean(dim=0)
        torch.testing.assert_close(result[number, 0], expected)


def test_the_layout_of_the_features_does_not_matter() -> None:
    memory, features, label = random_case(2)
    other = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(update_memory(memory, other, label, 0.9), update_memory(memory, features, label, 0.9))


@pytest.mark.parametrize("slots", [1, 3])
def test_a_batch_without_labels_leaves_every_bit(slots: int) -> None:
    memory, features, label = random_case(3, slots=slots)
    memory[2, 0] = 0
    result = update_memory(memory, features, torch.full_like(label, 255), 0.9)
    torch.testing.assert_close(result, memory, rtol=0, atol=0)


def test_absent_classes_keep_every_bit() -> None:
    memory, features, label = random_case(4, dtype=torch.float32)
    label[(label == 3) | (label == 5)] = 255
    result = update_memory(memory, features, label, 0.9)
    is_kept = (result == memory).all(dim=-1).flatten()
    assert is_kept.tolist() == [number in (3, 5) for number in range(CLASSES)]


def test_labels_beyond_the_classes_are_ignored() -> None:
    memory, features, label = random_case(5)
    odd = label.masked_fill(label == 255, CLASSES).masked_fill(label == 1, -1)
    expected = update_memory(memory, features, label.masked_fill(label == 1, 255), 0.9)
    torch.testing.assert_close(update_memory(memory, features, odd, 0.9), expected, rtol=0, atol=0)


def test_an_empty_slot_becomes_the_plain_mean_and_ends_the_class_for_the_step() -> None:
    memory, features, label = random_case(6, cells=(19, 23), slots=3)
    number = int(label[0, 0, 0])
    memory[number, 1:] = 0
    result = update_memory(memory, features, label, 0.5)[number]
    expected = features.permute(0, 2, 3, 1)[label == number].mean(dim=0)
    torch.testing.assert_close(result[1], expected)
    torch.testing.assert_close(result[[0, 2]], memory[number, [0, 2]], rtol=0, atol=0)


def test_a_slot_that_no_pixel_is_nearest_to_shrinks() -> None:
    memory, features, label = random_case(7, slots=2)
    memory[:, 1] = memory[:, 0]  # equal: every pixel goes to the first
    result = update_memory(memory, features, label, 0.25)
    present = present_classes(label, CLASSES)
    torch.testing.assert_close(result[present, 1], 0.75 * memory[present, 1])
    torch.testing.assert_close(result[:, :1], update_memory(memory[:, :1], features, label, 0.25))


@pytest.mark.parametrize("momentum", [0.9, 1.0])
def test_pixels_exactly_along_their_row_count_the_same(momentum: float) -> None:
    row = torch.zeros(4)
    row[0] = 2.0  # its cosine with itself is exactly 1: weights 0 / 0 without a floor
    features = row.view(1, 4, 1, 1).expand(1, 4, 3, 3)
    label = torch.zeros(1, 9, 9, dtype=torch.int64)
    memory = torch.stack((0.5 * row, row)).unsqueeze(1)
    result = update_memory(memory, features, label, momentum)
    torch.testing.assert_close(result[0, 0], (0.5 + momentum / 2) * row)


def test_zero_features_are_finite() -> None:
    memory, features, label = random_case(8, dtype=torch.float32, slots=2)
    expected = plain_update_memory(memory, torch.zeros_like(features), label, 0.9)
    torch.testing.assert_close(update_memory(memory, torch.zeros_like(features), label, 0.9), expected)


@pytest.mark.parametrize("slots", [1, 2])
def test_inside_autocast_the_memory_is_computed_in_float32(slots: int) -> None:
    memory, features, label = random_case(9, channels=64, slots=slots, dtype=torch.float32)
    half = features.bfloat16()
    expected = plain_update_memory(memory, half.float(), label, 0.9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = update_memory(memory, half, label, 0.9)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_the_update_is_pure_and_outside_the_graph() -> None:
    memory, features, label = random_case(10)
    before = memory.clone()
    result = update_memory(memory, features.requires_grad_(), label, torch.tensor(0.9))
    assert not result.requires_grad
    torch.testing.assert_close(memory, before, rtol=0, atol=0)
    torch.testing.assert_close(result, update_memory(memory, features, label, 0.9))


class _Recorder(TorchDispatchMode):
    """Notes every operation and the size of the largest tensor that one made."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.add(str(func))
        sizes = [leaf.untyped_storage().nbytes() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.largest = max([self.largest, *sizes])
        return result


@pytest.mark.parametrize("slots", [1, 2])
def test_no_tensor_has_features_at_the_labels_size_and_nothing_waits_for_the_host(slots: int) -> None:
    memory, features, label = random_case(11, channels=128, cells=(8, 16), pixels=(64, 128), slots=slots)
    with _Recorder() as recorder:
        update_memory(memory, features, label, 0.9)
    assert "aten.scatter_add_.default" in recorder.names
    waiting = {
        "aten._local_scalar_dense.default",
        "aten.nonzero.default",
        "aten.unique2.default",
        "aten.bincount.default",
    }
    assert not recorder.names & waiting
    assert recorder.largest <= max(features.nbytes, label.nbytes)


def test_present_classes_are_those_with_a_pixel() -> None:
    label = torch.tensor([[[0, 255, 3], [3, 9, -1]]])
    assert present_classes(label, 5).tolist() == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"memory": torch.zeros(CLASSES, 6)}, r"memory \(K, S, C\).* are expected, got \(7, 6\)"),
        ({"memory": torch.zeros(CLASSES, 1, 5)}, "disagree in channels or in images"),
        ({"label": torch.zeros(1, 19, 23, dtype=torch.int64)}, "disagree in channels or in images"),
        ({"strategy": "median"}, "strategy must be one of cosine_similarity, mean, got 'median'"),
        ({"reduce": "sum"}, "reduce must be one of average, joint, got 'sum'"),
        (
            {"memory": torch.ones(CLASSES, 2, 6), "strategy": "mean"},
            "'mean' needs one slot per class, the memory has 2",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], sentence: str) -> None:
    memory, features, label = random_case(12)
    arguments = {"memory": memory, "features": features, "label": label, "momentum": 0.9, **changes}
    with pytest.raises(ValueError, match=sentence):
        update_memory(**arguments)


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 2])
def test_compiled_as_one_graph_it_stays_the_definition_whatever_the_momentum(slots: int) -> None:
    memory, features, label = random_case(13, slots=slots, dtype=torch.float32)
    memory[1, 0] = 0
    torch._dynamo.reset()  # the other case's graphs would count as recompilations
    compiled = torch.compile(update_memory, fullgraph=True, dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for momentum in (1.0, 0.9, 0.01):
            expected = plain_update_memory(memory, features, label, momentum)
            result = compiled(memory, features, label, torch.tensor(momentum))
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
