"""Both rules of several processes, with two of them; run as a program, this file is one of the two."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from memorynet.memory import average_over_ranks, present_classes, update_memory
from segcore import distributed
from tests.memorynet.two_processes import run_two

DEFINITION = Path(__file__).parents[2] / "bench" / "baselines" / "memory_update.py"
CLASSES, CHANNELS = 12, 5
STRATEGIES = {"one slot": (1, "cosine_similarity"), "two slots": (2, "cosine_similarity"), "mean": (1, "mean")}


def first_memory(slots: int) -> Tensor:
    """Return a memory of which every third class has an empty row."""
    memory = torch.randn(CLASSES, slots, CHANNELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    memory[::3, -1] = 0
    return memory


def batch_of(rank: int) -> tuple[Tensor, Tensor]:
    """Return a process's features and label; each sees some classes that the other does not, and none sees the last."""
    generator = torch.Generator().manual_seed(1 + rank)
    features = torch.randn(2, CHANNELS, 4, 5, generator=generator, dtype=torch.float64)
    label = torch.randint(4 * rank, 4 * rank + 7, (2, 17, 21), generator=generator)
    label[:, :3] = 255
    return features, label


def main(out: str) -> None:
    """Update with both rules and save the results."""
    torch.set_num_threads(1)
    place = distributed.init("cpu")
    features, label = batch_of(place.rank)
    results = {"present": present_classes(label, CLASSES)}
    for name, (slots, strategy) in STRATEGIES.items():
        before = first_memory(slots)
        own = update_memory(before, features, label, 0.7, strategy=strategy)  # pyright: ignore[reportArgumentType]
        joint = update_memory(before, features, label, 0.7, strategy=strategy, reduce="joint")  # pyright: ignore
        results |= {f"own {name}": own, f"average {name}": average_over_ranks(own), f"joint {name}": joint}
    torch.save(results, out)
    distributed.shutdown()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each of two processes computed."""
    return run_two("tests.memorynet.test_update_distributed", tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_published_rule_averages_what_each_process_made_of_its_own_pixels(
    results: list[dict[str, Tensor]], name: str
) -> None:
    slots, strategy = STRATEGIES[name]
    plain = runpy.run_path(str(DEFINITION))["plain_update_memory"]
    own = [plain(first_memory(slots), *batch_of(rank), 0.7, strategy=strategy) for rank in range(2)]
    assert not torch.allclose(own[0], own[1])
    for rank, result in enumerate(results):
        torch.testing.assert_close(result[f"own {name}"], own[rank])
        torch.testing.assert_close(result[f"average {name}"], (own[0] + own[1]) / 2)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_joint_rule_is_one_process_with_both_batches(results: list[dict[str, Tensor]], name: str) -> None:
    slots, strategy = STRATEGIES[name]
    plain = runpy.run_path(str(DEFINITION))["plain_update_memory"]
    features, label = (torch.cat(parts) for parts in zip(batch_of(0), batch_of(1), strict=True))
    expected = plain(first_memory(slots), features, label, 0.7, strategy=strategy)
    for result in results:
        torch.testing.assert_close(result[f"joint {name}"], expected)
    assert not torch.allclose(results[0][f"average {name}"], expected)


def test_a_class_that_one_process_sees_is_present_for_both(results: list[dict[str, Tensor]]) -> None:
    for result in results:
        assert result["present"].tolist() == [number < 11 for number in range(CLASSES)]


if __name__ == "__main__":
    main(sys.argv[1])
