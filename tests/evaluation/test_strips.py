"""Strips: the values of sliding windows over a picture that is never whole in memory, bit by bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segcore.build import build_model
from segcore.evaluation import inference
from segcore.evaluation.inference import View, bands, logit_map, network_input, predict_labels
from segcore.evaluation.strips import native_protocol, slide_strips
from segcore.paper import load_paper
from segcore.recipe import Evaluate
from tests.evaluation.test_inference import CPU, conv_model, random_pixels


class ArraySource:
    """A picture in memory; remembers what was asked for."""

    def __init__(self, image: np.ndarray) -> None:
        self.size = (image.shape[0], image.shape[1])
        self.image, self.next = image, 0

    def read(self, count: int) -> np.ndarray:
        rows = self.image[self.next : self.next + count]
        assert len(rows) == count
        self.next += count
        return rows


def whole_values(model: nn.Module, image: np.ndarray, protocol: Evaluate) -> Tensor:
    """Return what `bands` gives of the picture in memory, (K, H, W)."""
    pixels, valid = network_input(View(torch.from_numpy(image), 1.0), protocol, CPU)
    part = logit_map(model, pixels, protocol, valid)
    parts = [band for _, band in bands([part], valid, protocol, is_ranking=True)]
    return torch.cat(parts, dim=1)


PROTOCOLS = {
    "M": Evaluate(crop=(24, 32), stride=(16, 20)),
    "one row of windows": Evaluate(crop=(96, 32), stride=(60, 32)),
    "one column of windows": Evaluate(crop=(24, 128), stride=(9, 100)),
    "touching windows": Evaluate(crop=(16, 16), stride=(16, 16)),
    "padded windows": Evaluate(crop=(100, 100), stride=(50, 50), pad_window=True),
    "S": Evaluate(family="S", crop=(24, 32), stride=(16, 20)),
    "S, probabilities": Evaluate(family="S", crop=(24, 32), stride=(16, 20), probabilities=True),
}


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("size", [(61, 83), (24, 32), (5, 7)])
@pytest.mark.parametrize("band_bytes", [64, 2 << 20])
def test_strips_equal_the_windows_of_the_whole_picture(
    name: str, size: tuple[int, int], band_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(inference.BAND_BYTES, "cpu", band_bytes)
    model, image, protocol = conv_model(), random_pixels(*size), native_protocol(PROTOCOLS[name])
    source = ArraySource(image)
    strips = list(slide_strips(model, source, protocol))
    assert [rows.start for rows, _ in strips] == [0, *(rows.stop for rows, _ in strips)][:-1]
    assert strips[-1][0].stop == source.next == size[0]
    with torch.inference_mode():
        expected = whole_values(model, image, protocol)
    assert torch.equal(torch.cat([values for _, values in strips], dim=1), expected)


@pytest.mark.parametrize("paper", ["cgrseg", "unept"])
def test_labels_of_a_network_are_those_of_the_sliding_window(paper: str) -> None:
    recipe = load_paper(paper).recipes["toy"]
    model = build_model(load_paper(paper), recipe, 4).eval()
    image = random_pixels(250, 330)
    protocol = native_protocol(replace(recipe.evaluate, crop=(192, 192), stride=(120, 128)))
    label = torch.cat([values.argmax(dim=0) for _, values in slide_strips(model, ArraySource(image), protocol)])
    expected = predict_labels(model, [View(torch.from_numpy(image), 1.0)], protocol, (250, 330))
    assert torch.equal(label, expected.long())
    assert len(label.unique()) > 1


def test_only_the_rows_of_the_windows_at_hand_are_held() -> None:
    protocol = native_protocol(Evaluate(crop=(16, 16), stride=(8, 8)))
    source = ArraySource(random_pixels(400, 16))
    for rows, _ in slide_strips(conv_model(), source, protocol):
        assert source.next <= rows.stop + 3 * 16 + inference.CPU_PIXELS // 16**2  # batches of windows read ahead
