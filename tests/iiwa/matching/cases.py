"""Similarities for the tests of window matching, and what every assignment must be."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

ROUNDING = 1e-12  # times n_q and the largest magnitude: how far a total in float64 may be from the optimum


def random_similarity(*shape: int, seed: int = 0) -> Tensor:
    """Return (B, n_q, n_k) normal numbers: the optimum is unique by a wide margin."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def smooth_similarity(*shape: int, seed: int = 0) -> Tensor:
    """Return (B, n_q, n_k) products of features that change slowly from window to window, as pooled maps do."""
    batch, num_queries, num_memories = shape
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(batch, num_queries + num_memories, 8, generator=generator)
    features = 3 * torch.randn(batch, 1, 8, generator=generator) + 0.3 * steps.cumsum(1)
    return features[:, :num_queries] @ features[:, num_queries:].transpose(1, 2)


def degenerate_similarities() -> dict[str, Tensor]:
    """Return matrices that solvers stumble over: ties, constants, extreme scales and offsets."""
    noise = random_similarity(2, 7, 12, seed=3)
    integers = torch.randint(-2, 3, (2, 7, 12), generator=torch.Generator().manual_seed(4)).float()
    return {
        "zero": torch.zeros(2, 7, 12),
        "constant": torch.full((2, 7, 7), -3.7),
        "integers with many ties": integers,
        "equal rows": noise[:, :1].expand(2, 7, 12),
        "equal columns": noise[:, :, :1].expand(2, 7, 12),
        "huge offset": noise + 1e6,
        "huge scale": noise * 1e8,
        "largest floats": noise.sign() * torch.finfo(torch.float32).max,
        "smallest floats": noise * 1e-42,
        "one huge column": torch.cat([torch.full((2, 7, 1), 1e8), noise], dim=2),
        "rank one": noise[:, :, :1] @ noise[:, :1],
    }


def total(similarity: Tensor, assignment: Tensor) -> np.ndarray:
    """Return the sum of similarities of each image, (B,) float64."""
    return similarity.double().gather(2, assignment[..., None]).sum((1, 2)).numpy()


def best_assignment(similarity: Tensor) -> Tensor:
    """Return SciPy's assignment, image by image."""
    return torch.stack([torch.from_numpy(linear_sum_assignment(one, maximize=True)[1]) for one in similarity.numpy()])


def check(similarity: Tensor, assignment: Tensor) -> None:
    """Fail unless the assignment is one to one and its total is the optimum."""
    batch, num_queries, num_memories = similarity.shape
    assert assignment.dtype == torch.int64
    assert assignment.shape == (batch, num_queries)
    assert all(len(set(row)) == num_queries for row in assignment.tolist())
    assert int(assignment.min()) >= 0
    assert int(assignment.max()) < num_memories
    allowed = ROUNDING * num_queries * float(similarity.abs().max())
    best = total(similarity, best_assignment(similarity))
    np.testing.assert_allclose(total(similarity, assignment), best, rtol=0, atol=allowed)
