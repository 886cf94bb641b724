"""Parity cases of whole UN-EPT networks in evaluation: every stage, and sliding windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.evaluation.inference import bands, logit_map
from segcore.recipe import Evaluate
from segcore.segmentor import resize
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.unept.modules import couple_images, tensor
from unept.model import UNEPT
from unept.names import infer_model, name_map
from unept.recipes import UNEPTModel


def build(case: ParityCase) -> UNEPT:
    """Return the network of a case, without dropout, with its weights."""
    shapes = {name: tuple(shape) for name, shape in case.data["state_dict"].items()}
    start = UNEPTModel(backbone="resnet18", pretrained=False, dropout=0.0, backbone_norm="batch")
    options = infer_model(start, shapes)
    assert isinstance(options, UNEPTModel)
    assert options.window == case.data["image_size"]
    assert (options.window // 8) ** 2 == case.data["num_queries"]
    model = UNEPT(options, case.data["num_classes"])
    model.load_state_dict(name_map(model).convert(model, case.published_state()), strict=True)
    return model.eval()


def compare_params(case: ParityCase, model: UNEPT) -> Iterator[Comparison]:
    """Yield the parameter counts that the case has."""
    for name, part in (("params", model), ("params_backbone", model.backbone), ("params_head", model.head)):
        if name in case.data:
            yield Comparison(name, sum(p.numel() for p in part.parameters()), case.data[name], atol=0)


def _stages(model: UNEPT) -> dict[str, nn.Module]:
    head = model.head
    return {
        "spatial": head.spatial,
        **{f"pyramid_{i}": level for i, level in enumerate(head.levels)},
        **{f"encoder_{i}": layer for i, layer in enumerate(head.context.encoder)},
        **{f"decoder_{i}": layer for i, layer in enumerate(head.context.decoder)},
        "logits_stride8": head.classifier,
        "mask": head.boundary,
        "direction": head.direction,
    }


def stages(case: ParityCase) -> Iterator[Comparison]:
    """Every stage; a batch is coupled by the self-attention, one image runs in our own form of it."""
    model = build(case)
    yield from compare_params(case, model)
    image = tensor(case.data["input"])
    if len(image) > 1:
        couple_images(model)
    seen: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        seen[name] = output

    for name, module in _stages(model).items():
        module.register_forward_hook(lambda _m, _i, output, name=name: keep(name, output))
    with torch.no_grad():
        maps = model.backbone(image)
        seen.update({f"backbone_{i}": level for i, level in enumerate(maps[-3:])})
        logits = model.head.predictions([image, *maps]).logits
    size = (image.shape[-2], image.shape[-1])
    seen["logits"] = resize(logits, size)
    published = case.data["outputs"]
    order = [*(f"backbone_{i}" for i in range(3)), *_stages(model), "logits"]
    assert set(published) == set(order)
    for name in order:
        value = seen[name].transpose(0, 1) if name.startswith("decoder") else seen[name]
        yield Comparison(name, value, published[name])
    if len(image) == 1:
        with torch.no_grad():
            yield Comparison("the test-time path", resize(model(image), size), published["logits"])


def sliding_windows(case: ParityCase) -> Iterator[Comparison]:
    """Windows of several views: logits, their resize to the original image, mean probabilities."""
    model = build(case)
    yield from compare_params(case, model)
    window, stride = (case.data["window"],) * 2, (case.data["stride"],) * 2
    protocol = Evaluate(mode="slide", crop=window, stride=stride, pad_window=True, window_batch=4)
    height, width = case.data["input"]["original_size"]
    views = case.data["input"]["views"]
    total = torch.zeros(case.data["num_classes"], height, width)
    for number, view in enumerate(views):
        with torch.inference_mode():
            part = logit_map(model, tensor(view), protocol)
            probabilities = torch.cat([band for _, band in bands([part], (height, width), protocol)], dim=1)
            if number == 0:
                logits = part.full()
                published = case.data["outputs"]
                yield Comparison("slide_logits", logits, published["slide_logits"])
                full = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
                yield Comparison("slide_logits_original_size", full, published["slide_logits_original_size"])
        # a case's view is taken as mirrored already; only its probabilities are mirrored back
        total += probabilities.flip(-1) if view["flip"] else probabilities
    mean = total[None] / len(views)
    yield Comparison("mean_probabilities", mean, case.data["outputs"]["mean_probabilities"])
