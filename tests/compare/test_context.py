"""What far pixels are worth, on scenes with a class that only a far cue tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.build import build_model
from segcore.commands import compare_context
from segcore.compare.context import ContextCurve, Probe, _disc, context_csv, context_curve, context_page, sample_pixels
from segcore.data.base import ClassTable, Sample, SegmentationDataset
from segcore.data.palette import make_palette
from segcore.data.toy.dataset import CLASSES
from segcore.evaluation.inference import network_input, views
from segcore.pages.render import render
from segcore.paper import load_paper
from segcore.recipe import Evaluate
from segcore.recipe.plain import to_plain
from segcore.weights.files import run_versions, save_weights
from segcore.weights.header import CheckpointMeta
from tests.contract.conftest import small_recipe

CPU = torch.device("cpu")
SIZE = (32, 64)
PROTOCOL = Evaluate(scale=(64, 32))
RADII = (4.0, 12.0, 30.0)
"""The cue at the left edge is about 40 pixels from the block."""


class CueScenes(SegmentationDataset):
    """A gray block at the right; whether it is "warm" or "cold" only the color of the left edge tells."""

    name = "cue"
    classes = ClassTable(("ground", "warm", "cold"), make_palette(3))

    def __len__(self) -> int:
        return 40

    def load(self, index: int) -> Sample:
        generator = np.random.default_rng(index)
        image = generator.integers(90, 120, (*SIZE, 3)).astype(np.uint8)
        label = np.zeros(SIZE, np.uint8)
        top, is_warm = int(generator.integers(2, 20)), index % 2
        image[top : top + 10, 46:56] = 200
        label[top : top + 10, 46:56] = 1 if is_warm else 2
        image[:, :5] = (0, 0, 255) if is_warm else (255, 0, 0)
        return Sample(image, label, str(index))


class Net(nn.Module):
    """Three 3x3 convolutions; with context, the mean over the image is added to every pixel."""

    def __init__(self, has_context: bool) -> None:
        super().__init__()
        self.has_context = has_context
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Conv2d(32, 16, 1), nn.ReLU(), nn.Conv2d(16, 3, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = self.features(image)
        mean = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
        return self.head(torch.cat([x, mean if self.has_context else torch.zeros_like(x)], dim=1))


def trained(has_context: bool) -> Net:
    torch.manual_seed(0)
    dataset, net = CueScenes(), Net(has_context)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    samples = [dataset.load(index) for index in range(20)]
    images = torch.stack([network_input(views(sample.image, PROTOCOL)[0], PROTOCOL, CPU)[0][0] for sample in samples])
    labels = torch.stack([torch.from_numpy(sample.label).long() for sample in samples])
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels, weight=torch.tensor([0.1, 1.0, 1.0])).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def curves() -> list[ContextCurve]:
    dataset = CueScenes()
    probes = sample_pixels(dataset, 12)
    return [
        context_curve(name, trained(has_context), PROTOCOL, dataset, probes, RADII, CPU)
        for name, has_context in (("near", False), ("far", True))
    ]


def test_a_head_of_small_field_stays_flat_and_one_with_context_rises(curves: list[ContextCurve]) -> None:
    near, far = (curve.iou[:, 1:].mean(axis=1) for curve in curves)  # warm and cold
    assert near[1:].max() - near[1:].min() < 0.05
    assert near[-1] < 0.55
    assert far[-1] > 0.9
    assert far[-1] - far[1] > 0.3  # 12 pixels do not reach the cue, the whole image does


def test_pixels_are_sampled_evenly_over_the_classes_and_lie_on_them() -> None:
    dataset = CueScenes()
    probes = sample_pixels(dataset, 7)
    counts = np.bincount([probe.label for probe in probes])
    assert counts.tolist() == [7, 7, 7]
    assert all(dataset.load_label(p.image)[p.row, p.column] == p.label for p in probes)
    assert probes == sample_pixels(dataset, 7)
    assert {probe.image for probe in sample_pixels(dataset, 50, images=2)} == {0, 39}


def test_a_disc_shows_what_is_within_the_radius_in_pixels_of_the_original_image() -> None:
    probe = Probe(0, 10, 20, 0)
    full = _disc(probe, 5, (32, 64), (32, 64), CPU)[0]
    assert full[10, 25] == full[15, 20] == 1
    assert full[10, 26] == full[14, 24] == 0
    half = _disc(probe, 5, (32, 64), (16, 32), CPU)[0]
    assert float(half.sum()) == pytest.approx(float(full.sum()) / 4, rel=0.15)
    assert _disc(probe, float("inf"), (32, 64), (32, 64), CPU).min() == 1


def test_the_page_and_the_table_have_every_head_and_class(curves: list[ContextCurve]) -> None:
    names = CueScenes.classes.names
    page, table = render(context_page(curves, names, ("cue",))), context_csv(curves, names)
    assert all(word in page for word in (*names, "near", "far", "whole image"))
    assert len(table.splitlines()) == 1 + 2 * 3 * 4


def test_a_trained_run_is_asked_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paper = load_paper("cgrseg")
    recipe = small_recipe(paper, tmp_path)
    meta = CheckpointMeta(
        paper="cgrseg",
        recipe_name="toy",
        recipe=to_plain(recipe),
        classes=list(CLASSES.names),
        palette=CLASSES.palette.tolist(),
        iteration=0,
        scores={},
        versions=run_versions(),
    )
    path = tmp_path / "w.safetensors"
    save_weights(path, build_model(paper, recipe, 8).state_dict(), meta)
    words = [str(path), "--radii", "8", "--pixels", "1", "--images", "2", "--device", "cpu"]
    assert compare_context.main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "cgrseg-toy: mean IoU" in capsys.readouterr().out
    assert (tmp_path / "out" / "context.html").is_file()
