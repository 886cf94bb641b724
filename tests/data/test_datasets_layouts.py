"""Every accepted layout: read, train one step, test, write predictions; every raw value against docs/protocol 1.3."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcore.commands.test import TestOptions
from segcore.commands.test import test as run_test
from segcore.data import DATASETS, create_dataset
from segcore.data.base import load_classes
from segcore.errors import InputError
from segcore.images.label_files import submission_palette
from segcore.recipe import Data, Recipe, Run, Schedule
from segcore.recipe.protocols import (
    ADE20K_512,
    BDD100K,
    CITYSCAPES,
    COCO_STUFF_10K,
    COCO_STUFF_10K_182,
    COCO_STUFF_164K,
    LIP,
    PASCAL_CONTEXT_59,
    PASCAL_CONTEXT_60,
    Fragment,
)
from segcore.training.loop import train
from tests.data.dataset_trees import CITYSCAPES_IDS, LAYOUTS, SIZE, build, pattern, save_image
from tests.tiny_paper import PAPER

FRAGMENTS: dict[str, Fragment] = {
    fragment.data.dataset: fragment
    for fragment in (
        ADE20K_512,
        BDD100K,
        CITYSCAPES,
        COCO_STUFF_10K,
        COCO_STUFF_10K_182,
        COCO_STUFF_164K,
        LIP,
        PASCAL_CONTEXT_59,
        PASCAL_CONTEXT_60,
    )
}


def one_step(root: Path, out: Path, layout_name: str) -> Recipe:
    """Return a recipe of one step with the data set's own transforms, on a smaller crop."""
    layout = LAYOUTS[layout_name]
    fragment = FRAGMENTS[layout.dataset].splits(*layout.splits)
    base = PAPER.recipes["toy"]
    return replace(
        base,
        data=replace(fragment.data, val_split=layout.splits[1], batch=2, workers=0),
        augment=replace(fragment.augment, crop=(64, 96), scale=(96, 64)),
        evaluate=replace(fragment.evaluate, scale=(64, 48)),
        schedule=Schedule(iterations=1),
        run=Run(work_dir=str(out), data=str(root), device="cpu", log_interval=1),
    )


def test_every_data_set_of_files_has_a_layout_here() -> None:
    assert {layout.dataset for layout in LAYOUTS.values()} == set(DATASETS) - {"toy", "folder", "camvid"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_raw_value_becomes_its_train_id(name: str, tmp_path: Path) -> None:
    layout = build(name, tmp_path)
    expected = pattern(list(layout.values.values()))
    for split, stems in zip(layout.splits, layout.stems, strict=True):
        dataset = create_dataset(Data(dataset=layout.dataset), str(tmp_path), split)
        assert [dataset[i].name for i in range(len(dataset))] == list(stems)
        sample = dataset[0]
        assert sample.label is not None
        np.testing.assert_array_equal(sample.label, expected)
        assert sample.label.dtype == np.uint8
        assert sample.image.shape == (*SIZE, 3)
        np.testing.assert_array_equal(dataset.load_label(1), expected)
        used = sorted({value for value in layout.values.values() if value != 255})
        assert used[0] == 0
        assert used[-1] == len(dataset.classes.names) - 1


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_trains_a_step_and_is_scored(name: str, tmp_path: Path) -> None:
    build(name, tmp_path / "data")
    result = train(PAPER, "toy", one_step(tmp_path / "data", tmp_path / "out", name))
    assert result.exit_code == 0
    assert result.iteration == 1
    assert result.scores is not None
    assert 0 <= result.scores.aacc <= 1
    assert (tmp_path / "out" / "last.safetensors").is_file()


@pytest.mark.parametrize(
    ("name", "decode"),
    [
        ("ade20k", {value: value - 1 for value in range(1, 151)}),
        ("cityscapes label ids", {raw: number for number, raw in enumerate(CITYSCAPES_IDS)}),
        ("cityscapes train ids", {raw: number for number, raw in enumerate(CITYSCAPES_IDS)}),
    ],
)
def test_submissions_hold_the_values_of_the_test_server(name: str, decode: dict[int, int], tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    layout = build(name, root)
    recipe = one_step(root, out, name)
    train(PAPER, "toy", recipe)
    checkpoint = str(out / "last.safetensors")
    run_test(PAPER, "toy", recipe, TestOptions(checkpoint=checkpoint, out=str(tmp_path / "plain")))
    options = TestOptions(checkpoint=checkpoint, out=str(tmp_path / "server"), format_only=True)
    assert run_test(PAPER, "toy", recipe, options) is None
    for stem in layout.stems[1]:
        last = stem.rsplit("/", 1)[-1]
        with Image.open(tmp_path / "server" / f"{last}.png") as submitted:
            assert submitted.mode == ("L" if name == "ade20k" else "P")
            values = np.array(submitted)
        predicted = np.array(Image.open(tmp_path / "plain" / f"{stem}.png"))
        assert values.shape == SIZE
        np.testing.assert_array_equal(np.vectorize(decode.__getitem__)(values), predicted)


def test_a_cityscapes_test_gives_the_averages_of_its_tools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("cityscapes train ids", tmp_path / "data")
    recipe = one_step(tmp_path / "data", tmp_path / "out", "cityscapes train ids")
    train(PAPER, "toy", recipe)
    options = TestOptions(checkpoint=str(tmp_path / "out" / "last.safetensors"), eval=("cityscapes",))
    scores = run_test(PAPER, "toy", recipe, options)
    assert scores is not None
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines() if len(line.split()) == 2)
    assert float(printed["averageScoreClasses"]) == pytest.approx(100 * scores.miou, abs=0.005)
    assert "averageScoreCategories" in printed
    with pytest.raises(InputError, match="--eval cityscapes scores the data set cityscapes, not toy"):
        run_test(PAPER, "toy", PAPER.recipes["toy"], options)


def test_predictions_of_a_split_without_labels_can_be_submitted(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    build("cityscapes label ids", root)
    save_image(root / "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png")
    recipe = one_step(root, out, "cityscapes label ids")
    train(PAPER, "toy", recipe)
    recipe = replace(recipe, data=replace(recipe.data, test_split="test"))
    options = TestOptions(checkpoint=str(out / "last.safetensors"), out=str(tmp_path / "server"), format_only=True)
    run_test(PAPER, "toy", recipe, options)
    written = [path.name for path in (tmp_path / "server").rglob("*.png")]
    assert written == ["berlin_000000_000019_leftImg8bit.png"]


def test_palette_of_a_cityscapes_submission_is_that_of_the_classes() -> None:
    palette = submission_palette("cityscapes")
    assert palette is not None
    np.testing.assert_array_equal(palette[list(CITYSCAPES_IDS)], load_classes("cityscapes").palette)
    assert submission_palette("ade20k") is None
