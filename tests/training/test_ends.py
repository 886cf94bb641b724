"""How a run ends that is stopped or fails, as a process: at once, in one sentence, with its state saved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segcore.weights.states import state_files

TRAIN = """
import sys
from segcore.commands.train import train_command
from tests.tiny_paper import PAPER
{before}
sys.exit(train_command(PAPER)())
"""
FAILING = """
from segcore.training.trainer import Trainer
step = Trainer.step
def failing(self, parts):
    if self.iteration == 3:
        raise AttributeError("a mistake of ours")
    return step(self, parts)
Trainer.step = failing
"""
SLOW_IMPORT = """
import time
print("importing", flush=True)
try:
    time.sleep(60)
except BaseException:  # as extension modules do that look for an optional part of theirs
    pass
"""


class Run:
    """A training as a process with its own group, and two loader processes."""

    def __init__(self, folder: Path, before: str = "") -> None:
        self.folder = folder
        words = ["toy", "--work-dir", str(folder), "--schedule.iterations", "1000000", "--data.workers", "2"]
        words += ["--run.log-interval", "1", "--run.device", "cpu"]
        command = [sys.executable, "-c", TRAIN.format(before=before), *words]
        self.process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)

    def wait_for_steps(self) -> None:
        log = self.folder / "log.jsonl"
        deadline = time.monotonic() + 120
        while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(child) for child in children.split()]

    def end(self) -> tuple[int, str, float]:
        """Return its exit code, what it said, and the seconds that it still took."""
        since = time.monotonic()
        _, printed = self.process.communicate(timeout=90)
        return self.process.returncode, printed, time.monotonic() - since


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    started: list[Run] = []

    def run(before: str = "") -> Run:
        started.append(Run(tmp_path / "run", before))
        return started[-1]

    yield run
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_process_group_that_is_told_to_end_saves_its_state(start: Callable[..., Run], number: signal.Signals) -> None:
    """A cluster signals loader processes too: they must live until the parent has saved."""
    run = start()
    run.wait_for_steps()
    os.killpg(run.process.pid, number)
    code, printed, seconds = run.end()
    assert code == 128 + number, printed
    assert f"stopped by {number.name} after iteration" in printed.splitlines()[-1]
    assert state_files(run.folder)
    assert seconds < 10


def test_an_error_of_ours_ends_at_once_though_loader_processes_wait(start: Callable[..., Run]) -> None:
    """Issue 18, point 7: they went on for their grace, and the process waited 65 s for them."""
    run = start(FAILING)
    run.wait_for_steps()
    code, printed, seconds = run.end()
    assert code == 1
    assert "a mistake of ours" in printed
    assert seconds < 10


@pytest.mark.slow  # the kill meets torch at another place each time
def test_a_killed_loader_process_is_one_sentence_that_names_its_usual_cause(start: Callable[..., Run]) -> None:
    run = start()
    run.wait_for_steps()
    os.kill(run.workers()[0], signal.SIGKILL)
    code, printed, seconds = run.end()
    assert code == 2
    assert "Traceback" not in printed
    said = printed.splitlines()[-1]
    assert "a loader process was killed" in said
    assert "usually because memory ran out: lower --data.workers; --resume goes on from the last state" in said
    assert seconds < 10


def test_a_work_directory_that_is_removed_is_one_sentence_and_the_state_is_kept(start: Callable[..., Run]) -> None:
    run = start()
    run.wait_for_steps()
    for name in sorted(run.folder.rglob("*"), reverse=True):
        name.rmdir() if name.is_dir() else name.unlink()
    run.folder.rmdir()
    run.process.send_signal(signal.SIGTERM)
    code, printed, _ = run.end()
    assert code == 2
    assert "Traceback" not in printed
    assert "was removed during the run; the state after iteration" in printed.splitlines()[-1]
    assert state_files(run.folder)


def test_ctrl_c_while_something_is_imported_ends_at_once(tmp_path: Path) -> None:
    """Issue 18, point 7: an import that swallows it left a half-imported module to a training that went on."""
    (tmp_path / "slow_part.py").write_text(SLOW_IMPORT)
    code = (
        "import sys; from segcore.commands.running import run_guarded\n"
        "def body(words):\n    import slow_part\n    return 0\n"
        "sys.exit(run_guarded('tiny-train', None, body))"
    )
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=20)
    assert (process.returncode, printed) == (130, "tiny-train: interrupted\n")
