"""Recorded forward passes, by a stand-in for CUDA graphs; real ones are compared in tests/contract/test_gpu.py."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segcore.layers import replay
from segcore.layers.kept_by_size import KeptBySize, kept_by_size, tables_used
from segcore.layers.replay import RECORD_AFTER, Replays


class Graph:
    """Computes what ran within `record` again, from the same tensor and into the same one."""

    made: Graph

    def __init__(self) -> None:
        Graph.made = self
        self.calls: list[tuple[Network, Tensor, Tensor]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for model, image, logits in self.calls:
            logits.copy_(model.compute(image))


class Network(nn.Module):
    """Doubles; notes its calls for the graph that is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0
        self.graph: Graph | None = None
        self.error: Exception | None = None
        self.recorded_offset = 0.0

    def compute(self, image: Tensor) -> Tensor:
        return 2 * image + self.recorded_offset

    def forward(self, image: Tensor) -> Tensor:
        self.num_calls += 1
        if self.graph is None:
            return 2 * image
        if self.error:
            raise self.error
        logits = torch.empty_like(image)
        self.graph.calls.append((self, image, logits))
        return logits


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """Return a network whose forward passes are recorded by the stand-in."""
    network = Network().eval()

    @contextmanager
    def record(graph: Graph, **_: object) -> Iterator[None]:
        network.graph = graph
        try:
            yield
        finally:
            network.graph = None

    for name, stand_in in {
        "CUDAGraph": Graph,
        "graph": record,
        "current_stream": lambda _device: "stream",
        "graph_pool_handle": lambda: (0, 1),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return network


def run(replays: Replays, network: Network, image: Tensor) -> Tensor:
    """Run a pass as on a CUDA device."""
    return replays._run(network, image, replay._conditions(image))


def test_from_the_ninth_pass_of_a_size_on_the_graph_computes(network: Network) -> None:
    replays, image = Replays(), torch.rand(1, 3, 4, 4)
    for number in range(RECORD_AFTER):
        assert torch.equal(run(replays, network, image + number), 2 * (image + number))
    assert network.num_calls == RECORD_AFTER + 1  # the last is recorded
    results = [run(replays, network, image + number) for number in (20, 30)]
    assert network.num_calls == RECORD_AFTER + 1
    assert Graph.made.replays == 3  # one compared it
    assert torch.equal(results[0], 2 * (image + 20))  # the second did not write over it
    assert torch.equal(results[1], 2 * (image + 30))
    run(replays, network, torch.rand(1, 3, 4, 5))  # another size
    assert network.num_calls == RECORD_AFTER + 2


def test_other_precisions_are_other_recordings(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    replays, image = Replays(), torch.rand(1, 3, 4, 4)
    for _ in range(RECORD_AFTER):
        run(replays, network, image)
    before = network.num_calls
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    run(replays, network, image)
    assert network.num_calls == before + 1


def test_a_recording_that_gives_other_values_is_not_used(network: Network) -> None:
    network.recorded_offset = 1e-6
    check_it_runs_by_itself(network)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), RuntimeError("not permitted when capturing")])
def test_a_network_that_cannot_be_recorded_runs_on(network: Network, error: Exception) -> None:
    network.error = error
    check_it_runs_by_itself(network)


def check_it_runs_by_itself(network: Network) -> None:
    replays, image = Replays(), torch.ones(1, 3, 4, 4)
    for _ in range(RECORD_AFTER + 3):
        assert torch.equal(run(replays, network, image), 2 * image)
    assert network.num_calls == RECORD_AFTER + 3 + 1  # one attempt
    for _ in range(RECORD_AFTER):
        run(replays, network, torch.ones(1, 3, 8, 8))
    assert network.num_calls == 2 * RECORD_AFTER + 3 + 1  # none of another size


def test_on_a_cpu_the_network_runs(network: Network) -> None:
    replays, image = Replays(), torch.ones(1, 3, 4, 4)
    with torch.inference_mode():
        for _ in range(RECORD_AFTER + 1):
            replays(network, image)
    assert network.num_calls == RECORD_AFTER + 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda replays: pickle.loads(pickle.dumps(replays))])
def test_copies_start_without_recordings(network: Network, copied: Any) -> None:
    replays, image = Replays(), torch.ones(1, 3, 4, 4)
    for _ in range(RECORD_AFTER):
        run(replays, network, image)
    assert replays._recordings
    assert not copied(replays)._recordings


def test_a_recording_keeps_the_tables_it_reads() -> None:
    class Bias(KeptBySize):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        @property
        def source(self) -> Tensor:
            return self.weight

        def compute(self, height: int, width: int) -> Tensor:
            return self.weight.expand(height, width)

    grid, bias = kept_by_size(torch.ones), Bias().eval()
    with torch.no_grad():
        _ = grid(2), bias(2, 3)
        with tables_used() as tables:
            found = [grid(2), bias(2, 3)]
        grid(4)
    assert [id(table) for table in tables] == [id(table) for table in found]
