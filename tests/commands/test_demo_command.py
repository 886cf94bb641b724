"""`segcore demo`: whose folder it may replace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from segcore.baselines.recipes import FCN, SMP
from segcore.commands import demo
from segcore.errors import InputError
from segcore.export import onnx_file
from segcore.recipe.file import recipe_document
from segcore.training.run_folder import WorkDirectory
from tests.tiny_paper import PAPER


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a demo of the tiny paper in tmp_path."""
    recipe = PAPER.recipes["toy"]
    small = replace(PAPER, recipes={"toy": replace(recipe, run=replace(recipe.run, save_interval=1))})
    monkeypatch.setattr(demo, "load_paper", lambda _: small)
    for module in ("segcore.build", "segcore.report.build", "segcore.web.folder"):
        monkeypatch.setattr(f"{module}.load_paper", lambda _: small)
    monkeypatch.setattr(onnx_file, "check_installed", _missing)
    return ["--papers", "tiny", "--out", str(tmp_path), "--iterations", "1", "--device", "cpu"]


def _missing() -> None:
    raise InputError("ONNX export needs onnx")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_demo_replaces_an_earlier_one(tmp_path: Path, words: list[str]) -> None:
    assert demo.main(words) == 0
    left = names(tmp_path / "tiny")
    (tmp_path / "tiny" / "state-00000099.pt").touch()
    assert demo.main(words) == 0
    assert names(tmp_path / "tiny") == left


def test_a_demo_ends_with_a_page_of_its_network(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(words) == 0
    assert "no page for the browser: ONNX export needs onnx" in capsys.readouterr().out
    monkeypatch.setattr(onnx_file, "check_installed", lambda: None)
    assert demo.main(words) == 0
    assert f"page that runs it in a browser: segcore web {tmp_path / 'web'}" in capsys.readouterr().out
    assert {"index.html", "manifest.json", "tiny-toy.onnx"} <= names(tmp_path / "web")


def test_all_papers_are_those_installed_but_the_baselines(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "installed_papers", lambda: {"fcn": FCN, "smp": SMP, "tiny": PAPER})
    assert demo.main(["--papers", "all", *words[2:]]) == 0
    assert names(tmp_path) == {"tiny"}


def test_a_page_that_cannot_be_written_is_refused_before_the_training(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match=r"--web .*mine holds something else than an earlier page"):
        demo.main([*words, "--web", str(tmp_path / "mine")])
    with pytest.raises(InputError, match=r"--runtime .*mine has no dist/"):
        demo.main([*words, "--runtime", str(tmp_path / "mine")])
    assert names(tmp_path) == {"mine"}


def test_a_demo_that_is_running_keeps_its_folder(tmp_path: Path, words: list[str]) -> None:
    assert demo.main(words) == 0
    running = WorkDirectory(tmp_path / "tiny", is_resuming=True)
    before = names(tmp_path / "tiny")
    with pytest.raises(InputError, match=r"another run is using .*tiny; choose another --out"):
        demo.main(words)
    assert names(tmp_path / "tiny") == before
    running.release()


def test_a_run_of_the_same_recipe_is_no_demo(tmp_path: Path, words: list[str]) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "recipe.json").write_text(recipe_document("tiny", "toy", PAPER.recipes["toy"], {}))
    (folder / "best.safetensors").write_text("days of work")
    with pytest.raises(InputError, match="holds something else than an earlier demo; choose another --out"):
        demo.main(words)
    assert (folder / "best.safetensors").read_text() == "days of work"


def test_what_was_put_into_a_demo_is_not_removed_with_it(tmp_path: Path, words: list[str]) -> None:
    assert demo.main(words) == 0
    (tmp_path / "tiny" / "notes.txt").write_text("mine")
    before = names(tmp_path / "tiny")
    with pytest.raises(InputError, match=r"holds notes\.txt; choose another --out"):
        demo.main(words)
    assert names(tmp_path / "tiny") == before
