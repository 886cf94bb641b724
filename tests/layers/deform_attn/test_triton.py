"""The Triton kernels equal the plain form: on a GPU, else in Triton's interpreter; and they compile without a GPU."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

from segcore.layers.deform_attn.op import deform_attn
from tests.layers.deform_attn.cases import CASES, Sizes, compare, random_inputs
from tests.triton_interpreter import run_interpreted

triton = pytest.importorskip("triton")
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
SIZES = ((3, 5), (17, 2), (1, 1))
needs_device = pytest.mark.skipif(
    not IS_INTERPRETED and not torch.cuda.is_available(), reason="run by the test that starts the interpreter"
)
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}  # halves: one unit in the last place


@needs_device
@pytest.mark.parametrize("name", ["msda_d24_l2_p3", "msda_d10_l4_p8", "msda_exact_integers", "unept_msda_op"])
def test_outputs_and_gradients_are_the_published_ones(name: str) -> None:
    assert list(compare(CASES[name], torch.float32, "triton", DEVICE, 3e-5)) == []


@needs_device
@pytest.mark.parametrize(
    ("width", "dtype"),
    [(16, torch.float16), (24, torch.float32), (32, torch.bfloat16), (100, torch.bfloat16), (128, torch.float32)],
)
def test_kernels_equal_the_plain_form(width: int, dtype: torch.dtype) -> None:
    inputs = random_inputs(SIZES, queries=3, width=width, dtype=dtype).to(dtype, DEVICE)
    inputs = inputs._replace(locations=inputs.locations.float(), weights=inputs.weights.float())
    for result, expected in zip(inputs.run("triton"), inputs.run("reference"), strict=True):
        assert result.dtype == expected.dtype
        torch.testing.assert_close(result, expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


@needs_device
@pytest.mark.parametrize(("sizes", "points"), [(((4, 6),), 1), (((5, 3), (2, 2), (3, 1), (1, 4), (2, 5)), 3)])
def test_any_number_of_levels_and_points(sizes: Sizes, points: int) -> None:
    inputs = random_inputs(sizes, queries=40, batch=1, heads=1, width=32, points=points).to(torch.float32, DEVICE)
    for result, expected in zip(inputs.run("triton"), inputs.run("reference"), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


@needs_device
def test_locations_far_away_and_at_infinity_count_as_zero() -> None:
    inputs = random_inputs(SIZES).to(torch.float32, DEVICE)
    inputs.locations[:, :3] = torch.tensor([1e30, -1e30, float("inf")], device=DEVICE).view(1, 3, 1, 1, 1, 1)
    output, grad_value, grad_locations, grad_weights = inputs.run("triton")
    assert not output[:, :3].any()
    assert not grad_locations[:, :3].any()
    assert not grad_weights[:, :3].any()
    expected = inputs._replace(locations=inputs.locations.clamp(-9, 9)).run("reference")
    torch.testing.assert_close(output, expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad_value, expected[1], rtol=1e-4, atol=1e-4)


@needs_device
def test_no_queries_start_no_kernel() -> None:
    inputs = random_inputs(SIZES, queries=0).to(torch.float32, DEVICE)
    output, grad_value, *_ = inputs.run("triton")
    assert output.shape == (2, 0, 48)
    assert not grad_value.any()


@pytest.mark.skipif(IS_INTERPRETED, reason="this is the interpreter")
def test_the_interpreter_passes_the_tests_above() -> None:
    assert "13 passed" in run_interpreted(__file__)


@pytest.mark.slow
@pytest.mark.skipif(IS_INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("width", "levels", "points"), [(32, 3, 4), (64, 1, 4), (32, 3, 16), (24, 4, 8)])
def test_the_kernels_compile_for_gpus_that_are_not_here(
    width: int, levels: int, points: int, capability: int, dtype: str
) -> None:
    backends = importlib.import_module("triton.backends.compiler")
    kernels = importlib.import_module("segcore.layers.deform_attn.triton")
    for kernel, tile in ((kernels._forward_kernel, kernels._FORWARD), (kernels._backward_kernel, kernels._BACKWARD)):
        signature = {}
        for name in kernel.arg_names:
            if name in ("value", "output", "grad"):
                signature[name] = f"*{dtype}"
            elif name in ("locations", "weights") or name.startswith("grad_"):
                signature[name] = "*fp32"
            elif name in ("heights", "widths"):
                signature[name] = ("fp32",) * levels
            else:
                signature[name] = "constexpr" if name.isupper() else "i32"
        constants = {"NUM_HEADS": 6, "HEAD_WIDTH": width, "NUM_LEVELS": levels, "NUM_POINTS": points}
        constants |= kernels.blocks(tile, width, points)
        places = {(kernel.arg_names.index(name),): number for name, number in constants.items()}
        aligned = {
            (i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if signature[name][0] == "*"
        }
        source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=aligned)
        target = backends.GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source, target=target, options={"num_warps": tile.warps})
        assert spilled_bytes(compiled.asm["cubin"]) == 0


def spilled_bytes(cubin: bytes) -> int:
    """Return the bytes of memory that each thread of a compiled kernel needs because its registers do not suffice."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        command = [str(tool), "--dump-resource-usage", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    numbers = re.findall(r"(?:STACK|LOCAL):(\d+)", done.stdout)
    assert numbers, done.stdout
    return sum(int(number) for number in numbers)


@pytest.mark.gpu
@needs_device
def test_the_host_never_waits_for_the_device() -> None:
    inputs = random_inputs(SIZES).to(torch.float32, "cuda")
    inputs.run("triton")  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        inputs.run("auto")
        deform_attn(inputs.value, SIZES, inputs.locations, inputs.weights)
    finally:
        torch.cuda.set_sync_debug_mode("default")
