"""The git revision is read, never asked of git: nothing of the current folder is executed (issue 18, point 4)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from segcore.weights.files import run_versions
from segcore.weights.revision import git_revision

HASH = "0123456789abcdef0123456789abcdef01234567"


def _git(folder: Path, *words: str) -> str:
    setting = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=setting).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of one commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    _git(folder, "init", "-q", "-b", "a/branch")
    (folder / "file").write_text("content")
    _git(folder, "add", "file")
    _git(folder, "commit", "-q", "-m", "first")
    return folder


def test_the_revision_is_what_git_says(repository: Path, tmp_path: Path) -> None:
    commit = _git(repository, "rev-parse", "HEAD")
    (repository / "inside").mkdir()
    assert git_revision(repository) == git_revision(repository / "inside") == commit
    _git(repository, "pack-refs", "--all")
    assert not (repository / ".git/refs/heads/a/branch").exists()
    assert git_revision(repository) == commit
    _git(repository, "worktree", "add", "-q", str(tmp_path / "linked"))
    (tmp_path / "linked/file").write_text("other")
    _git(tmp_path / "linked", "commit", "-q", "-a", "-m", "second")
    assert git_revision(tmp_path / "linked") == _git(tmp_path / "linked", "rev-parse", "HEAD") != commit
    _git(repository, "checkout", "-q", "--detach")
    assert git_revision(repository) == commit


def test_nothing_that_a_repository_names_is_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, ran = tmp_path / "program", tmp_path / "ran"
    program.write_text(f"#!/bin/sh\ntouch {ran}\ncat\n")
    program.chmod(0o755)
    (repository / ".git/hooks").mkdir(exist_ok=True)
    for hook in ("post-index-change", "post-checkout", "reference-transaction"):
        (repository / ".git/hooks" / hook).symlink_to(program)
    (repository / ".gitattributes").write_text("* filter=all diff=all\n")
    (repository / ".git/config").write_text(
        f"[core]\n\tfsmonitor = {program}\n\tpager = {program}\n\tsshCommand = {program}\n\thooksPath = .git/hooks\n"
        f'[filter "all"]\n\tclean = {program}\n\tsmudge = {program}\n\tprocess = {program}\n\trequired = true\n'
        f'[diff "all"]\n\ttextconv = {program}\n\tcommand = {program}\n[pager]\n\tdescribe = true\n'
        f'[extensions]\n\tpartialClone = origin\n[protocol "ext"]\n\tallow = always\n'
        f'[remote "origin"]\n\turl = ext::{program}\n\tuploadpack = {program}\n\tpromisor = true\n'
    )
    (repository / "file").write_text("changed")
    commit = (repository / ".git/refs/heads/a/branch").read_text().strip()
    monkeypatch.chdir(repository)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "git").symlink_to(program)
    assert run_versions()["git"] == commit
    assert not ran.exists()


@pytest.mark.parametrize(
    "head",
    ["", "ref: ", "ref: refs/heads/none", "ref: ../../secret", "ref: refs/../../secret", "ref: /etc/passwd", "\0" * 9],
)
def test_a_head_that_names_no_commit_gives_no_revision(tmp_path: Path, head: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/HEAD").write_text(head)
    (tmp_path / "secret").write_text(HASH)
    assert git_revision(tmp_path) is None


@pytest.mark.parametrize("name", ["HEAD", "packed-refs", "commondir", "refs/heads/main"])
def test_pipes_devices_and_loops_are_not_read(tmp_path: Path, name: str) -> None:
    git = tmp_path / ".git"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main")
    for kind in ("pipe", "device", "loop"):
        (git / name).unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(git / name)
        else:
            (git / name).symlink_to("/dev/zero" if kind == "device" else git / name)
        assert git_revision(tmp_path) is None


def test_a_current_folder_that_was_removed_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert "git" not in run_versions()
