"""Parity of ECFD's heads alone and of whole networks: every stage, losses and gradients."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ecfd.fusion import to_tokens
from ecfd.model import ECFD, HEADS, Decoder
from ecfd.names import name_map
from ecfd.recipes import TINY, TWO_STREAMS, ECFDModel
from segcore.backbones import Backbone
from segcore.losses import cross_entropy
from segcore.segmentor import EncoderDecoder, StepInfo, Target, resize
from tests.parity.building import compare_norms, count, drawn, gradient_norms, label, record, settled, tensor
from tests.parity.case_files import Comparison, ParityCase

_STEP = StepInfo(iteration=0, total=1, lr=0.0)
_PREFIX = "decode_head."
_HEADS = {
    "ECFD": "ecfd",
    "ECFDPatch4": "patch4",
    "ECFDFPN": "fpn",
    "ECFDGeneralFPN": "general_fpn",
    "ECFDGeneral": "general",
    "ECFDSpatial": "spatial",
}
_OUTPUT_STRIDES = {((1, 2, 2, 2), (1, 1, 1, 1)): 32, ((1, 2, 1, 1), (1, 1, 2, 4)): 8}
_SWINS = {  # width, blocks and attention heads of the four stages
    "tiny": (96, [2, 2, 6, 2], [3, 6, 12, 24]),
    "small": (96, [2, 2, 18, 2], [3, 6, 12, 24]),
    "base": (128, [2, 2, 18, 2], [4, 8, 16, 32]),
    "large": (192, [2, 2, 18, 2], [6, 12, 24, 48]),
}
_SWIN_IMAGES = {7: 224, 12: 384}
"""Side of the images of ImageNet by the window."""
_CONVNEXTS = {  # blocks and widths of the four stages
    "tiny": ([3, 3, 9, 3], [96, 192, 384, 768]),
    "small": ([3, 3, 27, 3], [96, 192, 384, 768]),
    "base": ([3, 3, 27, 3], [128, 256, 512, 1024]),
    "large": ([3, 3, 27, 3], [192, 384, 768, 1536]),
    "xlarge": ([3, 3, 27, 3], [256, 512, 1024, 2048]),
}


def backbone_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a published backbone."""
    kind = given["type"]
    if kind == "ResNetV1c":
        settled(given, contract_dilation=True)
        stride = _OUTPUT_STRIDES[tuple(given["strides"]), tuple(given["dilations"])]
        return {"backbone": f"resnet{given['depth']}c", "output_stride": stride}
    if kind == "SwinTransformer":
        found = (given["embed_dim"], given["depths"], given["num_heads"])
        (size,) = (name for name, settings in _SWINS.items() if settings == found)
        window = given["window_size"]
        return {"backbone": f"swin_{size}_patch4_window{window}_{_SWIN_IMAGES[window]}"}
    if kind == "ConvNeXt":
        found = (given["depths"], given["dims"])
        (size,) = (name for name, settings in _CONVNEXTS.items() if settings == found)
        return {"backbone": f"convnext_{size}"}
    raise ValueError(f"no backbone of ECFD is called {kind}")


def options_of(case: ParityCase) -> ECFDModel:
    """Return the options of the case's network, without dropout and random depth (cases have none)."""
    config = case.data["config"]
    settled(config, SICM_num_heads=config["CICM_num_heads"], CICM_n_level=3, SICM_n_levels=1)
    settled(config, patch_ratio=4, align_corners=False, num_classes=case.data["num_classes"])
    head = _HEADS[config["type"] if "type" in config else case.data["variant"].split()[0]]
    height, width = config["pretrain_img_size"]
    patch = config["patch_size"]
    return replace(
        TINY,
        head=head,
        pretrained=False,
        dropout=0.0,
        drop_path=0.0,
        embed_dim=config["embed_dim"],
        heads=config["CICM_num_heads"],
        channels=config["channels"],
        depth=config["L"],
        points=config["n_points"],
        mlp_ratio=config["SICM_mlp_ratio"],
        value_ratio=config.get("deform_ratio", 1.0),
        context_to_levels=config["add_context_information"] and head in TWO_STREAMS,  # the others ignore it
        position_grid=(height // patch, width // patch),
    )


def _load(model: EncoderDecoder, case: ParityCase, prefix: str = "") -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in case.published_state().items()}
    model.load_state_dict(name_map(model).convert(model, state), strict=True)


def _stage(head: Decoder, name: str) -> nn.Module:
    """Return the module that computes a published stage of the head."""
    modules: Any = head
    level = re.fullmatch(r"c(\d)_deconv1x1|norm(\d)", name)
    if level:
        output = modules.outputs[int(level[1] or level[2]) - 2]
        return output[0] if level[1] and isinstance(output, nn.Sequential) else output
    if name == "logits":
        return head
    path = name
    for published, ours in (
        (r"^c1_conv1x1$", "low"),
        (r"^clgd_conv1x1$", "up"),
        (r"^RCE(\.0)?$", "rce"),
        (r"^clgd\.conv_low$", "clgd.low"),
        (r"^clgd\.conv_att$", "clgd.gate"),
        (r"^clgd\.conv_cat$", "clgd.join"),
        (r"^fpn\.c4conv$", "fpn.top"),
        (r"^(blocks\.\d+)\.[01]$", r"\1"),
        (r"\.CICM", ".cicm"),
        (r"\.SICM", ".sicm"),
        (r"\.GeneralFusion", ""),
        (r"\.attn$", ".attention"),
        (r"\.Mlp$", ".mlp"),
    ):
        path = re.sub(published, ours, path)
    return head.get_submodule(path)


def _stage_value(name: str, output: Any) -> Tensor:
    """Return what a case calls a stage: of a block the spatial (.0) or the context tokens (.1), RCE as tokens."""
    if isinstance(output, list):
        return output[int(name.rsplit(".", 1)[-1])]
    return to_tokens([output]) if name == "RCE.0" else output


class _Features(nn.Module):
    """In place of a backbone: gives the maps that it is given."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return maps


def compare_head(case: ParityCase) -> Iterator[Comparison]:
    """Yield all stages of a head, the gradients of its inputs and parameters, and the training loss."""
    data, options, num_classes = case.data, options_of(case), case.data["num_classes"]
    head = HEADS[options.head](data["config"]["in_channels"], num_classes, options)
    model = EncoderDecoder(_Features(), head, num_classes, nn.Identity())
    _load(model, case, _PREFIX)
    yield Comparison("params", count(head), data["params"], atol=0)
    features = [drawn(given).requires_grad_() for given in data["inputs"]["features"]]
    outputs = data["outputs"]
    stages = [name for name in outputs if not name.startswith("grad_") and name != "logits"]
    values = record({name: _stage(head, name) for name in stages})
    logits = head.eval()(features)
    for name in stages:
        yield Comparison(name, _stage_value(name, values[name]), outputs[name])
    yield Comparison("logits", logits.detach(), outputs["logits"])
    logits.backward(drawn(data["inputs"]["grad_output"]))
    for i, feature in enumerate(features):
        grad = torch.zeros_like(feature) if feature.grad is None else feature.grad  # of a level that is not used
        yield Comparison(f"grad_level{i + 1}", grad, outputs[f"grad_level{i + 1}"], atol=1e-3)
    yield from _compare_gradients(case, model, _PREFIX, rtol=1e-3)
    target = label(data["labels"])
    with torch.no_grad():
        logits = resize(head.train()(features), (target.shape[-2], target.shape[-1]))
    loss = cross_entropy(logits, target, average="all")
    yield Comparison("loss_seg", loss, data["losses"]["loss_seg"], rtol=1e-5, atol=0)


def _compare_gradients(case: ParityCase, model: EncoderDecoder, prefix: str, rtol: float) -> Iterator[Comparison]:
    norms = gradient_norms(model, name_map(model).to_published)
    assert len(norms) == len(list(model.parameters())), "a parameter got no gradient"
    own = {name.removeprefix(prefix): norm for name, norm in norms.items()}
    yield from compare_norms(own, case.data["grad_norms"], rtol=rtol, atol=0)


def compare_network(case: ParityCase) -> Iterator[Comparison]:
    """Yield the parameter counts, all stages from the backbone to the logits, and what training gives."""
    model = ECFD(replace(options_of(case), **backbone_of(case.data["backbone"])), case.data["num_classes"])
    settled(case.data["config"], in_channels=list(cast(Backbone, model.backbone).channels[-4:]))
    _load(model, case)
    parts = {"": model, "_backbone": model.backbone, "_head": model.head, "_auxiliary": model.auxiliary}
    for name, part in parts.items():
        yield Comparison(f"params{name}", count(part), case.data[f"params{name}"], atol=0)
    yield from _compare_stages(case, model)
    if "losses" in case.data:
        yield from _compare_training(case, model)


def _compare_stages(case: ParityCase, model: ECFD) -> Iterator[Comparison]:
    outputs = case.data["outputs"]
    stages = [name.removeprefix(_PREFIX) for name in outputs if name.startswith(_PREFIX)]
    assert isinstance(model.head, Decoder)
    assert model.auxiliary is not None
    values = record({name: _stage(model.head, name) for name in stages})
    with torch.no_grad():
        features = model.eval().backbone(tensor(case.data["input"]))
        for i, feature in enumerate(features):
            yield Comparison(f"backbone.level{i + 1}", feature, outputs[f"backbone.level{i + 1}"])
        logits = model.head(features)
        for name in stages:
            yield Comparison(name, _stage_value(name, values[name]), outputs[f"{_PREFIX}{name}"])
        yield Comparison("logits", logits, outputs["logits"])
        (auxiliary,) = model.auxiliary.children()
        yield Comparison("aux_logits", auxiliary(features), outputs["aux_logits"])


def _compare_training(case: ParityCase, model: ECFD) -> Iterator[Comparison]:
    given, published = case.data["train_input"], case.data["losses"]
    losses = model.train().losses(tensor(given), Target(label(given["labels"])), _STEP)
    terms, total = losses.terms, losses.total()
    ours = {"decode.loss_seg": terms["decode.loss_ce"], "aux.loss_seg": terms["aux_0.loss_ce"], "total": total}
    for name, value in ours.items():
        yield Comparison(name, value.detach(), published[name], rtol=1e-5, atol=0)
    total.backward()
    yield from _compare_gradients(case, model, "", rtol=1e-2)
    squares = sum(float(p.grad.square().sum()) for p in model.backbone.parameters() if p.grad is not None)
    yield Comparison("gradient norm of the backbone", squares**0.5, case.data["grad_norm_backbone"], rtol=1e-2, atol=0)
