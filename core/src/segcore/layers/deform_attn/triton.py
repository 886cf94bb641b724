"""Multi-scale deformable attention on CUDA: one Triton kernel forward, one backward.

A program takes a block of output rows (image, query, head), consecutive in memory: their locations, weights and outputs
are read and written in full lines, and neighboring queries find each other's corners in the cache. All arithmetic is
float32. Backward adds to the value's gradient with atomics, so its last bits depend on the order of the programs.
"""

# ruff: noqa: N803 - constants of a kernel are in capitals, as Triton writes them
from __future__ import annotations

import warnings

import torch
import triton
import triton.language as tl
from torch import Tensor

Sizes = tuple[tuple[int, int], ...]
_TILE = 1024  # numbers of the value in flight for each corner, for _WARPS * 32 threads
_WARPS = 4


def forward(value: Tensor, locations: Tensor, weights: Tensor, level_sizes: Sizes) -> Tensor:
    """Return the sums; see `segcore.layers.deform_attn.op.deform_attn`.

    Shapes:
        value (B, S, M, D), locations (B, Q, M, L, P, 2), weights (B, Q, M, L, P) -> (B, Q, M*D)
    """
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    output = value.new_empty((value.shape[0], weights.shape[1], value.shape[2] * value.shape[3]))
    _launch(_forward_kernel, value, locations, weights, level_sizes, output)
    return output


def backward(
    grad: Tensor, value: Tensor, locations: Tensor, weights: Tensor, level_sizes: Sizes
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of value, locations and weights, given that of the output (B, Q, M*D)."""
    if torch.are_deterministic_algorithms_enabled():
        message = "the backward pass of deformable attention on CUDA has no deterministic form"
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(f"{message}; allow it with torch.use_deterministic_algorithms(True, warn_only=True)")
        warnings.warn(message, stacklevel=2)
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    grad_value = torch.zeros(value.shape, dtype=torch.float32, device=value.device)  # halves would lose small addends
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    outputs = (grad.contiguous(), grad_value, grad_locations, grad_weights)
    _launch(_backward_kernel, value, locations, weights, level_sizes, *outputs)
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _launch(
    kernel: triton.JITFunction, value: Tensor, locations: Tensor, weights: Tensor, level_sizes: Sizes, *outputs: Tensor
) -> None:
    """Start a kernel for all output rows, on the device of the value."""
    _, num_pixels, num_heads, head_width = value.shape
    batch, num_queries, _, num_levels, num_points = weights.shape
    block_width = triton.next_power_of_2(head_width)
    block_rows = max(1, _TILE // block_width)
    num_rows = batch * num_queries * num_heads
    with torch.cuda.device_of(value):
        kernel[(triton.cdiv(num_rows, block_rows),)](
            value,
            locations,
            weights,
            *outputs,
            (num_rows, num_queries * num_heads, num_pixels * num_heads * head_width),
            tuple(height for height, _ in level_sizes),
            tuple(width for _, width in level_sizes),
            NUM_HEADS=num_heads,
            HEAD_WIDTH=head_width,
            NUM_LEVELS=num_levels,
            NUM_POINTS=num_points,
            BLOCK_ROWS=block_rows,
            BLOCK_WIDTH=block_width,
            num_warps=_WARPS,
            enable_fp_fusion=True,
        )


@triton.jit
def _sample(locations, sample, is_row, width, height):
    """Return the upper left corner of samples and the distances from it; far outside, a place whose corners are too."""
    x = tl.load(locations + 2 * sample, mask=is_row, other=0.0) * width - 0.5
    y = tl.load(locations + 2 * sample + 1, mask=is_row, other=0.0) * height - 0.5
    is_outside = (x <= -1) | (x >= width) | (y <= -1) | (y >= height)
    x = tl.where(is_outside, -2.0, x)  # before the conversion to integers, which has no room for every float
    y = tl.where(is_outside, -2.0, y)
    left = tl.floor(x)
    top = tl.floor(y)
    return left.to(tl.int32), top.to(tl.int32), x - left, y - top


@triton.jit
def _corner(
    start,
    left,
    top,
    corner: tl.constexpr,
    width,
    height,
    is_row,
    channels,
    NUM_HEADS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
):
    """Return for one corner of every sample where its channels lie in the image's value, and whether they exist."""
    x = left + corner % 2
    y = top + corner // 2
    is_inside = is_row & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    offsets = ((start + y * width + x) * (NUM_HEADS * HEAD_WIDTH))[:, None] + channels[None, :]
    return offsets, is_inside[:, None] & (channels < HEAD_WIDTH)[None, :]


@triton.jit
def _forward_kernel(
    value,  # (B, S, M, D)
    locations,  # (B, Q, M, L, P, 2)
    weights,  # (B, Q, M, L, P)
    output,  # (B, Q, M, D)
    counts,  # rows B*Q*M, rows of an image Q*M, values of an image S*M*D
    heights,
    widths,
    NUM_HEADS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    NUM_LEVELS: tl.constexpr,
    NUM_POINTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    is_row = rows < counts[0]
    channels = tl.arange(0, BLOCK_WIDTH)
    origin = value + ((rows // counts[1]) * counts[2] + (rows % NUM_HEADS) * HEAD_WIDTH)[:, None]
    total = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), dtype=tl.float32)
    start = 0
    for level in tl.static_range(NUM_LEVELS):  # pyright: ignore[reportGeneralTypeIssues]
        height = heights[level]
        width = widths[level]
        for point in range(NUM_POINTS):
            sample = rows * (NUM_LEVELS * NUM_POINTS) + level * NUM_POINTS + point
            left, top, right_part, lower_part = _sample(locations, sample, is_row, width, height)
            weight = tl.load(weights + sample, mask=is_row, other=0.0)
            for corner in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
                along_x = right_part if corner % 2 else 1 - right_part
                along_y = lower_part if corner // 2 else 1 - lower_part
                at, exists = _corner(start, left, top, corner, width, height, is_row, channels, NUM_HEADS, HEAD_WIDTH)
                values = tl.load(origin + at, mask=exists, other=0.0).to(tl.float32)
                total += (weight * along_x * along_y)[:, None] * values
        start += height * width
    places = output + rows[:, None] * HEAD_WIDTH + channels[None, :]
    tl.store(places, total.to(output.dtype.element_ty), mask=is_row[:, None] & (channels < HEAD_WIDTH)[None, :])


@triton.jit
def _backward_kernel(
    value,  # (B, S, M, D)
    locations,  # (B, Q, M, L, P, 2)
    weights,  # (B, Q, M, L, P)
    grad,  # (B, Q, M, D)
    grad_value,  # (B, S, M, D) float32, zeros
    grad_locations,  # (B, Q, M, L, P, 2)
    grad_weights,  # (B, Q, M, L, P)
    counts,  # rows B*Q*M, rows of an image Q*M, values of an image S*M*D
    heights,
    widths,
    NUM_HEADS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    NUM_LEVELS: tl.constexpr,
    NUM_POINTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    is_row = rows < counts[0]
    # four at a time, as the atomics take them: half-precision loads of eight would pass through shared memory
    channels = tl.max_contiguous(tl.arange(0, BLOCK_WIDTH), 4)
    is_place = is_row[:, None] & (channels < HEAD_WIDTH)[None, :]
    image_head = ((rows // counts[1]) * counts[2] + (rows % NUM_HEADS) * HEAD_WIDTH)[:, None]
    slope = tl.load(grad + rows[:, None] * HEAD_WIDTH + channels[None, :], mask=is_place, other=0.0).to(tl.float32)
    start = 0
    for level in tl.static_range(NUM_LEVELS):  # pyright: ignore[reportGeneralTypeIssues]
        height = heights[level]
        width = widths[level]
        for point in range(NUM_POINTS):
            sample = rows * (NUM_LEVELS * NUM_POINTS) + level * NUM_POINTS + point
            left, top, right_part, lower_part = _sample(locations, sample, is_row, width, height)
            weight = tl.load(weights + sample, mask=is_row, other=0.0)
            slope_weight = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
            slope_x = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
            slope_y = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
            for corner in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
                along_x = right_part if corner % 2 else 1 - right_part
                along_y = lower_part if corner // 2 else 1 - lower_part
                at, exists = _corner(start, left, top, corner, width, height, is_row, channels, NUM_HEADS, HEAD_WIDTH)
                values = tl.load(value + image_head + at, mask=exists, other=0.0).to(tl.float32)
                product = tl.sum(values * slope, axis=1)
                slope_weight += along_x * along_y * product
                slope_x += (along_y if corner % 2 else -along_y) * product
                slope_y += (along_x if corner // 2 else -along_x) * product
                addend = (weight * along_x * along_y)[:, None] * slope
                tl.atomic_add(grad_value + image_head + at, addend, mask=exists, sem="relaxed")
            tl.store(grad_weights + sample, slope_weight, mask=is_row)
            tl.store(grad_locations + 2 * sample, slope_x * weight * width, mask=is_row)
            tl.store(grad_locations + 2 * sample + 1, slope_y * weight * height, mask=is_row)
        start += height * width
