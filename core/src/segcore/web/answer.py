"""What the page answers, computed here with onnxruntime: the measure of what a browser must give."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

from segcore.evaluation.inference import ViewSum, grid_of, map_of_windows, views
from segcore.recipe import Evaluate


class PageNetwork:
    """An exported graph with the rules of its test, single scale: resize, windows, enlarging the logits.

    Args:
        session: of a graph that takes bytes and gives coarse logits and the padded size.
        protocol: scale, windows; ratios and mirroring are left out.
    """

    def __init__(self, session: Any, protocol: Evaluate) -> None:
        self.session, self.protocol = session, protocol

    def values(self, image: np.ndarray) -> torch.Tensor:
        """Return the values of the classes that the argmax is taken of.

        Shapes:
            image (H, W, 3) uint8 BGR -> (K, H, W) float32: probabilities, or logits where family S averages those
        """
        return self._sum(image).fold()

    def labels(self, image: np.ndarray) -> np.ndarray:
        """Return the class numbers.

        Shapes:
            image (H, W, 3) uint8 BGR -> (H, W) uint8
        """
        return self._sum(image).labels().numpy()

    def _sum(self, image: np.ndarray) -> ViewSum:
        pixels = views(image, self.protocol)[0].pixels.numpy()
        size = (pixels.shape[0], pixels.shape[1])
        rgb = np.ascontiguousarray(pixels[..., ::-1].transpose(2, 0, 1)[None])
        grid = grid_of(nn.Identity(), size, self.protocol)  # what is padded to is in the graph
        values: list[torch.Tensor] = []
        padded = grid.padded
        for top, left in product(grid.tops, grid.lefts):
            window = rgb[..., top : top + grid.window[0], left : left + grid.window[1]]
            coarse, sides = self.session.run(None, {"image": np.ascontiguousarray(window)})
            values.append(torch.from_numpy(coarse))
            padded = (int(sides[0]), int(sides[1]))
        total = ViewSum((image.shape[0], image.shape[1]), self.protocol)
        total.add(map_of_windows(values, grid._replace(padded=padded), size, self.protocol))
        return total
