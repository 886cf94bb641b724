"""What the repositories built on mmcv 1.x and mmsegmentation 0.x have in common."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from references import Places, prefer, stand_in
from segcore.recipe import MS_RATIOS
from segcore.segmentor import Target

_RATES = ("dropout", "drop_rate", "drop_path_rate", "dropout_ratio")
_FILES = ("init_cfg", "pretrained")


def open_checkout(places: Places) -> None:
    """Make `mmcv` and `mmseg` those of the folders; mmcv's compiled operators can be imported, but not called."""
    prefer(places.reference, places.mmcv)
    stand_in(["mmcv._ext"])
    mmcv = importlib.import_module("mmcv")
    assert mmcv.__version__ < "2", f"mmcv {mmcv.__version__} was imported before: give --mmcv a checkout of 1.x"


def configuration(places: Places, file: str) -> Any:
    """Return a released configuration with plain norms for one process, no dropout and no files of weights."""
    mmcv = sys.modules["mmcv"]
    config = mmcv.Config.fromfile(str(places.reference / file))
    _change(config.model)
    return config


def _change(options: Any) -> None:
    """Change a configuration in place."""
    for name, value in list(options.items()):
        if name in _FILES:
            options[name] = None
        elif isinstance(value, dict):
            _change(value)
        elif value == "SyncBN":
            options[name] = "BN"
        elif name in _RATES:
            options[name] = 0.0


def total(network: nn.Module) -> Callable[[Tensor, Target], Tensor]:
    """Return the loss of a training step of a segmentor."""

    def loss(image: Tensor, target: Target) -> Tensor:
        terms = network.forward_train(image, [{}] * len(image), target.label[:, None])  # pyright: ignore[reportCallIssue]
        return sum(value for name, value in terms.items() if "loss" in name)  # pyright: ignore[reportReturnType]

    return loss


def segmentor(config: Any, **changes: Any) -> nn.Module:
    """Return the network of a configuration with its initial values, no pretrained ones."""
    builder = importlib.import_module("mmseg.models")
    config.model.update(changes)
    return builder.build_segmentor(config.model)


def encode_decode(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what a test takes from a segmentor: the logits at the image's size."""
    return lambda image: network.encode_decode(image, [{}] * len(image))  # pyright: ignore[reportCallIssue]


def aug_test(network: nn.Module, config: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return the multi-scale + flip test of a decoded image by the configuration's own pipeline.

    Shapes:
        (H, W, 3) uint8 BGR -> (H, W) class numbers
    """
    stand_in(["prettytable"])  # reports of scores
    pipelines = importlib.import_module("mmseg.datasets.pipelines")
    _, augment = config.data.test.pipeline  # the first reads a file
    prepare = pipelines.Compose([{**augment, "img_ratios": list(MS_RATIOS), "flip": True}])

    def test(image: np.ndarray) -> np.ndarray:
        facts = dict.fromkeys(("img_shape", "ori_shape", "pad_shape"), image.shape)
        views = prepare({"img": image, "filename": "", "ori_filename": "", "scale_factor": 1.0, **facts})
        device = next(network.parameters()).device
        images = [view[None].to(device) for view in views["img"]]
        metas = [[view.data] for view in views["img_metas"]]
        return network.aug_test(images, metas)[0]  # pyright: ignore[reportCallIssue]

    return test
