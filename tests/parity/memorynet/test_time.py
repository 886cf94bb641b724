"""Parity of multi-scale, flipped and windowed evaluation (family S) on a network of one convolution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segcore.evaluation.inference import bands, interpolated, logit_map
from segcore.recipe import Evaluate
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import fill, image


def _network(case: ParityCase) -> nn.Conv2d:
    given, num_classes = case.data["model"], case.data["num_classes"]
    assert given["kind"] == "one convolution 3x3, padding 1"
    model = nn.Conv2d(3, num_classes, 3, given["stride"], padding=1)
    weight = 3 * fill("toy.weight", (num_classes, 3, 3, 3))
    model.load_state_dict(
        {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(fill("toy.bias", (num_classes,)))}
    )
    return model.eval()


def _protocol(given: Mapping[str, Any]) -> Evaluate:
    windows: dict[str, Any] = {}
    if given["mode"] == "slide":
        windows = {"crop": tuple(given["crop"]), "stride": tuple(given["stride"])}
    return Evaluate(
        family="S",
        mode=given["mode"],
        ratios=tuple(given["ratios"]),
        flip=given["flip"],
        flip_pairs=tuple(tuple(pair) for pair in given["flip_pairs"] or ()),
        probabilities=given["softmax_before_resize"],
        **windows,
    )


@torch.no_grad()
def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    data, model, protocol = case.data, _network(case), _protocol(case.data["inference"])
    pixels = torch.from_numpy(image(tuple(data["input"]["shape"]), data["input"]["seed"]))
    maps = []
    views: list[Tensor] = []
    for ratio in protocol.ratios:
        view = interpolated(pixels, ratio)
        part = logit_map(model, torch.cat([view, view.flip(-1)]) if protocol.flip else view, protocol)
        maps.append(part)
        plain, *mirrored = part.full().unsqueeze(1)
        views += [plain, *(_unmirrored(scores, protocol) for scores in mirrored)]
    outputs = data["outputs"]
    for i, (view, shape) in enumerate(zip(views, outputs["views"], strict=True)):
        yield Comparison(f"shape of view {i}", list(view.shape), shape, atol=0)
    yield Comparison("first_view", views[0], outputs["first_view"])
    yield Comparison("last_view", views[-1], outputs["last_view"])
    size = tuple(data["original_size"])
    total = torch.cat([band for _, band in bands(maps, (size[0], size[1]), protocol)], dim=1)  # (K, H, W)
    yield Comparison("averaged", total.unsqueeze(0) / len(views), outputs["averaged"])
    counts = torch.bincount(total.argmax(dim=0).flatten(), minlength=len(total))
    # two classes of equal score are decided by rounding
    yield Comparison("prediction_counts", counts, outputs["prediction_counts"], atol=1e-3 * float(counts.sum()))


def _unmirrored(scores: Tensor, protocol: Evaluate) -> Tensor:
    """Mirror the scores (1, K, h, w) of a mirrored image back, left and right classes exchanged."""
    order = list(range(scores.shape[1]))
    for one, other in protocol.flip_pairs:
        order[one], order[other] = other, one
    return scores[:, order].flip(-1)
