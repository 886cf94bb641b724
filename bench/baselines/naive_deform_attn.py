"""Deformable attention with the Triton kernels one writes first: a program for each query and head.

Only a yardstick for bench/deform_attn.py: no blocks of queries, so each program reads its locations one by one and a
warp works on one row of channels.
"""

# ruff: noqa: N803 - constants of a kernel are in capitals, as Triton writes them
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

Sizes = tuple[tuple[int, int], ...]


def naive_deform_attn(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Compute `segcore.layers.deform_attn.op.deform_attn`."""
    return _NaiveDeformAttn.apply(value, locations, weights, sizes)  # pyright: ignore[reportReturnType]


class _NaiveDeformAttn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.sizes = sizes
        output = value.new_empty((value.shape[0], weights.shape[1], value.shape[2] * value.shape[3]))
        _launch(_forward_kernel, value, locations, weights, sizes, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        value, locations, weights = ctx.saved_tensors
        grad_value = torch.zeros(value.shape, dtype=torch.float32, device=value.device)
        outputs = (grad_value, torch.empty_like(locations), torch.empty_like(weights))
        _launch(_backward_kernel, value, locations, weights, ctx.sizes, grads[0].contiguous(), *outputs)
        return grad_value.to(value.dtype), *outputs[1:], None


def _launch(kernel: Any, value: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes, *outputs: Tensor) -> None:
    batch, queries, heads, levels, points = weights.shape
    width = value.shape[-1]
    kernel[(batch * queries * heads,)](
        value,
        locations,
        weights,
        *outputs,
        queries * heads,
        value.shape[1] * heads * width,
        tuple(height for height, _ in sizes),
        tuple(width for _, width in sizes),
        HEADS=heads,
        WIDTH=width,
        LEVELS=levels,
        POINTS=points,
        BLOCK=triton.next_power_of_2(width),
        num_warps=1,
        enable_fp_fusion=True,
    )


@triton.jit
def _forward_kernel(
    value,
    locations,
    weights,
    output,
    rows_per_image,
    image_size,
    heights,
    widths,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channels = tl.arange(0, BLOCK)
    origin = value + (row // rows_per_image) * image_size + (row % HEADS) * WIDTH + channels
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    start = 0
    for level in tl.static_range(LEVELS):  # pyright: ignore[reportGeneralTypeIssues]
        for point in range(POINTS):
            sample = row * (LEVELS * POINTS) + level * POINTS + point
            x = tl.load(locations + 2 * sample) * widths[level] - 0.5
            y = tl.load(locations + 2 * sample + 1) * heights[level] - 0.5
            weight = tl.load(weights + sample)
            for corner in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
                column = tl.floor(x) + corner % 2
                line = tl.floor(y) + corner // 2
                is_inside = (column >= 0) & (column < widths[level]) & (line >= 0) & (line < heights[level])
                factor = weight * (1 - tl.abs(x - column)) * (1 - tl.abs(y - line))
                place = (start + line.to(tl.int32) * widths[level] + column.to(tl.int32)) * (HEADS * WIDTH)
                total += factor * tl.load(origin + place, mask=channels < tl.where(is_inside, WIDTH, 0), other=0.0).to(
                    tl.float32
                )
        start += heights[level] * widths[level]
    tl.store(output + row * WIDTH + channels, total.to(output.dtype.element_ty), mask=channels < WIDTH)


@triton.jit
def _backward_kernel(
    value,
    locations,
    weights,
    grad,
    grad_value,
    grad_locations,
    grad_weights,
    rows_per_image,
    image_size,
    heights,
    widths,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channels = tl.arange(0, BLOCK)
    origin = (row // rows_per_image) * image_size + (row % HEADS) * WIDTH + channels
    slope = tl.load(grad + row * WIDTH + channels, mask=channels < WIDTH, other=0.0).to(tl.float32)
    start = 0
    for level in tl.static_range(LEVELS):  # pyright: ignore[reportGeneralTypeIssues]
        for point in range(POINTS):
            sample = row * (LEVELS * POINTS) + level * POINTS + point
            x = tl.load(locations + 2 * sample) * widths[level] - 0.5
            y = tl.load(locations + 2 * sample + 1) * heights[level] - 0.5
            weight = tl.load(weights + sample)
            slope_weight = 0.0
            slope_x = 0.0
            slope_y = 0.0
            for corner in tl.static_range(4):  # pyright: ignore[reportGeneralTypeIssues]
                column = tl.floor(x) + corner % 2
                line = tl.floor(y) + corner // 2
                is_inside = (column >= 0) & (column < widths[level]) & (line >= 0) & (line < heights[level])
                along_x = 1 - tl.abs(x - column)
                along_y = 1 - tl.abs(y - line)
                place = (start + line.to(tl.int32) * widths[level] + column.to(tl.int32)) * (HEADS * WIDTH)
                mask = channels < tl.where(is_inside, WIDTH, 0)
                product = tl.sum(tl.load(value + origin + place, mask=mask, other=0.0).to(tl.float32) * slope)
                slope_weight += along_x * along_y * product
                slope_x += (2 * (corner % 2) - 1) * along_y * product
                slope_y += (2 * (corner // 2) - 1) * along_x * product
                tl.atomic_add(grad_value + origin + place, weight * along_x * along_y * slope, mask=mask, sem="relaxed")
            tl.store(grad_weights + sample, slope_weight)
            tl.store(grad_locations + 2 * sample, slope_x * weight * widths[level])
            tl.store(grad_locations + 2 * sample + 1, slope_y * weight * heights[level])
        start += heights[level] * widths[level]
