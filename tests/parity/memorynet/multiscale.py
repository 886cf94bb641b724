"""Parity of multi-scale, flipped and windowed evaluation (family S) on a network of one convolution."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import nn

from segcore.recipe import Evaluate
from tests.parity.building import TIED_SHARE, convolution, family_s, one_of, prediction_counts, tensor
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import fill
from tests.parity.formulas import evaluate


def _network(case: ParityCase) -> nn.Conv2d:
    """Return the network: "one convolution 3x3, padding 1", and formulas of `fill` for its weight and bias."""
    given = case.data["model"]
    sides = re.fullmatch(r"one convolution (\d+)x\1, padding (\d+)", given["kind"])
    assert sides, f"no network is called {given['kind']}"
    names = {"classes": case.data["num_classes"], "num_classes": case.data["num_classes"], "fill": fill}
    weight, bias = (np.asarray(evaluate(given[key], **names), np.float32) for key in ("weight", "bias"))
    assert weight.shape[-1] == int(sides[1])
    return convolution(weight, bias, given["stride"], int(sides[2]))


def _protocol(given: Mapping[str, Any]) -> Evaluate:
    windows: dict[str, Any] = {key: tuple(given[key]) for key in ("crop", "stride") if given[key] is not None}
    return Evaluate(
        family="S",
        mode=one_of(given["mode"], "whole", "slide"),
        ratios=tuple(given["ratios"]),
        flip=given["flip"],
        flip_pairs=tuple(tuple(pair) for pair in given["flip_pairs"] or ()),
        probabilities=given["softmax_before_resize"],
        **windows,
    )


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield the views, their mean at the original size and what it predicts."""
    outputs, protocol = case.data["outputs"], _protocol(case.data["inference"])
    images, size = tensor(case.data["input"]), tuple(case.data["original_size"])
    views, mean = family_s(_network(case), images, protocol, size)
    for i, (view, shape) in enumerate(zip(views, outputs["views"], strict=True)):
        yield Comparison(f"shape of view {i}", list(view.shape), shape, atol=0)
    yield Comparison("first_view", views[0], outputs["first_view"])
    yield Comparison("last_view", views[-1], outputs["last_view"])
    yield Comparison("averaged", mean, outputs["averaged"])
    counts = prediction_counts(mean)
    tied = TIED_SHARE * float(counts.sum())
    yield Comparison("prediction_counts", counts, outputs["prediction_counts"], atol=tied)
