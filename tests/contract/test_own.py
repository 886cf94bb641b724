"""Every paper trains on a folder of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from segcore.commands.train import main
from segcore.recipe.protocols import OWN_RECIPE
from segcore.weights.header import read_meta
from tests.contract.conftest import PAPERS
from tests.data.test_folder import make_folder

SMALL = (
    *("--augment.scale", "96", "64", "--augment.crop", "64", "64", "--evaluate.scale", "96", "64"),
    *("--data.batch", "2", "--data.workers", "0", "--schedule.iterations", "1", "--schedule.warmup", "0"),
)


@pytest.mark.parametrize("name", sorted(name for name in PAPERS if OWN_RECIPE in PAPERS[name].recipes))
def test_a_folder_is_all_that_a_training_needs(name: str, tmp_path: Path) -> None:
    root, run = make_folder(tmp_path / "mine"), tmp_path / "run"
    words = [name, "own", "--run.data", str(root), "--work-dir", str(run), "--model.pretrained", "false"]
    assert main([*words, *SMALL]) == 0
    meta = read_meta(run / "best.safetensors")
    assert meta is not None
    assert meta.classes == ["road", "car"]
    assert meta.recipe["augment"]["crop"] == [64, 64]
