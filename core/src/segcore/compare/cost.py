"""What a network costs on this machine: parameters, multiply-adds, time of an image, time of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from segcore import distributed
from segcore.build import build_from_checkpoint, build_model, for_inference, placed
from segcore.data import create_dataset
from segcore.evaluation.inference import network_input, run_network, views
from segcore.evaluation.timing import median_seconds, processor
from segcore.layers.count import count
from segcore.layers.precision import mixed_precision
from segcore.paper import Paper
from segcore.recipe import Recipe
from segcore.training.step_time import timed_step

_RUNS = 5
Cost = dict[str, float | str]


def measure(weights: Path) -> Cost:
    """Return what the network of a checkpoint costs for one validation image, as a single-scale test sees it."""
    built = build_from_checkpoint(weights)
    run, data = built.recipe.run, built.recipe.data
    device = distributed.current_device(run.device)
    model = placed(built.model, run, device).eval()
    sample = create_dataset(data, run.data, data.val_split, list_file=data.val_list).load(0)
    single = replace(built.recipe.evaluate, ratios=(1.0,), flip=False)
    image, _ = network_input(views(sample.image, single)[0], single, device)
    size = (image.shape[-2], image.shape[-1])

    network = for_inference(model, run)

    def forward() -> None:
        with torch.inference_mode(), mixed_precision(device, run.amp):
            run_network(network, image)

    seconds = median_seconds(forward, _RUNS, device)
    counted = count(model, size, device)
    return {
        "latency_ms": 1000 * seconds,
        "parameters": counted.params,
        "macs": counted.macs_torch,
        "input": f"{size[0]}x{size[1]}",
        "device": processor(device),
        "amp": run.amp,
    }


def step_costs(heads: Mapping[str, tuple[Paper, Recipe]], root: str, kind: str) -> dict[str, float]:
    """Return what a training step of each head costs.

    Args:
        heads: name -> paper and recipe.
        root: folder of the data set.
        kind: macs: multiply-adds of a forward pass of the crop; time: seconds of a step on this machine.
    """
    costs: dict[str, float] = {}
    for name, (paper, recipe) in heads.items():
        data, crop = recipe.data, recipe.augment.crop
        num_classes = len(create_dataset(data, root, data.val_split, check_files=False).classes.names)
        bare = replace(recipe, model=replace(recipe.model, pretrained=False, weights=""))
        if kind == "macs":
            with torch.device("meta"):
                model = build_model(paper, bare, num_classes)
            costs[name] = count(model, crop).macs_torch
        else:
            device = distributed.current_device(recipe.run.device)
            model = placed(build_model(paper, bare, num_classes), recipe.run, device).train()
            costs[name] = median_seconds(timed_step(paper, bare, model, crop, data.batch, device), _RUNS, device)
    return costs
