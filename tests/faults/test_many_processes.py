"""torchrun on two machines, played by two of its agents: whatever is killed, the run goes on and ends bit-equal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from segcore.training.run_folder import read_log
from segcore.weights.states import load_state, state_path

STEPS, KILLS, SEED = 660, 10, 18
PATIENCE = 600
"""Seconds for all of a run."""
RECIPE = (
    *("toy", "--schedule.iterations", str(STEPS), "--run.device", "cpu", "--data.workers", "0"),
    *("--run.save-interval", "10", "--run.log-interval", "1"),
)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Cluster:
    """Two agents, each with one process of the run; like a cluster's scheduler, it starts one again that ended."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.said = open(folder.with_suffix(".txt"), "wb")  # noqa: SIM115 - closed by `close`
        self.agents = [self._start(), self._start()]
        self.restarts = 0

    def _start(self) -> subprocess.Popen[bytes]:
        rendezvous = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{self.port}", "--rdzv-id", "job-18")
        patience = ("--rdzv-conf", "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=1,read_timeout=15")
        words = ("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--local-addr", "127.0.0.1")
        program = ("-m", "tests.faults.tiny_train", *RECIPE, "--work-dir", str(self.folder))
        command = [sys.executable, "-m", "torch.distributed.run", *words, *rendezvous, *patience, *program]
        # what agents share across restarts keeps the addresses of processes that are gone (pytorch issue 135712)
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        return subprocess.Popen(command, env=environment, stdout=self.said, stderr=self.said, start_new_session=True)

    def restart_ended(self) -> bool:
        """Start agents that ended with an error again; returns whether both are done."""
        for i, agent in enumerate(self.agents):
            if agent.poll() not in (None, 0):
                self.agents[i] = self._start()
                self.restarts += 1
        return all(agent.poll() == 0 for agent in self.agents)

    def ranks(self, number: int) -> list[int]:
        """Return the processes that an agent started."""
        agent = self.agents[number].pid
        try:
            children = Path(f"/proc/{agent}/task/{agent}/children").read_text()
        except OSError:
            return []
        return [int(child) for child in children.split()]

    def kill(self, what: str, number: int) -> bool:
        """Kill a process of the run, an agent, or an agent with its process; returns whether there was one."""
        found = self.ranks(number) if self.agents[number].poll() is None else []
        pids = {"rank": found, "agent": [self.agents[number].pid], "machine": [self.agents[number].pid, *found]}[what]
        for pid in pids if found else ():
            os.kill(pid, signal.SIGKILL)
        return bool(found)

    def iteration(self) -> int:
        path = self.folder / "log.jsonl"
        lines = read_log(path) if path.is_file() else []
        return lines[-1]["iteration"] if lines else 0

    def close(self) -> None:
        for number, agent in enumerate(self.agents):
            self.kill("machine", number)
            agent.kill()
            agent.wait()
        self.said.close()


def finish(cluster: Cluster, kills: list[tuple[int, str, int]]) -> list[str]:
    """Run to the end; kill what is to be killed when the iteration is reached. Returns what was killed."""
    deadline = time.monotonic() + PATIENCE
    killed: list[str] = []
    try:
        while not cluster.restart_ended():
            assert time.monotonic() < deadline, (cluster.iteration(), killed)
            if kills and cluster.iteration() >= kills[0][0] and cluster.kill(*kills[0][1:]):
                killed.append(kills.pop(0)[1])
            time.sleep(0.1)
    finally:
        cluster.close()
    return killed


@pytest.mark.faults
@pytest.mark.timeout(2 * PATIENCE + 100)
def test_a_run_on_two_machines_goes_on_whatever_is_killed_and_ends_bit_equal(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    kinds = [("rank", "agent", "machine")[int(i)] for i in rng.integers(3, size=KILLS)]
    steps = np.sort(rng.choice(np.arange(20, STEPS - 20), KILLS, replace=False)).tolist()
    plan = list(zip(steps, kinds, rng.integers(2, size=KILLS).tolist(), strict=True))
    assert finish(Cluster(tmp_path / "whole"), []) == []
    cluster = Cluster(tmp_path / "killed")
    assert finish(cluster, plan) == kinds
    print(f"killed {', '.join(kinds)}; {cluster.restarts} agents were started again")
    ends = [load_state(state_path(tmp_path / name, STEPS)) for name in ("whole", "killed")]
    for part in ("model", "optimizer"):
        first, second = (_tensors(end[part]) for end in ends)
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert "/segcore/" not in (tmp_path / "killed.txt").read_text()  # no traceback of ours; agents have their own


def _tensors(value: object, name: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {name: value}
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {key: tensor for part, one in inner for key, tensor in _tensors(one, f"{name}.{part}").items()}
