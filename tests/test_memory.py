"""Freed memory stays with a process that wants it to."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
{before}
import torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
found = []
for _ in range(6):
    started = faults()
    torch.ones(16 << 20)  # 64 MiB: 16384 pages
    found.append(faults() - started)
print(min(found[1:]))  # now and then some are asked for again
"""


def faults_of(before: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    words = [sys.executable, "-c", PROGRAM.format(before=before)]
    output = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    return int(output.split()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_large_tensors_come_from_memory_that_was_freed() -> None:
    assert faults_of("") > 10_000
    assert faults_of("from segcore.memory import keep_freed_memory; keep_freed_memory()") < 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
@pytest.mark.parametrize(("module", "word"), [("segcore.commands.main", "--help"), ("cgrseg.train", "--list")])
def test_commands_start_with_it(module: str, word: str) -> None:
    assert faults_of(f"import sys; sys.argv[1:] = [{word!r}]; import {module} as script; script.main()") < 100


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from segcore import memory

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("asked the C library"))
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    memory.keep_freed_memory()
    assert "THP_MEM_ALLOC_ENABLE" not in os.environ
