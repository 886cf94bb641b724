"""The Python of the README runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from memorynet.model import MemorySegmentor
from memorynet.recipes import RECIPES
from tests.memorynet.networks import STEP, batch_of

README = (Path(__file__).parents[2] / "packages" / "memorynet" / "README.md").read_text()


def test_the_example_of_a_memory_on_another_head_trains_and_predicts() -> None:
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "MemoryHead" in block)
    names: dict[str, object] = {}
    exec(example, names)
    model = names["model"]
    assert isinstance(model, MemorySegmentor)
    images, target = batch_of(64, 96)
    model.losses(images, target, STEP).total().backward()
    assert model.head.memory.num_batches_tracked.tolist() == [1] * 4 + [0] * 15
    with torch.no_grad():
        assert model.eval()(images).shape == (2, 19, 2, 3)


def test_every_recipe_and_its_published_figures_are_in_the_table() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)`[^|]*\| ([^|]+?) \|", README, re.MULTILINE))
    assert rows.keys() == RECIPES.keys()
    for name, figures in rows.items():
        if name not in ("toy", "camvid", "own"):
            published = RECIPES[name].published
            single = "-" if published.miou is None else f"{published.miou:.2f}"
            assert figures == f"{single} / {published.miou_ms:.2f}"
