"""Every job of the repository, each in one line: `pip install nox && nox` runs the tests, `nox -l` lists the rest.

Sessions that run our code share one environment; uv builds it by hard links where uv is installed.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests"]
nox.needs_version = ">=2024.10.9"

PACKAGES = sorted(folder.parent.name for folder in Path("packages").glob("*/pyproject.toml"))
TEST_TOOLS = ("pytest>=8", "pytest-xdist>=3", "pytest-timeout>=2", "hypothesis>=6")
shared = {"venv_location": ".nox/shared", "reuse_venv": True}


def install_editable(session: nox.Session, *tools: str) -> None:
    """Install all packages and core in place: packages first, since each names core by its folder."""
    editable = [word for name in PACKAGES for word in ("-e", f"./packages/{name}")]
    session.install(*editable, *tools)
    session.install("--no-deps", "-e", "./core")


@nox.session(**shared)
def tests(session: nox.Session) -> None:
    """Run the fast tests of core and of every package (arguments go to pytest)."""
    install_editable(session, *TEST_TOOLS)
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session(**shared)
def slow(session: nox.Session) -> None:
    """Run the long tests: compile, export, real training."""
    install_editable(session, *TEST_TOOLS)
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session(**shared)
def parity(session: nox.Session) -> None:
    """Compare with the published implementations: `PARITY_CASES=dir nox -s parity` reads other cases."""
    install_editable(session, *TEST_TOOLS)
    session.run("pytest", "tests/parity", "-n", "2", "-rs", *session.posargs)


@nox.session(**shared)
def demo(session: nox.Session) -> None:
    """Train, test and report on generated scenes: CGRSeg in about 5 minutes on 2 cores."""
    install_editable(session)
    session.run("segcore", "demo", "--out", "demo", *session.posargs)


@nox.session(**shared)
def bench(session: nox.Session) -> None:
    """Run the benchmarks (or those named as arguments) and write bench/RESULTS.md."""
    install_editable(session)
    session.run("python", "bench/run.py", *session.posargs)


@nox.session(**shared)
def types(session: nox.Session) -> None:
    """Check the types: pyright, strict where pyproject.toml says so."""
    install_editable(session, "pyright>=1.1.400")
    session.run("pyright", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install("ruff>=0.12")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
@nox.parametrize("name", PACKAGES)
def install(session: nox.Session, name: str) -> None:
    """Install ONE package in a bare environment, from another directory, and start its commands."""
    package = Path("packages", name).resolve()
    session.chdir(session.create_tmp())
    session.install(str(package))
    for command in ("train", "test", "predict"):
        session.run(f"{name}-{command}", "--help")
    session.run("segcore", "--help")


@nox.session(venv_location=".venv", reuse_venv=True)
def dev(session: nox.Session) -> None:
    """Make .venv with everything in place for development: `source .venv/bin/activate`."""
    install_editable(session, *TEST_TOOLS, "ruff>=0.12", "pyright>=1.1.400", "nox")
