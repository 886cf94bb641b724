"""A run of every paper that is killed ten times, in every way and at any moment, ends bit-equal (issue 18).

Processes are forks of this one, which has imported everything: a start takes no seconds.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segcore.commands.running import run_guarded
from segcore.commands.test import test_command as script_of_test
from segcore.paper import load_paper
from segcore.recipe import Recipe
from segcore.training.loop import train
from segcore.weights.files import read_checkpoint
from segcore.weights.states import load_state, state_path
from tests import tiny_paper
from tests.contract.conftest import small_recipe
from tests.training.test_loop import recipe

PAPERS = ("cgrseg", "ecfd", "iiwa", "memorynet", "unept")
STEPS, KILLS = 24, 10
SECONDS = 10.0
"""In which a run that was told to end must have ended (issue 18: no hang over 10 s)."""
WAYS = ("kill", "terminate", "interrupt", "requeue", "stop", "worker", "group")


def fork(body: Callable[[], int], said: Path) -> int:
    """Run something in a fork of this process, in a process group of its own; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        code = body()
    except BaseException as error:
        print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def end(process: int, way: str) -> None:
    """Kill a run, or tell it to end."""
    if way == "stop":  # as a laptop that is closed, and then has no power
        os.kill(process, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(process, signal.SIGKILL)
    elif way == "worker":
        workers = children(process)
        os.kill(workers[0] if workers else process, signal.SIGKILL)
    elif way == "group":
        os.killpg(process, signal.SIGTERM)
    else:
        numbers = {"kill": "SIGKILL", "terminate": "SIGTERM", "interrupt": "SIGINT", "requeue": "SIGUSR1"}
        os.kill(process, signal.Signals[numbers[way]])


def wait(process: int) -> int:
    """Return the exit code of a process, which must come soon."""
    since = time.monotonic()
    while time.monotonic() - since < SECONDS:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise AssertionError(f"it went on for {SECONDS} s")


def iterations(folder: Path) -> int:
    """Return how many lines a run has logged."""
    path = folder / "log.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", PAPERS)
def test_a_run_that_is_killed_ten_times_ends_bit_equal(name: str, tmp_path: Path) -> None:
    paper = load_paper(name)
    rng = np.random.default_rng(PAPERS.index(name))
    base = small_recipe(paper, tmp_path / "whole")
    base = replace(base, schedule=replace(base.schedule, iterations=STEPS))
    train(paper, "toy", base)

    def part(**run: object) -> Recipe:
        settings = replace(base.run, work_dir=str(tmp_path / "part"), resume=True, save_interval=1, **run)  # pyright: ignore
        return replace(base, run=settings, data=replace(base.data, workers=2))

    def resumed() -> int:
        return run_guarded("train", [], lambda _: train(paper, "toy", part()).exit_code)

    said = tmp_path / "said.txt"
    used: list[str] = []
    for number in range(KILLS):
        way = WAYS[(number + PAPERS.index(name)) % len(WAYS)]
        process = fork(resumed, said)
        aim, since = iterations(tmp_path / "part") + int(rng.integers(3)), time.monotonic()
        while iterations(tmp_path / "part") < aim and time.monotonic() - since < 60:
            time.sleep(0.01)
        time.sleep(float(rng.random()) * 0.3)
        end(process, way)
        code = wait(process)
        used.append(f"{way} {code}")
    assert wait_long(fork(resumed, said)) == 0
    ends = [load_state(state_path(tmp_path / place, STEPS)) for place in ("whole", "part")]
    weights = [read_checkpoint(tmp_path / place / "last.safetensors").tensors for place in ("whole", "part")]
    for first, second in ((ends[0]["model"], ends[1]["model"]), weights):
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[key]) for key, value in first.items()), used
    assert ends[0]["best"] == ends[1]["best"]
    text = said.read_text()
    assert "Traceback" not in text, text
    print(name, ", ".join(used))


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_process_that_dies_during_a_test_is_one_sentence_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 18: the other one ended with a traceback."""
    settings = recipe(tmp_path / "run")
    train(tiny_paper.PAPER, "toy", settings)
    forward = tiny_paper.TinySegmentor.forward

    def slow(self: tiny_paper.TinySegmentor, image: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return forward(self, image)

    monkeypatch.setattr(tiny_paper.TinySegmentor, "forward", slow)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["toy", str(tmp_path / "run" / "last.safetensors"), "--run.device", "cpu", "--data.workers", "0"]
    words += ["--data.num-images", "4", "40"]

    def tested(rank: int) -> int:
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": port}
        os.environ |= {**place, "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
        if rank == 1:
            monkeypatch.setattr(tiny_paper.TinySegmentor, "forward", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        return script_of_test(tiny_paper.PAPER)(words)

    said = tmp_path / "said.txt"
    first, second = (fork(lambda rank=rank: tested(rank), said) for rank in (0, 1))
    assert wait_long(second) == -signal.SIGKILL
    assert wait(first) == 2
    assert said.read_text().splitlines()[-1] == ("tiny-test: another process of this run stopped; its message says why")


def wait_long(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
