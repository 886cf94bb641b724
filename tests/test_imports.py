"""Which module may import which: no circles, core below the papers, papers apart, and core's rooms one above the other.

Every import counts, also those inside functions and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
PAPERS = sorted(path.parent.name for path in (ROOT / "packages").glob("*/pyproject.toml"))

GROUND = ("errors", "lazy", "memory", "opencv", "console", "files", "failures", "distributed")
"""What every room may stand on; docs/architecture.md draws no arrows to it."""
ORDER = (
    *GROUND,
    *("pages", "recipe", "weights", "hub", "layers", "backbones", "data", "images", "losses", "segmentor", "paper"),
    "baselines",
    *("build", "evaluation", "predictor", "export", "web", "training", "models", "report", "compare", "commands"),
)
"""Core's rooms (folders, and the modules that users import) from the bottom up: each may import those before it."""


@cache
def modules() -> dict[str, Path]:
    """Return every module of core and of the papers: name -> file."""
    found: dict[str, Path] = {}
    for source in (ROOT / "core" / "src", *(ROOT / "packages" / paper / "src" for paper in PAPERS)):
        for path in source.rglob("*.py"):
            parts = path.relative_to(source).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(code: str, module: str, *, is_package: bool, known: Mapping[str, Path]) -> set[str]:
    """Return the known modules that a module's code imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: None if is_package else -1]
            start = above[: len(above) - node.level + 1] if node.level else []
            origin = ".".join([*start, *filter(None, [node.module])])
            inner = (f"{origin}.{alias.name}" for alias in node.names)
            names.update(name if name in known else origin for name in inner)
    return {name for name in names if name in known and name != module}


@cache
def graph() -> dict[str, set[str]]:
    """Return module -> modules that it imports."""
    return {
        name: imported(path.read_text("utf-8"), name, is_package=path.name == "__init__.py", known=modules())
        for name, path in modules().items()
    }


def room(module: str) -> str:
    """Return the room of a module: of core the folder or the root module, else the paper."""
    package, *inner = module.split(".")
    return inner[0] if package == "segcore" and inner else package


def edges() -> Iterator[tuple[str, str]]:
    """Yield every import between core's modules of different rooms; the root holds the version only."""
    for module, names in graph().items():
        for name in sorted(names):
            if module.startswith("segcore.") and name.startswith("segcore.") and room(module) != room(name):
                yield module, name


@pytest.mark.parametrize(
    "code",
    [
        "import a.b",
        "from a import b",
        "from a.b import word",
        "from . import b",
        "from .b import word",
        "def run():\n    from a import b",
        "if TYPE_CHECKING:\n    from a.b import word",
    ],
)
def test_imports_are_found_wherever_they_are(code: str) -> None:
    known = {name: Path() for name in ("a", "a.b", "a.c")}
    assert imported(code, "a.c", is_package=False, known=known) == {"a.b"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' <- '.join(error.args[1])}")


def test_core_imports_no_paper_and_no_paper_another() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, names in graph().items()
        for name in names
        if room(name) in PAPERS and module.split(".")[0] != room(name)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_room_of_core_has_its_place_in_the_order() -> None:
    rooms = {room(module) for module in modules() if module.startswith("segcore.")}
    assert rooms == set(ORDER)


def test_rooms_import_only_those_below_them() -> None:
    wrong = [
        f"{module} imports {name}" for module, name in edges() if ORDER.index(room(name)) > ORDER.index(room(module))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_architecture_page_names_the_rooms_in_this_order() -> None:
    table = ARCHITECTURE.partition("## Core")[2].partition("\n## ")[0]
    named = [word for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for word in re.findall(r"`(\w+)", row)]
    assert named == list(reversed(ORDER))


def test_the_arrows_of_the_architecture_page_are_the_imports() -> None:
    drawn = set(re.findall(r"^ +(\w+) --> (\w+)", ARCHITECTURE, re.MULTILINE))
    real = {(room(module), room(name)) for module, name in edges()}
    real |= {("papers", room(name)) for module, names in graph().items() if room(module) in PAPERS for name in names}
    real = {(upper, lower) for upper, lower in real if lower not in (*GROUND, *PAPERS) and upper not in GROUND}
    assert drawn <= real, f"drawn, but no import: {sorted(drawn - real)}"
    below: dict[str, set[str]] = {}  # rooms that arrows lead to, one after the other
    for name in TopologicalSorter({upper: {b for a, b in drawn if a == upper} for upper, _ in drawn}).static_order():
        direct = {lower for upper, lower in drawn if upper == name}
        below[name] = direct.union(*(below.get(lower, set()) for lower in direct))
    missing = {(upper, lower) for upper, lower in real if lower not in below.get(upper, set())}
    assert not missing, f"imports without a way of arrows: {sorted(missing)}"
