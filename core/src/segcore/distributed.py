"""Several processes: start from the variables of torchrun or Slurm, sums over all of them, synchronized norms."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segcore.errors import InputError, check

T = TypeVar("T")
_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "xpu": "cpu:gloo,xpu:xccl"}
"""How several processes on a kind of device talk; Apple's GPU (mps) takes one process."""
_KINDS = (*_BACKENDS, "mps")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class World:
    """This process among all.

    Attributes:
        rank: number of this process, 0 to size - 1.
        local_rank: number among the processes of this machine.
        device: where it computes.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0


@dataclass(frozen=True)
class Placement:
    """What a launcher said about this process; `address` is empty where torch's own variables hold it."""

    rank: int
    size: int
    local_rank: int
    address: str = ""
    port: int = 0


_current: World | None = None


def init(device: str = "auto") -> World:
    """Start this process's part of the run; without a launcher, of a run of one process.

    Processes on a CPU talk through gloo, those on GPUs through nccl (xccl on Intel's).

    Args:
        device: cpu, cuda, mps, xpu, or auto (cuda if there is one, else cpu).

    Raises:
        InputError: if there is no such device, fewer GPUs than processes, or the launcher's variables are incomplete.
    """
    global _current
    place = read_placement(os.environ)
    chosen = _own_device(device, place.local_rank)
    check(place.size == 1 or chosen.type in _BACKENDS, f"--run.device {chosen.type} takes one process; start one")
    if place.size > 1 and not dist.is_initialized():
        if place.address:
            os.environ.setdefault("MASTER_ADDR", place.address)
            os.environ.setdefault("MASTER_PORT", str(place.port))
        dist.init_process_group(
            _BACKENDS[chosen.type],
            rank=place.rank,
            world_size=place.size,
            device_id=None if chosen.type == "cpu" else chosen,
        )
    _current = World(place.rank, place.size, place.local_rank, chosen)
    return _current


def _own_device(device: str, local_rank: int) -> torch.device:
    """Return the device of a process of ours; a GPU becomes the one that the process uses."""
    kind = _kind(device)
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.accelerator.device_count()
    if local_rank >= count:
        raise InputError(f"process {local_rank} of this machine has no GPU of its own: there are {count}; start fewer")
    torch.accelerator.set_device_index(local_rank)
    return torch.device(kind, local_rank)


def _kind(device: str) -> str:
    """Return the kind of a device by its name.

    "auto" takes GPUs that speak CUDA (NVIDIA, and AMD by ROCm), for which there are kernels; others it only mentions.
    """
    check(device in ("auto", *_KINDS), f"--run.device must be {', '.join(_KINDS)} or auto, got {device!r}")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    found = "cpu" if accelerator is None else accelerator.type
    if device == "auto":
        if found in ("mps", "xpu"):
            log.warning("--run.device auto takes the CPU; this machine also has %s, untested: name it to use it", found)
        return "cuda" if found == "cuda" else "cpu"
    check(
        device in ("cpu", found),
        f"--run.device {device}: this machine has no GPU of this kind that torch can use; give --run.device cpu",
    )
    return device


def current_device(device: str) -> torch.device:
    """Return the device of a name; of GPUs it is the one that this process uses already.

    Args:
        device: cpu, cuda, mps, xpu, or auto (cuda if there is one, else cpu).

    Raises:
        InputError: if there is no such device.
    """
    kind = _kind(device)
    return torch.device("cpu") if kind == "cpu" else torch.device(kind, torch.accelerator.current_device_index())


def read_placement(variables: Mapping[str, str]) -> Placement:
    """Read this process's place from the variables of torchrun or of a Slurm step (`srun`).

    A Slurm batch script outside `srun` is one process, although SLURM_NTASKS may say more.

    Raises:
        InputError: if a variable is missing or no number.
    """
    if "RANK" in variables and "WORLD_SIZE" in variables:
        size = _number(variables, "WORLD_SIZE")
        if size > 1 and "MASTER_ADDR" not in variables:
            raise InputError("WORLD_SIZE is set but MASTER_ADDR is not; start several processes with torchrun or srun")
        return Placement(_number(variables, "RANK"), size, _number(variables, "LOCAL_RANK"))
    if variables.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        address = variables.get("MASTER_ADDR") or _first_host(variables)
        # any free port does, as long as all processes of the step agree on it
        port = int(variables.get("MASTER_PORT") or 20_000 + _number(variables, "SLURM_JOB_ID") % 20_000)
        ranks = _number(variables, "SLURM_PROCID"), _number(variables, "SLURM_STEP_NUM_TASKS")
        return Placement(*ranks, _number(variables, "SLURM_LOCALID"), address, port)
    return Placement(0, 1, 0)


def _number(variables: Mapping[str, str], name: str) -> int:
    text = variables.get(name, "")
    if not text.isdecimal():
        raise InputError(f"the variable {name} must be a number, got {text!r}; start with torchrun or srun")
    return int(text)


def _first_host(variables: Mapping[str, str]) -> str:
    """Return the first machine of a Slurm step; `scontrol` expands lists such as node[3-5,9]."""
    nodes = variables.get("SLURM_STEP_NODELIST", "")
    if not nodes:
        raise InputError("SLURM_STEP_NODELIST is not set; start with srun, or set MASTER_ADDR to the first machine")
    if "[" not in nodes and "," not in nodes:
        return nodes
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise InputError(f"scontrol cannot expand {nodes!r} ({error}); set MASTER_ADDR to the first machine") from error


def world() -> World:
    """Return this process's place; a single process on the CPU before `init`."""
    return _current or World(0, 1, 0, torch.device("cpu"))


def is_main() -> bool:
    """Return whether this process writes files and talks."""
    return world().is_main


def shutdown() -> None:
    """Leave the run; harmless where `init` was not called."""
    global _current
    if dist.is_initialized():
        dist.destroy_process_group()
    _current = None


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Replace a tensor by its sum over all processes, in place, and return it."""
    if dist.is_initialized():
        dist.all_reduce(tensor, dist.ReduceOp.SUM)
    return tensor


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Replace a tensor by its maximum over all processes, in place, and return it."""
    if dist.is_initialized():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor


def broadcast_object(value: T) -> T:
    """Return the first process's value on every process; the others' argument is ignored."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        device = world().device
        dist.barrier(device_ids=None if device.type == "cpu" else [device.index])


def synchronize_norms(model: nn.Module) -> nn.Module:
    """Make batch norms compute their statistics over all GPUs, except under modules with `synchronized_norm = False`.

    torch has synchronized norms for GPUs only: on CPUs every process keeps its own statistics, which is said once.
    A single process needs nothing.

    Returns:
        The model; another module where it is a norm itself.
    """
    place = world()
    if place.size == 1:
        return model
    if place.device.type == "cpu":
        if place.is_main:
            log.warning(
                "torch synchronizes batch norms on GPUs only: each of the %d CPU processes keeps its own", place.size
            )
        return model
    return replace_norms(model)


def synchronized_norms(module: nn.Module) -> set[nn.Module]:
    """Return the batch norms that share their statistics when training runs on several GPUs."""
    if not getattr(module, "synchronized_norm", True):
        return set()
    found = {norm for child in module.children() for norm in synchronized_norms(child)}
    return found | {module} if isinstance(module, _BatchNorm) else found


def replace_norms(model: nn.Module) -> nn.Module:
    """Replace batch norms by synchronized ones with the same tensors, except where a module forbids it."""
    if not getattr(model, "synchronized_norm", True):
        return model
    if isinstance(model, _BatchNorm):
        return convert_sync_batchnorm(model)  # timm's: torch's would lose the activation of timm's norms
    for name, child in model.named_children():
        replaced = replace_norms(child)
        if replaced is not child:
            setattr(model, name, replaced)
    return model
