"""Parity adapter of CGRSeg: builds the network of a case from its tensor shapes and compares it by the case's mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgrseg.model import CGRSeg
from cgrseg.names import infer_model, name_map
from cgrseg.recipes import CGRSEG_B, CGRSEG_L, CGRSEG_S0, CGRSEG_T, RECIPES, CGRSegModel
from segcore.backbones import create_backbone
from segcore.evaluation.inference import bands, logit_map
from segcore.images.transforms import multiple_size
from segcore.segmentor import StepInfo, Target
from segcore.training.optim import parameter_groups
from segcore.weights.names import NameMap
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import image, labels

_VARIANTS = {"S0": CGRSEG_S0, "S1": CGRSEG_T, "S2": CGRSEG_B, "L": CGRSEG_L}
_STEP = StepInfo(iteration=0, total=1, lr=0.0)


def _options(case: ParityCase) -> CGRSegModel:
    """Return the options of the case's network, without random depth and dropout (cases have none)."""
    deterministic = {"pretrained": False, "dropout": 0.0, "drop_path": 0.0}
    if "state_dict" in case.data:
        shapes = {name: tuple(shape) for name, shape in case.data["state_dict"].items()}
        options = infer_model(replace(CGRSEG_T, **deterministic), shapes)
        assert isinstance(options, CGRSegModel)
        return options
    variant = case.data["variant"].rsplit("-", 1)[-1].rstrip(")")  # "CGRSeg-T (EfficientFormerV2-S1)"
    return replace(_VARIANTS[variant], **deterministic)


def _load(model: nn.Module, names: NameMap, case: ParityCase) -> None:
    state = {name: tensor for name, tensor in case.published_state().items() if name in case.data["state_dict"]}
    model.load_state_dict(names.convert(model, state), strict=True)


def _network(case: ParityCase) -> CGRSeg:
    model = CGRSeg(_options(case), case.data["num_classes"])
    _load(model, name_map(model), case)
    return model


def compare(case: ParityCase) -> Iterator[Comparison]:
    """Yield our value beside the published one, in the order of computation."""
    if case.data["mode"] == "optimizer":
        yield from _compare_optimizer(case)
    elif case.data["num_classes"] == 0:
        yield from _compare_backbone(case)
    else:
        modes = {"eval": _compare_stages, "train": _compare_training, "inference": _compare_inference}
        model = _network(case)
        yield from _compare_params(case, model)
        yield from modes[case.data["mode"]](case, model)


def _input(case: ParityCase) -> Tensor:
    given = case.data["input"]
    return torch.from_numpy(image(tuple(given["shape"]), given["seed"]))


def _compare_params(case: ParityCase, model: CGRSeg) -> Iterator[Comparison]:
    for name, part in (("params", model), ("params_backbone", model.backbone), ("params_head", model.head)):
        yield Comparison(name, sum(p.numel() for p in part.parameters()), case.data[name], atol=0)


def _backbone_stages(backbone: Any) -> dict[str, nn.Module]:
    stages = {f"stage{i + 1}": stage for i, stage in enumerate(backbone.stages)}
    return {"stem": backbone.stem, "downsample4": backbone.stages[3].downsample, **stages}


def _head_stages(head: Any) -> dict[str, nn.Module]:
    levels = {f"rcm_level{i}": module for i, module in enumerate(head.levels)}
    fuse = {f"fuse_level{i}": module for i, module in enumerate(head.fuse)}
    blocks = {f"pyramid_rcm{i}": module for i, module in enumerate(head.pyramid.blocks)}
    return {
        **blocks,
        **levels,
        **fuse,
        "pyramid_out": head.pyramid.blocks,
        "linear_fuse": head.prior,
        "prior_logits": head.classifier,
        "prototypes": head.prototypes,
        "dpg": head.guidance,
        "logits": head,
    }


@dataclass
class _Recorder:
    """Keeps the first output of every named stage, and the first input of the pyramid."""

    values: dict[str, Tensor]

    def watch(self, stages: Mapping[str, nn.Module]) -> None:
        for name, module in stages.items():
            module.register_forward_hook(lambda _m, _i, output, name=name: self._keep(name, output))

    def watch_input(self, name: str, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda _m, inputs: self._keep(name, inputs[0]))

    def _keep(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self.values.setdefault(name, value.clone())


def _compare_recorded(case: ParityCase, recorder: _Recorder) -> Iterator[Comparison]:
    for name, published in case.data["outputs"].items():
        yield Comparison(name, recorder.values[name], published)


def _compare_backbone(case: ParityCase) -> Iterator[Comparison]:
    widths = {tuple(_variant_widths(name)): name for name in (o.backbone for o in _VARIANTS.values())}
    shapes = case.data["state_dict"]
    stem = shapes["backbone.patch_embed.3.weight"][0]
    last = max(
        (int(name.split(".")[2]), shape[0]) for name, shape in shapes.items() if name.endswith(".layer_scale_2")
    )[1]
    backbone = create_backbone(widths[stem, last], pretrained=False, drop_path_rate=0.0)
    wrapper = nn.ModuleDict({"backbone": backbone})
    _load(wrapper, name_map(wrapper), case)  # pyright: ignore[reportArgumentType]
    yield Comparison("params", sum(p.numel() for p in backbone.parameters()), case.data["params"], atol=0)
    recorder = _Recorder({})
    recorder.watch(_backbone_stages(backbone))
    with torch.no_grad():
        backbone.eval()(_input(case))
    yield from _compare_recorded(case, recorder)


def _variant_widths(name: str) -> tuple[int, int]:
    with torch.device("meta"):
        channels = create_backbone(name, pretrained=False).channels
    return channels[0], channels[-1]


def _compare_stages(case: ParityCase, model: CGRSeg) -> Iterator[Comparison]:
    recorder = _Recorder({})
    recorder.watch(_backbone_stages(model.backbone))
    recorder.watch(_head_stages(model.head))
    recorder.watch_input("pyramid_in", model.head.pyramid.blocks)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    with torch.no_grad():
        model.eval()(_input(case))
    yield from _compare_recorded(case, recorder)


def _compare_training(case: ParityCase, model: CGRSeg) -> Iterator[Comparison]:
    given = case.data["labels"]
    assert given["ignore"] == 255
    label = labels(tuple(given["shape"]), given["num_classes"], given["ignore"], given["seed"])
    losses = model.train().losses(_input(case), Target(torch.from_numpy(label)), _STEP)
    published = case.data["losses"]
    yield Comparison("loss_ce", losses["decode.loss_ce"].detach(), published["loss_ce"], rtol=1e-5, atol=0)
    yield Comparison("acc_seg", losses["decode.acc_seg"], published["acc_seg"], rtol=1e-5, atol=0)
    buffers = name_map(model).export(model)
    for name, summary in case.data["after_forward"].items():
        yield Comparison(f"{name} after the forward pass", buffers[name], summary)
    losses["decode.loss_ce"].backward()
    names = name_map(model)
    gradients = {names.to_published(name): p.grad for name, p in model.named_parameters()}
    norms = {name: float(gradient.norm()) for name, gradient in gradients.items() if gradient is not None}
    assert norms.keys() == gradients.keys(), "a parameter got no gradient"
    for name, norm in case.data["grad_norms"].items():
        yield Comparison(f"gradient norm of {name}", norms[name], norm, rtol=1e-3, atol=0)
    total = float(np.sqrt(sum(norm**2 for norm in norms.values())))
    yield Comparison("total gradient norm", total, case.data["grad_norm_total"], rtol=1e-4, atol=0)


def _compare_optimizer(case: ParityCase) -> Iterator[Comparison]:
    options = _options(case)
    with torch.device("meta"):
        model = CGRSeg(options, num_classes=150)
    names = name_map(model)
    published_names = {id(p): names.to_published(name) for name, p in model.named_parameters()}
    optim = RECIPES["t-ade20k"].optim
    base = case.data["base"]
    yield Comparison("lr", optim.lr, base["lr"], atol=0)
    yield Comparison("weight decay", optim.weight_decay, base["weight_decay"], atol=0)
    yield Comparison("betas and eps", [*optim.betas, optim.eps], [*base["betas"], base["eps"]], atol=0)
    ours = {
        published_names[id(p)]: [group["lr_mult"], group["weight_decay"]]
        for group in parameter_groups(model, names, optim)
        for p in group["params"]
    }
    assert ours.keys() == case.data["groups"].keys(), "the parameters are not those of the case"
    for name, group in case.data["groups"].items():
        yield Comparison(name, ours[name], group, atol=0)


def _compare_inference(case: ParityCase, model: CGRSeg) -> Iterator[Comparison]:
    protocol = RECIPES["t-ade20k"].evaluate
    size = tuple(case.data["original_size"])
    total = torch.zeros(case.data["num_classes"], *size)
    for given in case.data["inputs"]:
        normalized = torch.from_numpy(image(tuple(given["image_shape"]), given["seed"]))
        valid = (normalized.shape[-2], normalized.shape[-1])
        padded = multiple_size(valid, protocol.pad_divisor)
        yield Comparison("padded size", list(padded), given["padded_to"], atol=0)
        with torch.inference_mode():
            network_input = F.pad(normalized, (0, padded[1] - valid[1], 0, padded[0] - valid[0]))
            part = logit_map(model.eval(), network_input, protocol, valid)
            probabilities = torch.cat([band for _, band in bands([part], size, protocol)], dim=1)  # (K, H, W)
        # the case's image is taken as mirrored already; only its probabilities are mirrored back
        total += probabilities.flip(-1) if given["flip"] else probabilities
    mean = total / len(case.data["inputs"])
    yield Comparison("probabilities", mean[None], case.data["outputs"]["probabilities"], atol=1e-3)
    histogram = torch.bincount(mean.argmax(dim=0).flatten(), minlength=len(mean))
    # a few pixels have their two highest classes closer than float32 can tell
    yield Comparison("prediction histogram", histogram, case.data["prediction_histogram"], atol=8)
