"""The READMEs and the pages of docs say what is there: their commands are understood, their tables name real files."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shlex
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
import tyro

from segcore.paper import installed_papers
from segcore.recipe import Augment, Data, Evaluate, Loss, Optim, Run, Schedule
from segcore.recipe.plain import to_plain
from segcore.weights.files import save_weights
from segcore.weights.header import CheckpointMeta

ROOT = Path(__file__).parents[1]
PAPERS = sorted(path.parent.name for path in (ROOT / "packages").glob("*/pyproject.toml"))
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("packages/*/README.md")),
    ROOT / "core/README.md",
    *(ROOT / "docs" / name for name in ("own_data.md", "export.md", "web.md")),
]
SCRIPTS = {
    point.name: point
    for point in importlib.metadata.entry_points(group="console_scripts")
    if point.value.split(".")[0] in (*PAPERS, "segcore")
}
TABLE = "Where the paper is in the code"


def commands(page: Path) -> list[list[str]]:
    """Return the words of every command in a page's unmarked code blocks, without comments and torchrun."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for language, block in blocks if not language for line in block.splitlines()]
    found: list[list[str]] = []
    for line in lines:
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if words[:1] == ["torchrun"]:
                module, *rest = words[words.index("-m") + 1 :]
                words = [module.replace(".", "-"), *rest]
            found.append(words)
    return found


class UnderstoodError(Exception):
    """Raised in place of doing what a command line asks for."""


COMMANDS = [(page, words) for page in PAGES for words in commands(page) if words[:1] and words[0] in SCRIPTS]


def make_weights(word: str) -> None:
    """Make the weights file that a command names as PAPER-RECIPE/FILE, as a run of that recipe leaves it."""
    named = re.fullmatch(rf"work_dirs/({'|'.join(PAPERS)})-([\w-]+)/\w+\.safetensors", word)
    if named:
        paper, name = installed_papers()[named[1]], named[2]
        meta = CheckpointMeta(
            paper=paper.name,
            recipe_name=name,
            recipe=to_plain(paper.recipes[name]),
            classes=[],
            palette=[],
            iteration=1,
            scores={},
            versions={},
        )
        save_weights(word, {"weight": torch.zeros(1)}, meta)


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{page.parent.name}: {' '.join(words)}" for page, words in COMMANDS]
)
def test_every_command_is_understood(
    page: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_images").mkdir()
    for word in words:
        make_weights(word)

    def only(parse: Callable[..., Any]) -> Callable[..., None]:
        def understand(*arguments: Any, **options: Any) -> None:
            parse(*arguments, **options)
            raise UnderstoodError

        return understand

    monkeypatch.setattr(tyro, "cli", only(tyro.cli))
    monkeypatch.setattr(ArgumentParser, "parse_args", only(ArgumentParser.parse_args))
    script = SCRIPTS[words[0]].load()
    if words[-1] == "--list":
        assert script(words[1:]) == 0
    elif words[-1] == "--help":
        with pytest.raises(SystemExit) as stopped:
            script(words[1:])
        assert not stopped.value.code
    else:
        with pytest.raises(UnderstoodError):
            script(words[1:])


def test_every_command_is_one_that_exists() -> None:
    programs = {*SCRIPTS, "pip", "pytest", "cp"}
    sessions = re.findall(r"^@nox\.session.*?^def (\w+)", (ROOT / "noxfile.py").read_text(), re.MULTILINE | re.DOTALL)
    for page in PAGES:
        for words in commands(page):
            words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
            assert words[0] in programs | {"nox"}, f"{page}: {words}"
            if words[0] == "nox":
                assert set(words[2:]) <= set(sessions), f"{page}: {words}"


def rows(paper: str) -> list[tuple[str, list[str]]]:
    """Return (file or module, names defined there) of every row of a package's paper-to-file table."""
    text = (ROOT / "packages" / paper / "README.md").read_text("utf-8").partition(f"## {TABLE}")[2]
    found: list[tuple[str, list[str]]] = []
    for row in re.findall(r"^\| [^|]+ \| (`[^|]+) \|$", text.partition("\n## ")[0], re.MULTILINE):
        for part in re.split("; ", row):
            place = re.search(r"`([\w./]+(?:\.py|/)|segcore[\w.]+)`", part)
            if place:
                names = re.findall(r"`([A-Za-z_]\w*)`", part[place.end() :])
                found.append((place[1], names))
                found += [(module, []) for module in re.findall(r"`(segcore[\w.]+)`", part[place.end() :])]
    return found


@pytest.mark.parametrize("paper", PAPERS)
def test_the_table_from_the_paper_to_the_files_comes_second(paper: str) -> None:
    text = (ROOT / "packages" / paper / "README.md").read_text("utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[0] == TABLE
    assert {"model.py", "recipes.py", "names.py"} <= {place for place, _ in rows(paper)}


@pytest.mark.parametrize("paper", PAPERS)
def test_a_model_card_cites_the_paper_as_its_readme_does(paper: str) -> None:
    section = (ROOT / "packages" / paper / "README.md").read_text("utf-8").partition("## Citation")[2]
    entries = re.findall(r"^```bibtex\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert "".join(entries) == installed_papers()[paper].citation
    assert bool(entries) == (paper != "iiwa")  # of which no citation could be found


@pytest.mark.parametrize("paper", PAPERS)
def test_the_table_names_what_is_there(paper: str) -> None:
    wrong: list[str] = []
    for place, names in rows(paper):
        source = ROOT / "core" / "src" if place.startswith("segcore") else ROOT / "packages" / paper / "src" / paper
        path = source / (f"{place.replace('.', '/')}.py" if place.startswith("segcore") else place)
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        if not all(file.is_file() for file in files) or not files:
            wrong.append(f"{place} is not there")
            continue
        trees = [ast.parse(file.read_text("utf-8")) for file in files]
        defined = {
            node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        wrong += [f"{place} has no {name}" for name in names if name not in defined]
    assert not wrong, "\n".join(wrong)


SECTIONS: list[tuple[str, type]] = [
    *(("model", paper.model_class) for paper in installed_papers().values()),
    *(("data", Data), ("augment", Augment), ("loss", Loss), ("optim", Optim), ("schedule", Schedule)),
    *(("evaluate", Evaluate), ("run", Run)),
]
"""Sections of a recipe and their options; the model's are those of all papers."""
TEXTS = [*PAGES, *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("packages/*/PAPER.md"))]


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_modules_and_options_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    wrong: list[str] = []
    for place in set(re.findall(rf"`((?:segcore|{'|'.join(PAPERS)})(?:\.\w+)+)`", text)) - {"segcore.papers"}:
        try:
            resolve_name(place)
        except (ImportError, AttributeError):
            wrong.append(place)
    known = {f"--{name}.{field.name}" for name, cls in SECTIONS for field in fields(cls)}
    options = set(re.findall(r"--(?:model|data|augment|loss|optim|schedule|evaluate|run)\.[a-z][\w.-]*\w", text))
    wrong += [option for option in options if option.replace("-", "_").replace("__", "--", 1) not in known]
    assert not wrong, ", ".join(sorted(wrong))
