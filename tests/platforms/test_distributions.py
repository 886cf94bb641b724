"""What `nox -s build` wrote into dist/: an index takes it, and an sdist makes the same wheel again."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.built
ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
NAMES = ("segcore", *sorted(path.parent.name for path in (ROOT / "packages").glob("*/pyproject.toml")))


def _wheel(name: str) -> Path:
    (wheel,) = DIST.glob(f"{name}-*.whl")
    return wheel


def _sdist(name: str) -> Path:
    (sdist,) = DIST.glob(f"{name}-*.tar.gz")
    return sdist


def _metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.parametrize("name", NAMES)
def test_the_metadata_name_versions_and_the_licence_but_no_folder(name: str) -> None:
    about = _metadata(_wheel(name))
    assert about["Version"] == _metadata(_wheel("segcore"))["Version"]
    assert (about["License-Expression"], about.get_all("License-File")) == ("Apache-2.0", ["LICENSE"])
    needed = about.get_all("Requires-Dist", [])
    assert not [word for word in needed if "@" in word or "file:" in word]
    assert name == "segcore" or f"segcore=={about['Version']}" in needed


@pytest.mark.parametrize("name", NAMES)
def test_wheel_and_sdist_hold_the_licence_and_no_path_of_this_machine(name: str) -> None:
    licence = (ROOT / "LICENSE").read_bytes()
    with ZipFile(_wheel(name)) as archive:
        inside = {path: archive.read(path) for path in archive.namelist()}
    with tarfile.open(_sdist(name)) as archive:
        inside |= {f"sdist/{member.name}": archive.extractfile(member).read() for member in archive if member.isfile()}  # pyright: ignore[reportOptionalMemberAccess]
    licences = [content for path, content in inside.items() if path.endswith("/LICENSE")]
    assert licences == [licence, licence]
    assert f"{name}/py.typed" in inside
    assert not [path for path, content in inside.items() if str(ROOT).encode() in content or b"file:///" in content]
    assert not [path for path in inside if re.search(r"__pycache__|\.pyc$|/tests/", path)]


@pytest.mark.parametrize("name", NAMES)
def test_an_sdist_builds_the_same_wheel_again(name: str, tmp_path: Path) -> None:
    with tarfile.open(_sdist(name)) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    command = (sys.executable, "-m", "build", "-n", "--wheel", "--outdir", str(tmp_path / "again"), str(source))
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "again" / _wheel(name).name).read_bytes() == _wheel(name).read_bytes()
