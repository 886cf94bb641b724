"""The pages that say how to add things, followed to the letter: their code, their lines, their commands."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import segcore.backbones
import segcore.data
from segcore.backbones import create_backbone
from segcore.errors import InputError
from segcore.paper import installed_papers

DOCS = Path(__file__).parents[1] / "docs"
SIZE = (48, 64)
SMALL = (
    *("--schedule.iterations", "2", "--run.device", "cpu", "--data.batch", "2", "--data.workers", "0"),
    *("--augment.crop", "64", "64", "--augment.scale", "96", "64", "--evaluate.scale", "96", "64"),
)
"""Added to every training command of a page, so that it takes seconds."""


def blocks(page: str, language: str = "") -> list[str]:
    """Return the code blocks of a page in one language; without one, its commands."""
    text = (DOCS / page).read_text("utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for kind, code in found if kind == language]


def load_file(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, code: str) -> ModuleType:
    """Import the code of a page as the module that the page calls its file."""
    path = folder / f"{name.rpartition('.')[2]}.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def added_entry(page: str, package: ModuleType) -> str:
    """Return the line that a page adds to a table of a package; what stands around it must be in the package's file."""
    (diff,) = blocks(page, "diff")
    lines = diff.splitlines()
    assert package.__file__ is not None
    source = Path(package.__file__).read_text("utf-8").splitlines()
    assert [line for line in lines if line and line[0] in " -" and line[1:] not in source] == []
    *_, entry = (line[1:] for line in lines if line.startswith("+"))
    return entry.strip()


def run(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Run a command line of a page in this process, so that it sees what the page added."""
    program, *words = line.split()
    if program.endswith("-train"):
        words += SMALL
    (point,) = importlib.metadata.entry_points(group="console_scripts", name=program)
    command: Callable[[list[str]], int] = point.load()
    assert command(words) == 0, line


@pytest.fixture
def river(tmp_path: Path) -> Path:
    """The tree that docs/add_a_dataset.md describes."""
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for i in range(count):
            photo, mask = (tmp_path / "RIVER" / kind / split for kind in ("photos", "masks"))
            photo.mkdir(parents=True, exist_ok=True)
            mask.mkdir(parents=True, exist_ok=True)
            label = np.indices(SIZE).sum(axis=0).astype(np.uint8) // 8 % 4  # bands of 0, 1, 2 and 3
            Image.fromarray(np.stack([label * 60] * 3, axis=-1)).save(photo / f"{i}.jpg")
            Image.fromarray(label).save(mask / f"{i}.png")
    return tmp_path


def test_a_data_set_is_one_file_and_one_line(
    river: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks("add_a_dataset.md", "python")
    load_file(monkeypatch, river, "segcore.data.river", code)
    for name, entry in eval(
        "{" + added_entry("add_a_dataset.md", segcore.data) + "}", dict(vars(segcore.data))
    ).items():
        monkeypatch.setitem(segcore.data.DATASETS, name, entry)
    monkeypatch.chdir(river)
    (commands,) = blocks("add_a_dataset.md")
    for command in commands.splitlines():
        run(monkeypatch, command)
    printed = capsys.readouterr().out
    assert "River, 3 classes, 4/2/2 images" in printed
    assert "cgrseg toy, river test" in printed
    assert all(name in printed for name in ("water", "bank", "boat", "mIoU"))


@pytest.fixture
def stairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The backbone of docs/add_a_backbone.md, added as the page says; a working folder."""
    (code,) = blocks("add_a_backbone.md", "python")
    module = load_file(monkeypatch, tmp_path, "segcore.backbones.stairs", code)
    entry = added_entry("add_a_backbone.md", segcore.backbones)
    added = eval(f"({entry})", {**vars(segcore.backbones), "stairs": module})
    monkeypatch.setattr(segcore.backbones, "_FAMILIES", (*added, *segcore.backbones._FAMILIES))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_backbone_is_one_file_and_one_line(stairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (commands,) = blocks("add_a_backbone.md")
    for command in commands.splitlines():
        run(monkeypatch, command)
    backbone = create_backbone("stairs_m", pretrained=False)
    safetensors.torch.save_file(backbone.state_dict(), "stairs.safetensors")
    again = create_backbone("stairs_m", weights="stairs.safetensors")
    torch.testing.assert_close(again.state_dict(), backbone.state_dict())
    with pytest.raises(InputError, match=r"stairs_s has no weights to download; add --model\.pretrained false"):
        create_backbone("stairs_s")
    with pytest.raises(InputError, match="close names: stairs_"):
        create_backbone("stairs_x")


@pytest.mark.parametrize("name", sorted(installed_papers()))
@pytest.mark.usefixtures("stairs")
def test_every_paper_takes_the_new_backbone(name: str) -> None:
    paper = installed_papers()[name]
    recipe = paper.recipes["toy"]
    dilated = {"output_stride": 32} if hasattr(recipe.model, "output_stride") else {}
    model = replace(recipe.model, backbone="stairs_s", **dilated)
    network = paper.build(replace(recipe, model=model), 3).eval()
    with torch.no_grad():
        logits = network(torch.zeros(1, 3, 192, 192))  # UN-EPT's window of the recipe
    assert logits.shape[:2] == (1, 3)
    assert type(network.backbone).__name__ == "Stairs"
