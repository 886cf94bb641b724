"""One process owns a work directory, whatever lies in it and however the process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segcore.errors import InputError
from segcore.training.run_folder import WorkDirectory

HOLD = """
import os, sys, time
from segcore.training.run_folder import WorkDirectory
directory = WorkDirectory(sys.argv[1], is_resuming=False)
if os.fork() == 0:  # a loader process
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_killed_though_its_loader_lives_on(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    loader = int(run.stdout.readline())
    try:
        with pytest.raises(InputError, match="another run is using the work directory"):
            WorkDirectory(tmp_path, is_resuming=True)
        run.kill()
        run.wait()
        os.kill(loader, 0)  # it still lives
        WorkDirectory(tmp_path, is_resuming=True).release()
    finally:
        run.kill()
        os.kill(loader, signal.SIGKILL)
        run.stdout.close()


def test_a_loader_process_that_ends_does_not_open_the_folder(tmp_path: Path) -> None:
    directory = WorkDirectory(tmp_path, is_resuming=False)
    child = os.fork()
    if child == 0:
        directory.release()  # as its interpreter does on the way out
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(InputError, match="another run is using"):
        WorkDirectory(tmp_path, is_resuming=False)
    directory.release()
    WorkDirectory(tmp_path, is_resuming=False).release()


def test_a_planted_link_is_neither_followed_nor_emptied(tmp_path: Path) -> None:
    target = tmp_path / "mine.txt"
    target.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(target)
    with pytest.raises(InputError, match="cannot use the work directory"):
        WorkDirectory(tmp_path / "run", is_resuming=False)
    assert target.read_text() == "mine"


def test_a_lock_that_is_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match="cannot use the work directory"):
        WorkDirectory(tmp_path, is_resuming=False)


def test_a_refused_folder_is_free_again(tmp_path: Path) -> None:
    (tmp_path / "state-00000001.pt").touch()
    with pytest.raises(InputError, match="already holds a run"):
        WorkDirectory(tmp_path, is_resuming=False)
    WorkDirectory(tmp_path, is_resuming=True).release()


def test_a_file_in_the_place_of_the_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(InputError, match=r"cannot use the work directory .*File exists"):
        WorkDirectory(tmp_path / "run", is_resuming=False)
