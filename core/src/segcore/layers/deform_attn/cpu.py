"""Multi-scale deformable attention on the CPU, as sums of gathered rows.

Every query of every head is a bag of 4*L*P rows of the value, the corners around its samples, with one factor each.
Torch sums weighted bags of embeddings with vector instructions, which is what `embedding_bag` is for. Backward, the
factors' gradients are the products of a sparse matrix's places, and the value's gradient is the transposed sum of bags.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

Sizes = tuple[tuple[int, int], ...]
_SAMPLES_AT_ONCE = 1 << 16  # per thread: larger temporaries leave the second-level cache, smaller ones cost calls


def forward(value: Tensor, locations: Tensor, weights: Tensor, level_sizes: Sizes) -> Tensor:
    """Return the sums; see `segcore.layers.deform_attn.op.deform_attn`.

    Shapes:
        value (B, S, M, D), locations (B, Q, M, L, P, 2), weights (B, Q, M, L, P) -> (B, Q, M*D)
    """
    batch, num_rows, num_heads, width = value.shape
    levels = _Levels.of(level_sizes, weights)
    output = value.new_empty((batch, weights.shape[1], num_heads * width))
    parts = _parts(weights)
    bags = _Bags.empty(weights[0, parts[0]])
    for image in range(batch):
        table = value[image].to(weights.dtype).reshape(num_rows * num_heads, width)
        for part in parts:
            filled = bags.part(slice(0, (part.stop - part.start) * num_heads))
            filled.fill(*_axes(locations[image, part], levels), weights[image, part], levels, len(table))
            sums = F.embedding_bag(filled.flat_rows, table, per_sample_weights=filled.flat_factors, mode="sum")
            output[image, part] = sums.view(-1, num_heads * width)
    return output


def backward(
    grad: Tensor, value: Tensor, locations: Tensor, weights: Tensor, level_sizes: Sizes
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of value, locations and weights, given that of the output (B, Q, M*D)."""
    batch, num_rows, num_heads, width = value.shape
    levels = _Levels.of(level_sizes, weights)
    grad_locations, grad_weights = locations.new_empty(locations.shape), weights.new_empty(weights.shape)
    grad_tables = []
    bags = _Bags.empty(weights[0])
    for image in range(batch):
        table = value[image].to(weights.dtype).reshape(num_rows * num_heads, width)
        image_grad = grad[image].to(weights.dtype).reshape(-1, width)  # (Q*M, D)
        for part in _parts(weights):
            rows = slice(part.start * num_heads, part.stop * num_heads)
            filled, axes = bags.part(rows), _axes(locations[image, part], levels)
            filled.fill(*axes, weights[image, part], levels, len(table))
            products = _products(filled, image_grad[rows], table)
            gradients = _chain(products, *axes, weights[image, part], levels)
            grad_locations[image, part], grad_weights[image, part] = gradients
        grad_tables.append(_transposed_sums(bags, image_grad, len(table)).to(value.dtype))
    # one image needs no copy of what may be the largest tensor here
    grad_value = grad_tables[0] if batch == 1 else torch.stack(grad_tables)
    return grad_value.view(value.shape), grad_locations, grad_weights


class _Levels(NamedTuple):
    """What depends on the level only, written out for all M*L*P samples of a query: long vectors are fast."""

    num_heads: int
    width: Tensor  # pixels
    height: Tensor
    last_x: Tensor  # the largest left corner whose right neighbor is inside
    last_y: Tensor
    has_right: Tensor  # 0 where the level is one pixel wide, else 1
    has_below: Tensor
    zero: Tensor
    first: Tensor  # row of the level's first pixel in the table of (pixel, head)
    step_right: Tensor  # rows to the next pixel of the same head
    step_below: Tensor

    @classmethod
    def of(cls, level_sizes: Sizes, weights: Tensor) -> _Levels:
        """Write out the levels for samples shaped as weights (B, Q, M, L, P)."""
        _, _, num_heads, num_levels, num_points = weights.shape
        heights, widths = [height for height, _ in level_sizes], [width for _, width in level_sizes]
        starts = [sum(h * w for h, w in level_sizes[:index]) for index in range(num_levels)]

        def spread(numbers: list[int], dtype: torch.dtype = weights.dtype) -> Tensor:
            column = torch.tensor(numbers, dtype=dtype)[:, None]
            return column.expand(num_heads, num_levels, num_points).flatten()

        heads = torch.arange(num_heads, dtype=torch.int32)[:, None].expand(-1, num_levels * num_points).flatten()
        return cls(
            num_heads=num_heads,
            width=spread(widths),
            height=spread(heights),
            last_x=spread([max(width - 2, 0) for width in widths]),
            last_y=spread([max(height - 2, 0) for height in heights]),
            has_right=spread([int(width > 1) for width in widths]),
            has_below=spread([int(height > 1) for height in heights]),
            zero=spread([0] * num_levels),
            first=heads + spread([start * num_heads for start in starts], torch.int32),
            step_right=spread([num_heads * (width > 1) for width in widths], torch.int32),
            step_below=spread([num_heads * width * (height > 1) for height, width in level_sizes], torch.int32),
        )


class _Axis(NamedTuple):
    """Where samples lie along one axis, between a pixel and the next: both (n, M*L*P).

    Attributes:
        pixel: the lower of two neighboring pixels of the level, both inside it.
        distance: of the sample from `pixel`; -1 to 2 where a neighbor counts.
        near: weight of `pixel`, far: weight of the next one. A weight is 1 - |distance|, at least 0, which is zero
            outside without any test.
    """

    pixel: Tensor
    distance: Tensor
    near: Tensor
    far: Tensor

    @classmethod
    def of(cls, locations: Tensor, extent: Tensor, last: Tensor, has_next: Tensor, zero: Tensor) -> _Axis:
        """Place samples given in 0-1 of an axis of `extent` pixels."""
        position = torch.mul(locations, extent).sub_(0.5)
        pixel = torch.clamp(position.floor(), zero, last)
        distance = position.sub_(pixel)
        near = distance.abs().neg_().add_(1).clamp_(min=0)
        far = (distance - 1).abs_().neg_().add_(1).clamp_(min=0).mul_(has_next)
        return cls(pixel, distance, near, far)

    def slopes(self, has_next: Tensor) -> tuple[Tensor, Tensor]:
        """Return the derivatives of both weights; at a whole pixel those towards the next pixel."""
        is_between = (self.distance >= 0) & (self.distance < 1)
        is_before = (self.distance > -1) & (self.distance < 0)
        is_after = (self.distance >= 1) & (self.distance < 2)
        between = is_between.to(self.distance.dtype)
        return is_before.to(between) - between, (between - is_after.to(between)).mul_(has_next)


class _Bags(NamedTuple):
    """The corners around the samples of some queries and heads: rows of the table (pixel, head), and their factors.

    Both (bags, 4, L*P), a bag for each query and head: the pixels here, right, below, below and right.
    """

    rows: Tensor
    factors: Tensor

    @classmethod
    def empty(cls, weights: Tensor) -> _Bags:
        """Return room for the bags of weights (n, M, L, P)."""
        num_queries, num_heads, num_levels, num_points = weights.shape
        shape = (num_queries * num_heads, 4, num_levels * num_points)
        return cls(weights.new_empty(shape, dtype=torch.int32), weights.new_empty(shape))

    def part(self, bags: slice) -> _Bags:
        """Return some of the bags, in the same memory."""
        return _Bags(self.rows[bags], self.factors[bags])

    @property
    def flat_rows(self) -> Tensor:
        """The rows as (bags, 4*L*P)."""
        return self.rows.flatten(1)

    @property
    def flat_factors(self) -> Tensor:
        """The factors as (bags, 4*L*P)."""
        return self.factors.flatten(1)

    @property
    def starts(self) -> Tensor:
        """Where each bag starts, and where the last one ends."""
        bag = self.rows.shape[1] * self.rows.shape[2]
        return torch.arange(0, self.rows.numel() + 1, bag, dtype=torch.int32)

    def fill(self, x: _Axis, y: _Axis, weights: Tensor, levels: _Levels, num_rows: int) -> None:
        """Write the corners of samples at x and y (n, M*L*P) with weights (n, M, L, P)."""
        pixel = torch.addcmul(x.pixel, y.pixel, levels.width).to(torch.int32)  # exact: below 2^24
        # a location that is not a number gives any integer; its factors make the sum NaN, but the row has to exist
        here = pixel.mul_(levels.num_heads).add_(levels.first).clamp_(0, num_rows - 1)
        right, below = here + levels.step_right, here + levels.step_below
        near, far = y.near * weights.flatten(1), y.far * weights.flatten(1)
        for corner, row in enumerate((here, right, below, right + levels.step_below)):
            self.rows[:, corner] = row.view(self.rows[:, corner].shape)
        for corner, factor in enumerate((near * x.near, near * x.far, far * x.near, far * x.far)):
            self.factors[:, corner] = factor.view(self.factors[:, corner].shape)


def _parts(weights: Tensor) -> list[slice]:
    """Return the slices of the queries of weights (B, Q, M, L, P) that are computed at once."""
    num_queries, samples_per_query = weights.shape[1], weights[0, 0].numel()
    step = max(1, _SAMPLES_AT_ONCE * torch.get_num_threads() // samples_per_query)
    return [slice(start, min(start + step, num_queries)) for start in range(0, num_queries, step)]


def _axes(locations: Tensor, levels: _Levels) -> tuple[_Axis, _Axis]:
    """Return where the samples of locations (n, M, L, P, 2) lie along x and y."""
    points = locations.flatten(1, 3)  # (n, M*L*P, 2)
    return (
        _Axis.of(points[..., 0], levels.width, levels.last_x, levels.has_right, levels.zero),
        _Axis.of(points[..., 1], levels.height, levels.last_y, levels.has_below, levels.zero),
    )


def _products(bags: _Bags, grad: Tensor, table: Tensor) -> Tensor:
    """Return the product of each corner's row with its bag's gradient: the gradients of the factors.

    Shapes:
        grad (bags, D), table (S*M, D) -> (4, bags*L*P)
    """
    _, corners, samples = bags.rows.shape
    if len(table) < corners * samples:  # a bag names rows twice, but torch allows no more places than a matrix has
        table = F.pad(table, (0, 0, 0, corners * samples - len(table)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(
            bags.starts,
            bags.rows.flatten(),
            bags.factors.flatten(),
            (len(grad), len(table)),
            check_invariants=False,
        )
    products = torch.sparse.sampled_addmm(matrix, grad, table.t(), beta=0.0).values()
    return products.view(len(grad), corners, samples).transpose(0, 1).flatten(1)


def _chain(products: Tensor, x: _Axis, y: _Axis, weights: Tensor, levels: _Levels) -> tuple[Tensor, Tensor]:
    """Return the gradients of locations (n, M, L, P, 2) and weights (n, M, L, P) from those of the factors."""
    here, right, below, opposite = products.view(4, *x.near.shape)  # (n, M*L*P) each
    upper, lower = x.near * here + x.far * right, x.near * below + x.far * opposite  # the value in both rows of pixels
    left_slope, right_slope = x.slopes(levels.has_right)
    upper_slope, lower_slope = y.slopes(levels.has_below)
    along_x = left_slope * (y.near * here + y.far * below) + right_slope * (y.near * right + y.far * opposite)
    along_y = upper_slope * upper + lower_slope * lower
    weight = weights.flatten(1)
    grad_locations = torch.stack([along_x * weight * levels.width, along_y * weight * levels.height], dim=-1)
    return grad_locations.view(*weights.shape, 2), (y.near * upper + y.far * lower).view(weights.shape)


def _transposed_sums(bags: _Bags, grad: Tensor, num_rows: int) -> Tensor:
    """Return for each row of the table the sum of the gradients of the bags it is in, times its factors.

    The bags sorted by row are bags again: of queries. SciPy sorts them in two passes over the memory.

    Shapes:
        grad (bags, D) -> (num_rows, D)
    """
    data = bags.factors.flatten().numpy(), bags.rows.flatten().numpy(), bags.starts.numpy()
    by_row = sparse.csc_matrix(data, shape=(num_rows, len(grad))).tocsr()
    return F.embedding_bag(
        torch.from_numpy(by_row.indices),
        grad,
        torch.from_numpy(by_row.indptr),
        per_sample_weights=torch.from_numpy(by_row.data),
        mode="sum",
        include_last_offset=True,
    )
