"""Builds timm models with ImageNet weights: from a file, from the local cache, or downloaded."""

from __future__ import annotations

import difflib
import logging
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache

from segcore.errors import InputError
from segcore.weights.files import read_checkpoint

_LOG = logging.getLogger(__name__)
_CONNECT_SECONDS = 5.0
_SHOWN = 200  # characters of timm's message


def check_timm_name(name: str, others: Sequence[str] = ()) -> None:
    """Raise an `InputError` with close matches if timm has no model `name` (NAME or NAME.WEIGHTS_TAG).

    Args:
        others: further names that might have been meant.
    """
    if timm.is_model(name):
        return
    close = difflib.get_close_matches(name.split(".")[0], sorted({*others, *timm.list_models()}), n=3, cutoff=0.5)
    hint = f"; close names: {', '.join(close)}" if close else ""
    raise InputError(f"--model.backbone {name}: neither segcore nor timm has a backbone of that name{hint}")


def _unreachable(name: str) -> InputError:
    return InputError(
        f"the ImageNet weights of {name} cannot be downloaded (no network, or the server refused); "
        f"give a file with --model.weights FILE, or start from random weights with --model.pretrained false"
    )


def _has_route(url: str) -> bool:
    """Return whether the server of `url` answers; with a proxy configured the question is left to the download."""
    if getproxies():
        return True
    address = urlparse(url)
    try:
        with socket.create_connection((address.hostname or "", address.port or 443), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _cached_file(repository: str) -> str:
    """Return the path of weights that an earlier run downloaded, or an empty string."""
    for filename in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(repository, filename)
        if isinstance(path, str):
            return path
    return ""


def _cached_file_of(name: str) -> str:
    """Return the local file of the weights that timm would load, or an empty string: they must be downloaded.

    Raises:
        InputError: timm has no weights under that name, or their server does not answer (found out in seconds; the
            hub's client would retry for most of a minute).
    """
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise InputError(
            f"--model.backbone {name}: timm publishes no weights under this name; add --model.pretrained false"
        )
    repository = str(config.hf_hub_id or "")
    cached = _cached_file(repository) if repository else ""
    if not cached and not _has_route(constants.ENDPOINT if repository else str(config.url)):
        raise _unreachable(name)
    return cached


def create_timm_model(name: str, pretrained: bool, weights: str, **options: Any) -> Any:
    """Build a timm model: an nn.Module with timm's attributes.

    Its weights come from the file `weights` or, if that is empty and `pretrained`, through timm.

    Raises:
        InputError: unknown name, missing file, no weights, no network.
    """
    check_timm_name(name)
    if weights:
        return _from_file(name, weights, options)
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    cached = _cached_file_of(name)
    if cached:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": cached}, **options)
    _LOG.info("downloading the ImageNet weights of %s", name)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except OSError as error:  # every error of huggingface_hub and urllib that stands for the network is one
        raise _unreachable(name) from error


def _from_file(name: str, weights: str, options: dict[str, Any]) -> Any:
    """Build a timm model with the weights of a file, by timm's own reading: it knows each family's original names.

    timm leaves out silently what a file lacks. So the model is built twice from the same random state, and matrices
    that are equal in both were not in the file.
    """
    read_checkpoint(weights)  # absent, damaged or unsafe files are refused here, with a sentence
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        initial = timm.create_model(name, pretrained=False, **options).state_dict()
        torch.manual_seed(0)
        try:
            model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": weights}, **options)
        except (RuntimeError, KeyError) as error:  # shapes of another model
            raise InputError(f"--model.weights {weights} does not fit {name}: {str(error)[:_SHOWN]}") from error
    same = [key for key, tensor in model.state_dict().items() if tensor.ndim > 1 and torch.equal(tensor, initial[key])]
    if same:
        shown = ", ".join(same[:3])
        raise InputError(f"--model.weights {weights} does not fit {name}: it lacks {len(same)} matrices ({shown}, ...)")
    return model
