"""Processes find each other from the launcher's variables and agree on sums."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import nn

from segcore import distributed
from segcore.distributed import Placement, read_placement, replace_norms
from segcore.errors import InputError

WORKER = Path(__file__).with_name("distributed_worker.py")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _run_two(variables: list[dict[str, str]]) -> list[tuple[dict[str, Any], str]]:
    """Start two workers with the given variables; return what each printed and what it said on standard error."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "MASTER_"))}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER)],
            env={**inherited, "GLOO_SOCKET_IFNAME": "lo", **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in variables
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [(json.loads(out), errors) for out, errors in outputs]


@pytest.fixture(scope="module")
def two_processes() -> list[tuple[dict[str, Any], str]]:
    """Two processes of one group: the first finds itself by torchrun's variables, the second by Slurm's."""
    port = str(_free_port())
    torchrun = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    slurm = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return _run_two([torchrun, slurm])


def test_two_processes_agree_on_sums_and_objects(two_processes: list[tuple[dict[str, Any], str]]) -> None:
    for rank, (result, _) in enumerate(two_processes):
        assert result == {
            "rank": rank,
            "size": 2,
            "is_main": rank == 0,
            "sum": [3, 2**41],
            "max": 1.0,
            "object": {"from": 0},
            "norm_is_unchanged": True,
            "size_after": 1,
        }


def test_norms_that_stay_per_process_on_cpus_are_announced_once(
    two_processes: list[tuple[dict[str, Any], str]],
) -> None:
    said = [errors.count("torch synchronizes batch norms on GPUs only") for _, errors in two_processes]
    assert said == [1, 0]


def test_one_process_needs_no_group() -> None:
    place = distributed.init("cpu")
    assert (place.rank, place.size, place.device.type, place.is_main) == (0, 1, "cpu", True)
    assert distributed.all_reduce_sum(torch.tensor(3)).item() == 3
    assert distributed.broadcast_object("x") == "x"
    distributed.barrier()
    distributed.shutdown()
    assert distributed.world().size == 1


def test_a_slurm_batch_script_outside_srun_is_one_process() -> None:
    variables = {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}
    assert read_placement(variables) == Placement(0, 1, 0)


def test_a_slurm_step_takes_its_port_from_the_job() -> None:
    variables = {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NODELIST": "node7",
        "SLURM_JOB_ID": "123456",
    }
    assert read_placement(variables) == Placement(3, 4, 1, "node7", 23456)


def test_slurm_node_lists_are_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\nprintf 'node3\\nnode4\\n'\n")
    scontrol.chmod(0o755)
    variables = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NODELIST": "node[3-4]",
        "SLURM_JOB_ID": "5",
    }
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert read_placement(variables).address == "node3"
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="set MASTER_ADDR"):
        read_placement(variables)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "MASTER_ADDR is not"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE must be a number, got 'two'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x"}, "LOCAL_RANK must be a number, got ''"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_NODELIST is not set"),
    ],
)
def test_incomplete_variables_are_named(variables: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_placement(variables)


def _give_accelerator(monkeypatch: pytest.MonkeyPatch, kind: str | None, count: int = 1) -> list[int]:
    """Let torch find so many GPUs of a kind; returns the list of those that processes take."""
    taken: list[int] = []
    device = None if kind is None else torch.device(kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: device)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    monkeypatch.setattr(torch.accelerator, "set_device_index", taken.append)
    monkeypatch.setattr(distributed, "_current", None)
    return taken


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_a_gpu_is_taken_by_its_name(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    taken = _give_accelerator(monkeypatch, kind)
    assert distributed.init(kind).device == torch.device(kind, 0)
    assert taken == [0]
    assert distributed.init("cpu").device == torch.device("cpu")


@pytest.mark.parametrize(("kind", "chosen"), [("cuda", "cuda"), ("mps", "cpu"), ("xpu", "cpu"), (None, "cpu")])
def test_auto_takes_the_gpus_that_were_tested_and_mentions_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str | None, chosen: str
) -> None:
    _give_accelerator(monkeypatch, kind)
    assert distributed.init("auto").device.type == chosen
    assert len(caplog.messages) == (kind in ("mps", "xpu"))
    assert all(f"this machine also has {kind}" in message for message in caplog.messages)


def test_a_gpu_that_takes_one_process_refuses_two(monkeypatch: pytest.MonkeyPatch) -> None:
    _give_accelerator(monkeypatch, "mps", 2)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"--run\.device mps takes one process"):
        distributed.init("mps")


def test_an_absent_gpu_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    _give_accelerator(monkeypatch, None)
    with pytest.raises(InputError, match=r"--run\.device cuda: this machine has no GPU"):
        distributed.init("cuda")
    with pytest.raises(InputError, match=r"--run\.device must be cpu, cuda, xpu, mps or auto, got 'tpu'"):
        distributed.init("tpu")


def test_more_processes_than_gpus_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    _give_accelerator(monkeypatch, "cuda", 2)
    for name, value in {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "2", "MASTER_ADDR": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="process 2 of this machine has no GPU of its own: there are 2"):
        distributed.init("cuda")


class _Local(nn.Module):
    """A block whose norms stay per GPU."""

    synchronized_norm = False

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)


def test_norms_are_synchronized_except_where_a_module_forbids_it() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm1d(2), nn.Conv2d(2, 2, 1)), _Local())
    names = list(model.state_dict())
    weight = model[0].weight
    converted = replace_norms(model)
    assert isinstance(converted, nn.Sequential)
    assert isinstance(converted[0], nn.SyncBatchNorm)
    assert converted[0].weight is weight
    assert isinstance(converted[1][0], nn.SyncBatchNorm)
    assert type(converted[2].norm) is nn.BatchNorm2d
    assert list(converted.state_dict()) == names


def test_norms_with_an_activation_keep_it() -> None:
    converted = replace_norms(BatchNormAct2d(2, act_layer=nn.Hardswish))
    assert isinstance(converted, SyncBatchNormAct)
    assert isinstance(converted.act, nn.Hardswish)
