"""Multi-scale deformable attention on CUDA: one Triton kernel forward, one backward.

A program takes a block of queries of one head of an image, neighbors that find each other's corners in the cache, and
reads all points of a level at once, so that many loads are under way together. All arithmetic is float32. Backward adds
to the value's gradient with atomics, so its last bits depend on the order of the programs.
"""

# ruff: noqa: N803 - constants of a kernel are in capitals, as Triton writes them
from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

Sizes = tuple[tuple[int, int], ...]


class Tile(NamedTuple):
    """How much of the value a program reads at once for each corner: its numbers, and the warps that share them."""

    numbers: int
    warps: int


_FORWARD = Tile(512, 1)
_BACKWARD = Tile(1024, 4)


def forward(value: Tensor, locations: Tensor, weights: Tensor, level_sizes: Sizes) -> Tensor:
    """Return the sums; see `segcore.layers.deform_attn.op.deform_attn`.

    Shapes:
        value (B, S, M, D), locations (B, Q, M, L, P, 2), weights (B, Q, M, L, P) -> (B, Q, M*D)
    """
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    output = value.new_empty((value.shape[0], weights.shape[1], value.shape[2] * value.shape[3]))
    _launch(_forward_kernel, _FORWARD, value, locations, weights, level_sizes, output)
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
    _launch(_backward_kernel, _BACKWARD, value, locations, weights, level_sizes, *outputs)
    return grad_value.to(value.dtype), grad_locations, grad_weights


def blocks(tile: Tile, head_width: int, num_points: int) -> dict[str, int]:
    """Return the constants of a kernel that say how many queries, points and channels make up a tile."""
    block_width = triton.next_power_of_2(head_width)
    block_points = min(triton.next_power_of_2(num_points), max(1, tile.numbers // block_width))
    block_queries = max(1, tile.numbers // (block_width * block_points))
    return {"BLOCK_QUERIES": block_queries, "BLOCK_POINTS": block_points, "BLOCK_WIDTH": block_width}


def _launch(
    kernel: triton.JITFunction,
    tile: Tile,
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    level_sizes: Sizes,
    *outputs: Tensor,
) -> None:
    """Start a kernel for all queries and heads, on the device of the value."""
    batch, num_pixels, num_heads, head_width = value.shape
    _, num_queries, _, num_levels, num_points = weights.shape
    constants = blocks(tile, head_width, num_points)
    with torch.cuda.device_of(value):
        kernel[(triton.cdiv(num_queries, constants["BLOCK_QUERIES"]) * num_heads, batch)](
            value,
            locations,
            weights,
            *outputs,
            num_queries,
            num_pixels,
            # floats: for integers that are 1 or divide by 16 Triton would compile a kernel of their own
            tuple(float(height) for height, _ in level_sizes),
            tuple(float(width) for _, width in level_sizes),
            NUM_HEADS=num_heads,
            HEAD_WIDTH=head_width,
            NUM_LEVELS=num_levels,
            NUM_POINTS=num_points,
            **constants,
            num_warps=tile.warps,
            enable_fp_fusion=True,
        )


@triton.jit
def _pairs(pointer, mask):
    """Return two float32 tensors from memory where their numbers alternate, read eight bytes at a time."""
    bits = tl.load(pointer, mask=mask, other=0)
    return bits.to(tl.int32).to(tl.float32, bitcast=True), (bits >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _store_pairs(pointer, first, second, mask):
    """Write two float32 tensors so that their numbers alternate, eight bytes at a time."""
    low = first.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    tl.store(pointer, (second.to(tl.int32, bitcast=True).to(tl.int64) << 32) | low, mask=mask)


@triton.jit
def _corners(pairs, is_sample, width, height):
    """Return the upper left corner of samples and the distances from it; far outside, a place whose corners are too."""
    x, y = _pairs(pairs, is_sample)
    x = x * width - 0.5
    y = y * height - 0.5
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
    is_sample,
    channels,
    NUM_HEADS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
):
    """Return for one corner of every sample where its channels lie in the head's value, and whether they exist."""
    x = left + corner % 2
    y = top + corner // 2
    is_inside = is_sample & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    offsets = ((start + y * width + x) * (NUM_HEADS * HEAD_WIDTH))[:, :, None] + channels
    return offsets, is_inside[:, :, None] & (channels < HEAD_WIDTH)


@triton.jit(do_not_specialize=["num_queries", "num_pixels"])
def _forward_kernel(
    value,  # (B, S, M, D)
    locations,  # (B, Q, M, L, P, 2)
    weights,  # (B, Q, M, L, P)
    output,  # (B, Q, M, D)
    num_queries,
    num_pixels,
    heights,
    widths,
    NUM_HEADS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    NUM_LEVELS: tl.constexpr,
    NUM_POINTS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_POINTS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    head = tl.program_id(0) % NUM_HEADS
    queries = tl.program_id(0) // NUM_HEADS * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    image = tl.program_id(1).to(tl.int64)
    is_query = queries < num_queries
    rows = queries * NUM_HEADS + head
    channels = tl.arange(0, BLOCK_WIDTH)[None, None, :]
    value += image * num_pixels * (NUM_HEADS * HEAD_WIDTH) + head * HEAD_WIDTH
    first_sample = image * num_queries * (NUM_HEADS * NUM_LEVELS * NUM_POINTS)
    pairs = locations.to(tl.pointer_type(tl.int64), bitcast=True) + first_sample
    weights += first_sample
    total = tl.zeros((BLOCK_QUERIES, BLOCK_POINTS, BLOCK_WIDTH), dtype=tl.float32)
    start = 0
    for level in tl.static_range(NUM_LEVELS):  # pyright: ignore[reportGeneralTypeIssues]
        height = tl.cast(heights[level], tl.int32)
        width = tl.cast(widths[level], tl.int32)
        for first in range(0, NUM_POINTS, BLOCK_POINTS):
            points = first + tl.arange(0, BLOCK_POINTS)
            is_sample = is_query[:, None] & (points < NUM_POINTS)[None, :]
            samples = rows[:, None] * (NUM_LEVELS * NUM_POINTS) + (level * NUM_POINTS + points)[None, :]
            left, top, right_part, lower_part = _corners(pairs + samples, is_sample, width, height)
            weight = tl.load(weights + samples, mask=is_sample, other=0.0)
            for corner in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
                along_x = right_part if corner % 2 else 1 - right_part
                along_y = lower_part if corner // 2 else 1 - lower_part
                at, exists = _corner(
                    start, left, top, corner, width, height, is_sample, channels, NUM_HEADS, HEAD_WIDTH
                )
                values = tl.load(value + at, mask=exists, other=0.0).to(tl.float32)
                total += (weight * along_x * along_y)[:, :, None] * values
        start += height * width
    channels = tl.arange(0, BLOCK_WIDTH)[None, :]
    places = output + image * num_queries * (NUM_HEADS * HEAD_WIDTH) + rows[:, None] * HEAD_WIDTH + channels
    result = tl.sum(total, axis=1).to(output.dtype.element_ty)
    tl.store(places, result, mask=is_query[:, None] & (channels < HEAD_WIDTH))


@triton.jit(do_not_specialize=["num_queries", "num_pixels"])
def _backward_kernel(
    value,  # (B, S, M, D)
    locations,  # (B, Q, M, L, P, 2)
    weights,  # (B, Q, M, L, P)
    grad,  # (B, Q, M, D)
    grad_value,  # (B, S, M, D) float32, zeros
    grad_locations,  # (B, Q, M, L, P, 2)
    grad_weights,  # (B, Q, M, L, P)
    num_queries,
    num_pixels,
    heights,
    widths,
    NUM_HEADS: tl.constexpr,
    HEAD_WIDTH: tl.constexpr,
    NUM_LEVELS: tl.constexpr,
    NUM_POINTS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_POINTS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    head = tl.program_id(0) % NUM_HEADS
    queries = tl.program_id(0) // NUM_HEADS * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    image = tl.program_id(1).to(tl.int64)
    is_query = queries < num_queries
    rows = queries * NUM_HEADS + head
    # four at a time, as the atomics take them: half-precision loads of eight would pass through shared memory
    channels = tl.max_contiguous(tl.arange(0, BLOCK_WIDTH), 4)[None, None, :]
    image_head = image * num_pixels * (NUM_HEADS * HEAD_WIDTH) + head * HEAD_WIDTH
    value += image_head
    grad_value += image_head
    first_sample = image * num_queries * (NUM_HEADS * NUM_LEVELS * NUM_POINTS)
    pairs = locations.to(tl.pointer_type(tl.int64), bitcast=True) + first_sample
    grad_pairs = grad_locations.to(tl.pointer_type(tl.int64), bitcast=True) + first_sample
    weights += first_sample
    grad_weights += first_sample
    places = grad + image * num_queries * (NUM_HEADS * HEAD_WIDTH) + (rows * HEAD_WIDTH)[:, None, None] + channels
    slope = tl.load(places, mask=is_query[:, None, None] & (channels < HEAD_WIDTH), other=0.0).to(tl.float32)
    start = 0
    for level in tl.static_range(NUM_LEVELS):  # pyright: ignore[reportGeneralTypeIssues]
        height = tl.cast(heights[level], tl.int32)
        width = tl.cast(widths[level], tl.int32)
        for first in range(0, NUM_POINTS, BLOCK_POINTS):
            points = first + tl.arange(0, BLOCK_POINTS)
            is_sample = is_query[:, None] & (points < NUM_POINTS)[None, :]
            samples = rows[:, None] * (NUM_LEVELS * NUM_POINTS) + (level * NUM_POINTS + points)[None, :]
            left, top, right_part, lower_part = _corners(pairs + samples, is_sample, width, height)
            weight = tl.load(weights + samples, mask=is_sample, other=0.0)
            slope_weight = tl.zeros((BLOCK_QUERIES, BLOCK_POINTS), dtype=tl.float32)
            slope_x = tl.zeros((BLOCK_QUERIES, BLOCK_POINTS), dtype=tl.float32)
            slope_y = tl.zeros((BLOCK_QUERIES, BLOCK_POINTS), dtype=tl.float32)
            for corner in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
                along_x = right_part if corner % 2 else 1 - right_part
                along_y = lower_part if corner // 2 else 1 - lower_part
                at, exists = _corner(
                    start, left, top, corner, width, height, is_sample, channels, NUM_HEADS, HEAD_WIDTH
                )
                values = tl.load(value + at, mask=exists, other=0.0).to(tl.float32)
                product = tl.sum(values * slope, axis=2)
                slope_weight += along_x * along_y * product
                slope_x += (along_y if corner % 2 else -along_y) * product
                slope_y += (along_x if corner // 2 else -along_x) * product
            # after the loads of all corners, none of which would start before an atomic that comes first
            for corner in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
                along_x = right_part if corner % 2 else 1 - right_part
                along_y = lower_part if corner // 2 else 1 - lower_part
                at, exists = _corner(
                    start, left, top, corner, width, height, is_sample, channels, NUM_HEADS, HEAD_WIDTH
                )
                addend = (weight * along_x * along_y)[:, :, None] * slope
                tl.atomic_add(grad_value + at, addend, mask=exists, sem="relaxed")
            tl.store(grad_weights + samples, slope_weight, mask=is_sample)
            _store_pairs(grad_pairs + samples, slope_x * weight * width, slope_y * weight * height, is_sample)
        start += height * width
