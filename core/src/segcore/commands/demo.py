"""`segcore demo`: small networks trained from scratch on generated scenes, their tests, reports, and browser page."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from segcore.baselines.recipes import FCN, SMP
from segcore.commands.parsing import parse_options
from segcore.commands.test import TestOptions, test
from segcore.errors import InputError
from segcore.paper import Paper, installed_papers, load_paper
from segcore.recipe import Recipe
from segcore.recipe.ranges import NOT_NEGATIVE, check_ranges
from segcore.training.run_folder import WorkDirectory

RECIPE = "toy"
_MAIN = "cgrseg"
_MARK = "demo.txt"
_FILES = (
    *(_MARK, "recipe.json", "log.txt", "log.jsonl", "tensorboard", "state-*.pt", "best.*", "last.*", "gallery"),
    *("report.html", ".*.tmp"),
)
"""What a demo leaves in its folder."""

_DESCRIPTION = """Train on generated street scenes from scratch, test single-scale and multi-scale + flip, and write an
HTML page with curves, scores and predictions, and a page that runs the networks in a browser (`segcore web`; needs the
extra segcore[onnx]). Needs no file, no download, no GPU."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What to demonstrate."""

    papers: str = ""
    """Installed papers, separated by commas, or all (but the baselines); empty is cgrseg, else the first one."""
    out: str = "demo"
    """Folder; the report is OUT/PAPER/report.html. An earlier demo there is replaced, anything else left alone."""
    web: str = ""
    """Folder of the page that runs the networks in a browser; empty is OUT/web."""
    runtime: str = ""
    """An unpacked onnxruntime-web of npm, for a page that needs no network."""
    iterations: Annotated[int, NOT_NEGATIVE] = 0
    """Training steps; 0 is the recipe's."""
    device: str = "auto"
    """cpu, cuda, mps, xpu or auto, as --run.device."""

    def __post_init__(self) -> None:
        check_ranges(self)


def main(words: list[str]) -> int:
    """Run `segcore demo`; returns the exit code.

    Raises:
        InputError: if the paper is not installed or the folder holds something else.
    """
    options = parse_options("segcore demo", _DESCRIPTION, DemoOptions, words)
    papers = _papers(options.papers)
    _check_page(options)
    for paper in papers:
        folder = Path(options.out, paper.name)
        directory = WorkDirectory(folder, is_resuming=True, option="--out")
        try:
            _make_room(folder)
            code = _demonstrate(paper, _recipe(paper, folder, options), directory)
        finally:
            directory.release()
        if code:
            return code
    _write_page([Path(options.out, paper.name) for paper in papers], options)
    return 0


def _papers(words: str) -> list[Paper]:
    installed = installed_papers()
    if words == "all":
        return [paper for paper in installed.values() if paper.name not in (FCN.name, SMP.name)]
    if words:
        return [load_paper(word.strip()) for word in words.split(",")]
    if not installed:
        raise InputError(f"no paper is installed; pip install ./packages/{_MAIN}")
    return [installed[_MAIN if _MAIN in installed else next(iter(installed))]]


def _recipe(paper: Paper, folder: Path, options: DemoOptions) -> Recipe:
    recipe = paper.recipes[RECIPE]
    run = replace(recipe.run, work_dir=str(folder), device=options.device)
    schedule = replace(recipe.schedule, iterations=options.iterations or recipe.schedule.iterations)
    return replace(recipe, run=run, schedule=schedule)


def _make_room(folder: Path) -> None:
    """Remove an earlier demo from a locked folder, and mark the folder as a demo's.

    Raises:
        InputError: if the folder holds anything else, which is left alone.
    """
    found = [path for path in folder.iterdir() if path.name != ".lock"]
    foreign = [path.name for path in found if not any(path.match(pattern) for pattern in _FILES)]
    is_demo = (folder / _MARK).is_file()
    if found and (foreign or not is_demo):
        what = foreign[0] if is_demo else "something else than an earlier demo"
        raise InputError(f"{folder} holds {what}; choose another --out")
    for path in found:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (folder / _MARK).write_text("segcore demo made this folder, and replaces it when it is run again.\n")


def _demonstrate(paper: Paper, recipe: Recipe, directory: WorkDirectory) -> int:
    """Train, test twice, report; returns the exit code of the training."""
    from segcore.report.build import report_run  # torch loads only here, so --help is instant
    from segcore.training.loop import train
    from segcore.weights.header import find_weights

    folder = directory.path
    result = train(paper, RECIPE, recipe, directory)
    if result.exit_code:
        return result.exit_code
    weights = str(find_weights(folder))
    single = test(paper, RECIPE, recipe, TestOptions(checkpoint=weights))
    multi = test(paper, RECIPE, recipe, TestOptions(checkpoint=weights, aug_test=True))
    assert single is not None
    assert multi is not None
    page = report_run(folder, folder / "report.html", device=recipe.run.device)
    print(f"{paper.name}: mIoU {100 * single.miou:.2f} % single scale, {100 * multi.miou:.2f} % multi-scale + flip")
    print(f"report: {page.resolve()}")
    return 0


def _page_folder(options: DemoOptions) -> Path:
    return Path(options.web or Path(options.out, "web"))


def _check_page(options: DemoOptions) -> None:
    """Refuse before the training what the page could not be written with or into."""
    from segcore.web.folder import check_replaceable
    from segcore.web.runtime import check_runtime

    check_replaceable(_page_folder(options))
    if options.runtime:
        check_runtime(Path(options.runtime))


def _write_page(folders: list[Path], options: DemoOptions) -> None:
    """Write the page that runs the networks of finished demos, or say what it needs."""
    from segcore.export.onnx_file import check_installed
    from segcore.web.folder import PageOptions, write_page_folder
    from segcore.weights.header import find_weights

    try:
        check_installed()
    except InputError as error:
        print(f"no page for the browser: {error}")
        return
    page = _page_folder(options)
    runtime = Path(options.runtime) if options.runtime else None
    write_page_folder([find_weights(folder) for folder in folders], page, PageOptions(runtime=runtime))
    print(f"page that runs it in a browser: segcore web {page}")
