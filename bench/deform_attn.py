"""Deformable attention at the papers' shapes: ours against the plain grid_sample form, compiled too; on a GPU also
against a naive Triton kernel and mmcv's operator, with peak memory and the distance from the memory's bandwidth.

On the CPU processor time of one thread, so that other load does not count; on a GPU the median of timed calls.
Exits with 1 where a target of the CPU is missed. A form that computes something else is named, and timed all the same.

python bench/deform_attn.py [--repeats N] [--batches 1 2 8] [--compile]
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from segcore.layers.deform_attn.op import deform_attn
from segcore.layers.deform_attn.points import reference_grid, sampling_locations

CPU_TARGET = 1.5  # times the plain form, forward, at every shape of ECFD
GPU_TARGETS = {"plain eager": 8.0, "naive Triton": 2.0}  # forward and backward, bfloat16
MEMORY_TARGET = 1.5  # times inputs, outputs and gradients
Sizes = tuple[tuple[int, int], ...]
Attend = Callable[[Tensor, Sizes, Tensor, Tensor], Tensor]

_LEVELS: Sizes = ((64, 128), (32, 64), (16, 32))  # ECFD's levels 2, 3 and 4 at 512x1024


@dataclass(frozen=True)
class Shape:
    """One use of the operator in a paper."""

    name: str
    query_maps: Sizes
    value_maps: Sizes
    heads: int
    width: int
    points: int


SHAPES = (
    Shape("ECFD tiny, context reads spatial", _LEVELS[1:2], _LEVELS, 6, 32, 4),
    Shape("ECFD tiny, spatial reads context", _LEVELS, _LEVELS[1:2], 6, 32, 4),
    Shape("ECFD small, context reads spatial", _LEVELS[1:2], _LEVELS, 6, 64, 4),
    Shape("ECFD small, spatial reads context", _LEVELS, _LEVELS[1:2], 6, 64, 4),
    Shape("UN-EPT DeiT, encoder", ((30, 30),) * 3, ((30, 30),) * 3, 8, 32, 16),
    Shape("UN-EPT DeiT, decoder", ((60, 60),), ((30, 30),) * 3, 8, 32, 16),
    Shape("UN-EPT R50, encoder", ((60, 60),) * 3, ((60, 60),) * 3, 8, 32, 16),
    Shape("UN-EPT R50, decoder", ((60, 60),), ((60, 60),) * 3, 8, 32, 16),
)


@dataclass(frozen=True)
class Inputs:
    """Tensors for one shape, and the gradient of the output."""

    tensors: tuple[Tensor, Tensor, Tensor]  # value, locations, weights
    sizes: Sizes
    grad: Tensor

    @classmethod
    def of(cls, shape: Shape, batch: int, dtype: torch.dtype, device: str) -> Inputs:
        """Draw values, and locations a few pixels around the queries, as trained offsets are."""
        torch.compiler.reset()  # a compiled form counts how often it was compiled, and gives up
        generator = torch.Generator().manual_seed(0)
        reference = reference_grid(shape.query_maps)
        samples = (batch, reference.shape[1], shape.heads, len(shape.value_maps), shape.points)
        offsets = 3 * torch.randn(*samples, 2, generator=generator)
        locations = _off_whole_pixels(sampling_locations(reference, offsets, shape.value_maps), shape.value_maps)
        weights = torch.randn(*samples[:3], samples[3] * samples[4], generator=generator).softmax(-1).view(samples)
        rows = sum(height * width for height, width in shape.value_maps)
        value = torch.randn(batch, rows, shape.heads, shape.width, generator=generator).to(dtype)
        grad = torch.randn(batch, samples[1], shape.heads * shape.width, generator=generator).to(dtype)
        tensors = tuple(tensor.to(device).requires_grad_() for tensor in (value, locations, weights))
        return cls(tensors, shape.value_maps, grad.to(device))  # pyright: ignore[reportArgumentType]

    @property
    def bytes(self) -> int:
        """Size of inputs, output and all their gradients."""
        return 2 * sum(tensor.numel() * tensor.element_size() for tensor in (*self.tensors, self.grad))

    def forward(self, attend: Attend) -> Tensor:
        """Compute the output alone."""
        with torch.no_grad():
            return attend(self.tensors[0], self.sizes, *self.tensors[1:])

    def both(self, attend: Attend) -> tuple[Tensor, ...]:
        """Compute output and gradients."""
        output = attend(self.tensors[0], self.sizes, *self.tensors[1:])
        return output.detach(), *torch.autograd.grad(output, self.tensors, self.grad)


def _off_whole_pixels(locations: Tensor, sizes: Sizes) -> Tensor:
    """Move samples a hundredth of a pixel away from whole pixels, where the derivative jumps: rounding would decide."""
    extents = torch.tensor([(width, height) for height, width in sizes]).view(-1, 1, 2)
    pixels = locations * extents - 0.5
    return (pixels.floor() + (pixels - pixels.floor()).clamp(0.01, 0.99) + 0.5) / extents


def plain(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Compute the grid_sample form."""
    return deform_attn(value, sizes, locations, weights, backend="reference")


def mistake(inputs: Inputs, attend: Attend, name: str) -> str:
    """Return how a form's output or gradients differ from those of the plain form, "" where they do not."""
    allowed = 1e-3 if inputs.grad.dtype == torch.float32 else 2e-2  # of the largest number
    parts = ("output", "gradient of the value", "gradient of the locations", "gradient of the weights")
    for part, result, expected in zip(parts, inputs.both(attend), inputs.both(plain), strict=True):
        error = float((result.float() - expected.float()).abs().max() / expected.float().abs().max())
        if not error < allowed:
            return f"{name} is off by {error:.2e} in its {part}"
    return ""


def cpu_seconds(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return for each call the median processor time; the calls take turns."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, taken in zip(calls, seconds, strict=True):
            started = time.process_time()
            call()
            if turn:  # the first one warms up
                taken.append(time.process_time() - started)
    return [median(taken) for taken in seconds]


def gpu_seconds(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return for each call the median time on the device, after a few calls."""
    results = []
    for call in calls:
        times = []
        for turn in range(repeats + 5):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            if turn >= 5:
                times.append(start.elapsed_time(end) / 1e3)
        results.append(median(times))
    return results


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the most device memory that was in use during a call, without what is resident before it."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


def bench_cpu(repeats: int, batches: Sequence[int], is_compiled: bool) -> bool:
    """Print the table of the CPU; returns whether every target is met."""
    torch.set_num_threads(1)
    forms: dict[str, Attend] = {"plain": plain, "ours": deform_attn}
    if is_compiled:
        forms["plain compiled"] = torch.compile(plain, dynamic=False)
    print(f"CPU, float32, processor time of one thread, median of {repeats} runs. Torch {torch.__version__}.")
    print(f"Target: forward {CPU_TARGET} times faster than the plain form at ECFD's shapes.\n")
    print("| shape | batch | form | forward ms | faster | forward + backward ms | faster |")
    print("|---|---|---|---|---|---|---|")
    is_met = True
    for shape in SHAPES:
        for batch in batches:
            inputs = Inputs.of(shape, batch, torch.float32, "cpu")
            if wrong := mistake(inputs, deform_attn, "ours"):
                print(f"\n{shape.name}, batch {batch}: {wrong}.\n")
                is_met = False
            forward = cpu_seconds([partial(inputs.forward, form) for form in forms.values()], repeats)
            both = cpu_seconds([partial(inputs.both, form) for form in forms.values()], max(2, repeats // 2))
            for name, first, second in zip(forms, forward, both, strict=True):
                print(
                    f"| {shape.name} | {batch} | {name} | {1e3 * first:.1f} | {forward[0] / first:.1f} "
                    f"| {1e3 * second:.1f} | {both[0] / second:.1f} |"
                )
            is_met &= not shape.name.startswith("ECFD") or forward[0] / forward[1] >= CPU_TARGET
    return is_met


def gpu_forms(is_compiled: bool) -> dict[str, Attend]:
    """Return the forms that this GPU's installation has, the plain one first."""
    # bench/baselines is not a package: the programs of bench/ are run one by one
    sys.path.insert(0, str(Path(__file__).parent / "baselines"))
    from naive_deform_attn import naive_deform_attn

    forms: dict[str, Attend] = {"plain eager": plain}
    if is_compiled:
        forms["plain compiled"] = torch.compile(plain, dynamic=False)
    forms["naive Triton"] = naive_deform_attn
    if importlib.util.find_spec("mmcv") and importlib.util.find_spec("mmcv._ext"):
        forms["mmcv"] = partial(deform_attn, backend="mmcv")
    return {**forms, "ours": deform_attn}


def bandwidth() -> float:
    """Return the bytes per second that a large copy on the device reads and writes."""
    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    (seconds,) = gpu_seconds([lambda: target.copy_(source)], 20)
    return 2 * source.numel() * 4 / seconds


def bench_gpu(repeats: int, batches: Sequence[int], is_compiled: bool) -> None:
    """Print the table of the GPU, and below it the targets that are missed."""
    forms, speed = gpu_forms(is_compiled), bandwidth()
    print(f"\n{torch.cuda.get_device_name()}, median of {repeats} runs; a copy moves {speed / 1e12:.2f} TB/s.")
    print("Floor: the time to move inputs, outputs and gradients once. Peak: in units of their size.\n")
    print("| shape | batch | type | form | forward ms | forward + backward ms | of the floor | peak |")
    print("|---|---|---|---|---|---|---|---|")
    missed = []
    for shape in SHAPES:
        for batch in batches:
            for dtype in (torch.float32, torch.bfloat16):
                inputs = Inputs.of(shape, batch, dtype, "cuda")
                label = f"{shape.name} | {batch} | {str(dtype).removeprefix('torch.')}"
                wrong = [mistake(inputs, form, name) for name, form in forms.items()]
                missed += [f"{label}: {words}" for words in wrong if words]
                forward = gpu_seconds([partial(inputs.forward, form) for form in forms.values()], repeats)
                both = gpu_seconds([partial(inputs.both, form) for form in forms.values()], repeats)
                # what is resident before the call counts as well: inputs and the gradient of the output
                resident = inputs.bytes / 2
                peaks = [(peak_bytes(partial(inputs.both, form)) + resident) / inputs.bytes for form in forms.values()]
                for name, first, second, peak in zip(forms, forward, both, peaks, strict=True):
                    floor = second / (inputs.bytes / speed)
                    print(f"| {label} | {name} | {1e3 * first:.3f} | {1e3 * second:.3f} | {floor:.1f} | {peak:.2f} |")
                times = dict(zip(forms, both, strict=True))
                ratios = {name: times[name] / times["ours"] for name in GPU_TARGETS}
                if dtype == torch.bfloat16:
                    missed += [f"{label}: {r:.1f} x {n}" for n, r in ratios.items() if r < GPU_TARGETS[n]]
                    missed += [f"{label}: peak {peaks[-1]:.2f}"] * (peaks[-1] > MEMORY_TARGET)
    print("\nTargets missed (" + ", ".join(f"{ratio} x {name}" for name, ratio in GPU_TARGETS.items()), end="")
    print(f", peak {MEMORY_TARGET}; bfloat16): " + ("; ".join(missed) or "none") + ".")


def main() -> int:
    """Print the tables; returns 1 where a target of the CPU is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=0, help="timed runs of every form (default 5 on CPU, 50 on GPU)")
    parser.add_argument("--batches", type=int, nargs="+", default=[], help="(default 1 on CPU, 1 2 8 on GPU)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="the plain form too")
    options = parser.parse_args()
    is_met = bench_cpu(options.repeats or 5, options.batches or [1], options.compile)
    if torch.cuda.is_available():
        bench_gpu(options.repeats or 50, options.batches or [1, 2, 8], options.compile)
    else:
        print("\nNo GPU here: nothing was measured on one.")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
