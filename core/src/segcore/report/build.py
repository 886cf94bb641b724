"""From a work directory to its page: predictions for the gallery, then everything else that the run wrote."""

from __future__ import annotations

from pathlib import Path

from segcore.data import create_dataset
from segcore.errors import InputError
from segcore.pages.render import write_page
from segcore.paper import installed_papers, load_paper
from segcore.predictor import Predictor
from segcore.recipe import Recipe
from segcore.recipe.file import recipe_from_plain
from segcore.report.gallery import make_pictures, write_gallery
from segcore.report.run_page import run_page
from segcore.report.run_report import GALLERY, collect, tested_data
from segcore.weights.files import read_checkpoint
from segcore.weights.header import find_weights


def report_run(
    work_dir: str | Path,
    out: str | Path,
    *,
    gallery: int | None = 6,
    data_root: str = "",
    split: str = "",
    device: str = "auto",
) -> Path:
    """Write the page of a run and return its path.

    Args:
        gallery: number of pictures to predict with the best weights; None keeps those of an earlier report.
        data_root: folder of the data set, the recipe's where empty.
        split: whose scores and pictures are shown; the recipe's test split where empty.

    Raises:
        InputError: if the folder holds no run with weights, or its data set cannot be read.
    """
    folder = Path(work_dir)
    if gallery is not None:
        weights = find_weights(folder)
        recipe = _recipe_of(weights)
        root = data_root or recipe.run.data
        data, _ = tested_data(recipe.data, root, split)  # `collect` says the rest
        dataset = create_dataset(data, root, data.test_split, list_file=data.test_list)
        predictor = Predictor.from_checkpoint(weights, device=device)
        write_gallery(folder / GALLERY, make_pictures(predictor, dataset, gallery))
    return write_page(out, run_page(collect(folder, installed_papers(), data_root=data_root, split=split)))


def _recipe_of(weights: Path) -> Recipe:
    meta = read_checkpoint(weights).meta
    if meta is None:
        raise InputError(f"{weights} does not say its recipe; a file written by <paper>-train is expected")
    return recipe_from_plain(load_paper(meta.paper), meta.recipe, str(weights))
