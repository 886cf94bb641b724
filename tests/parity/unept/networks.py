"""Parity cases of whole UN-EPT networks in evaluation: every stage, and sliding windows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.evaluation.inference import logit_map
from segcore.recipe import Evaluate
from segcore.segmentor import resize
from tests.parity.building import count, record, scores, settled, tensor
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.unept.modules import couple_images
from unept.model import UNEPT
from unept.names import infer_model, name_map
from unept.recipes import UNEPTModel

_BACKBONES = {"r50": "resnet50c", "deit": "deit_base_distilled_patch16_384"}


def build(case: ParityCase) -> UNEPT:
    """Return the network of a case, without dropout, with its weights."""
    given = {name: case.data[name] for name in ("heads", "points") if name in case.data}  # else the published
    backbone = _BACKBONES[case.data["variant"]]
    start = UNEPTModel(backbone=backbone, pretrained=False, dropout=0.0, backbone_norm="batch", **given)
    options = infer_model(start, case.published_shapes())
    assert isinstance(options, UNEPTModel)
    assert options.backbone == backbone, f"the tensors are those of {options.backbone}"
    settled(case.data, image_size=options.window, num_queries=(options.window // 8) ** 2, embed=options.width)
    settled(case.data, levels=options.levels, points=options.points, ffn=options.feedforward)
    model = UNEPT(options, case.data["num_classes"])
    model.load_state_dict(name_map(model).convert(model, case.published_state()), strict=True)
    return model.eval()


def compare_params(case: ParityCase, model: UNEPT) -> Iterator[Comparison]:
    """Yield the parameter counts that the case has."""
    for name, part in (("params", model), ("params_backbone", model.backbone), ("params_head", model.head)):
        if name in case.data:
            yield Comparison(name, count(part), case.data[name], atol=0)


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
    model, image, published = build(case), tensor(case.data["input"]), case.data["outputs"]
    yield from compare_params(case, model)
    if len(image) > 1:
        couple_images(model)
    seen = record(_stages(model))
    with torch.no_grad():
        maps = model.backbone(image)
        logits = model.head.predictions([image, *maps]).logits
    size = (image.shape[-2], image.shape[-1])
    backbone = {f"backbone_{i}": level for i, level in enumerate(maps[-len(model.head.levels) :])}
    values: dict[str, Tensor] = {**backbone, **seen, "logits": resize(logits, size)}
    order = list(values)
    for name in sorted(published, key=order.index):
        value = values[name].transpose(0, 1) if name.startswith("decoder") else values[name]
        yield Comparison(name, value, published[name])
    if len(image) == 1:
        with torch.no_grad():
            yield Comparison("the test-time path", resize(model(image), size), published["logits"])


def _pair(value: int | list[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def sliding_windows(case: ParityCase) -> Iterator[Comparison]:
    """Windows of several views: logits, their resize to the original image, mean probabilities."""
    model, published = build(case), case.data["outputs"]
    yield from compare_params(case, model)
    window, stride = _pair(case.data["window"]), _pair(case.data["stride"])
    protocol = Evaluate(mode="slide", crop=window, stride=stride, pad_window=True, window_batch=4)
    size = _pair(case.data["input"]["original_size"])
    means: list[Tensor] = []
    for number, view in enumerate(case.data["input"]["views"]):
        images = tensor(view)
        if number == 0:
            with torch.no_grad():
                logits = torch.cat([logit_map(model, image[None], protocol).full() for image in images])
            yield Comparison("slide_logits", logits, published["slide_logits"])
            full = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            yield Comparison("slide_logits_original_size", full, published["slide_logits_original_size"])
        mean = scores(model, images, protocol, size)
        # a case's view is taken as mirrored already; only its probabilities are mirrored back
        means.append(mean.flip(-1) if view["flip"] else mean)
    yield Comparison("mean_probabilities", torch.stack(means).mean(dim=0), published["mean_probabilities"])
