"""From the folders of runs to what may be said of them, on screen and in files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from segcore.commands import compare_show
from segcore.compare.atlas import boundary_and_interior, by_segment_size, chosen_images, confusions, image_accuracy
from segcore.compare.collect import collect
from segcore.compare.comparison_page import comparison_page
from segcore.compare.results import Results, analyze, ranking_rows
from segcore.compare.study import Study, joined, run_folder, write_study
from segcore.errors import InputError
from segcore.pages.render import render
from tests.compare.sample import IMAGES, make_run, make_runs


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return analyze(collect(make_runs(tmp_path_factory.mktemp("runs"), with_multi=True)), resamples=2000)


def test_seeds_of_one_recipe_are_one_head_and_the_best_comes_first(results: Results) -> None:
    assert results.ranked[0].name == "cgrseg-toy"
    assert [[run.seed for run in head.runs] for head in results.comparison.heads] == [[0, 1]] * 3
    score = results.scores["cgrseg-toy"]
    measured = np.mean([np.nanmean(counts.iou()) for counts in results.comparison.heads[0].counts()])
    assert score.value == pytest.approx(measured)
    assert score.low < score.value < score.high


def test_a_clear_difference_is_said_and_a_small_one_is_not(results: Results) -> None:
    assert results.difference("cgrseg-toy", "fcn-toy").is_significant
    assert results.difference("fcn-toy", "cgrseg-toy").estimate.value < 0
    assert not results.difference("fcn-toy", "smp-unet").is_significant
    assert results.verdict().startswith("cgrseg-toy has the highest mIoU, significantly above ")
    without_best = analyze(
        collect([run.folder for head in results.comparison.heads[1:] for run in head.runs]), resamples=500
    )
    assert "The study does not tell it from" in without_best.verdict()


def test_one_seed_never_makes_a_difference_significant(results: Results) -> None:
    first_seeds = [head.runs[0].folder for head in results.comparison.heads]
    alone = analyze(collect(first_seeds), resamples=500)
    assert alone.difference("cgrseg-toy", "fcn-toy").estimate.p < 0.05
    assert "significantly" not in alone.verdict()
    assert "there is one seed" in alone.verdict()


def test_what_was_measured_is_in_the_ranking(results: Results) -> None:
    row = next(row for row in ranking_rows(results) if row[1] == "fcn-toy")
    assert row[9:12] == [pytest.approx(12), pytest.approx(3), pytest.approx(10 + 40 * 0.6)]
    batch = results.comparison.heads[1].recipe["data"]["batch"]
    assert row[12] == pytest.approx(20 * batch / 4 / 60)


def test_several_scales_gain_what_was_drawn(results: Results) -> None:
    gain = results.multi["fcn-toy"]
    assert gain.low < gain.value < gain.high
    assert gain.value > 0.03


def test_the_atlas_comes_from_the_counts(results: Results) -> None:
    comparison = results.comparison
    accuracy = image_accuracy(comparison)
    assert accuracy.shape == (3, IMAGES)
    chosen = chosen_images(comparison, 3)
    assert [reason for _, reason in chosen] == ["hardest for all heads"] * 3 + ["heads differ most"] * 3
    assert chosen[0][0] == int(accuracy.mean(axis=0).argmin())
    assert len({index for index, _ in chosen}) == 6
    (worst, *_) = confusions(comparison.heads[1], 2)
    names = comparison.first.class_names
    assert names.index(worst.taken_for) == (names.index(worst.label) + 1) % len(names)
    near, interior = boundary_and_interior(comparison.heads[0])
    assert near is not None
    assert interior is not None
    assert near < interior
    assert by_segment_size(comparison.heads[1])[0] == pytest.approx(0.6, abs=0.01)


def test_the_page_shows_every_head_class_and_command(results: Results) -> None:
    text = render(comparison_page(results, []))
    for word in (*results.scores, *results.comparison.first.class_names, "boundary", "recipe.json", "optim.lr"):
        assert word in text


def test_the_command_writes_tables_that_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(folder) for folder in make_runs(tmp_path / "runs")]
    words = [*folders, "--out", str(tmp_path / "out"), "--images", "0", "--resamples", "200"]
    assert compare_show.main(words) == 0
    printed = capsys.readouterr().out
    assert "cgrseg-toy has the highest mIoU" in printed
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    with open(tmp_path / "out" / "ranking.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["head"] for row in rows] == [row["head"] for row in found["ranking"]]
    assert float(rows[0]["mIoU"]) == pytest.approx(found["ranking"][0]["mIoU"], abs=1e-3)
    assert len(found["class_differences"]) == 3 * 8
    assert f"| {rows[0]['head']} |" in (tmp_path / "out" / "comparison.md").read_text()
    assert (tmp_path / "out" / "comparison.html").is_file()


def test_a_study_shows_what_is_there_and_says_what_is_not(tmp_path: Path) -> None:
    study = Study(dataset="toy", papers="cgrseg-toy,fcn-toy", seeds=2, work_dir=str(tmp_path))
    state = joined(study, None, "segcore compare run ...")
    write_study(tmp_path, state)
    with pytest.raises(InputError, match="has no tested run yet"):
        collect([tmp_path])
    make_run(run_folder(tmp_path, "cgrseg-toy", study.lrs[0], 0), "cgrseg-toy", 0, 0.7)
    found = collect([tmp_path])
    assert [head.name for head in found.heads] == ["cgrseg-toy"]
    assert set(found.missing.values()) == {"not trained yet"}
    assert len(found.missing) == 3
    assert found.commands == ["segcore compare run ..."]
    assert analyze(found, resamples=100).verdict() == "cgrseg-toy is the only head."


def test_runs_tested_on_other_images_are_refused(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", "cgrseg-toy", 0, 0.7)
    other = make_run(tmp_path / "other", "fcn-toy", 0, 0.7, split="val")
    with pytest.raises(InputError, match=r"was tested on other images than .*--data\.test-split"):
        collect([one, other])


def test_a_run_without_counts_says_how_to_get_them(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "cgrseg-toy", 0, 0.7)
    next(folder.glob("*.npz")).unlink()
    with pytest.raises(InputError, match=r"was not tested.*segcore test .*best\.safetensors"):
        collect([folder, folder])
