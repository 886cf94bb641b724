"""Parity of ECFD's heads alone and of whole networks: every stage, losses and gradients."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ecfd.fusion import to_tokens
from ecfd.model import ECFD, HEADS, Decoder
from ecfd.names import infer_model, name_map
from ecfd.recipes import TINY, ECFDModel
from segcore.losses import cross_entropy
from segcore.segmentor import EncoderDecoder, StepInfo, Target, resize
from tests.parity.case_files import Comparison, ParityCase
from tests.parity.fill import image, labels

_STEP = StepInfo(iteration=0, total=1, lr=0.0)
_PREFIX = "decode_head."


def _options(case: ParityCase) -> ECFDModel:
    """Return the options of the case's network, without dropout and random depth (cases have none)."""
    config, prefix = case.data["config"], "" if "backbone" in case.data else _PREFIX
    height, width = config["pretrain_img_size"]
    base = replace(
        TINY,
        pretrained=False,
        dropout=0.0,
        drop_path=0.0,
        heads=config["CICM_num_heads"],
        depth=config["L"],
        context_to_levels=config["add_context_information"] and config["L"] == 3,
        position_grid=(height // config["patch_size"], width // config["patch_size"]),
    )
    shapes = {f"{prefix}{name}": tuple(shape) for name, shape in case.data["state_dict"].items()}
    options = infer_model(base, shapes)
    assert isinstance(options, ECFDModel)
    return options


def _load(model: EncoderDecoder, case: ParityCase, prefix: str = "") -> None:
    names = name_map(model)  # pyright: ignore[reportArgumentType]
    state = {f"{prefix}{name}": tensor for name, tensor in case.published_state().items()}
    model.load_state_dict(names.convert(model, state), strict=True)


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


class _Recorder:
    """Keeps the first output of every published stage of a head."""

    def __init__(self, head: Decoder, names: Mapping[str, Any]) -> None:
        self.values: dict[str, Tensor] = {}
        for name in names:
            _stage(head, name).register_forward_hook(lambda _m, _i, output, name=name: self._keep(name, output))

    def _keep(self, name: str, output: Any) -> None:
        if isinstance(output, tuple):  # a block gives the spatial tokens, then the context tokens
            output = output[int(name.rsplit(".", 1)[-1])]
        if name == "RCE.0":
            output = to_tokens([output])
        self.values.setdefault(name, output.detach().clone())


class _Features(nn.Module):
    """In place of a backbone: gives the maps that it is given."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return maps


def compare_head(case: ParityCase) -> Iterator[Comparison]:
    """Yield all stages of a head, the gradients of its inputs and parameters, and the training loss."""
    options, num_classes = _options(case), case.data["num_classes"]
    head = HEADS[options.head](case.data["config"]["in_channels"], num_classes, options)
    model = EncoderDecoder(_Features(), head, num_classes, nn.Identity())
    _load(model, case, _PREFIX)
    yield Comparison("params", sum(p.numel() for p in head.parameters()), case.data["params"], atol=0)
    shapes = [given["shape"] for given in case.data["inputs"]["features"]]
    features = [_normal(shape, 10 + i).requires_grad_() for i, shape in enumerate(shapes)]
    stages = {name: summary for name, summary in case.data["outputs"].items() if not name.startswith("grad_")}
    recorder = _Recorder(head, stages)
    logits = head.eval()(features)
    for name, summary in stages.items():
        if name != "logits":
            yield Comparison(name, recorder.values[name], summary)
    yield Comparison("logits", logits.detach(), stages["logits"])
    logits.backward(_normal(case.data["inputs"]["grad_output"]["shape"], 20))
    for i, feature in enumerate(features):
        grad = torch.zeros_like(feature) if feature.grad is None else feature.grad  # of a level that is not used
        yield Comparison(f"grad_level{i + 1}", grad, case.data["outputs"][f"grad_level{i + 1}"], atol=1e-3)
    yield from _compare_gradients(case, model, _PREFIX, rtol=1e-3)
    with torch.no_grad():
        logits = resize(head.train()(features), tuple(case.data["labels"]["shape"][1:]))
    loss = cross_entropy(logits, _labels(case.data["labels"]), average="all")
    yield Comparison("loss_seg", loss, case.data["losses"]["loss_seg"], rtol=1e-5, atol=0)


def _normal(shape: list[int], seed: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randn(*shape).astype(np.float32))


def _labels(given: Mapping[str, Any]) -> Tensor:
    return torch.from_numpy(labels(tuple(given["shape"]), given["num_classes"], given["ignore"], given["seed"]))


def _compare_gradients(case: ParityCase, model: EncoderDecoder, prefix: str, rtol: float) -> Iterator[Comparison]:
    names = name_map(model)  # pyright: ignore[reportArgumentType]
    norms = {names.to_published(n): float(p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None}
    assert len(norms) == len(list(model.parameters())), "a parameter got no gradient"
    for name, norm in case.data["grad_norms"].items():
        yield Comparison(f"gradient norm of {name}", norms[f"{prefix}{name}"], norm, rtol=rtol, atol=0)


def compare_network(case: ParityCase) -> Iterator[Comparison]:
    """Yield the parameter counts, all stages from the backbone to the logits, and what training gives."""
    model = ECFD(_options(case), case.data["num_classes"])
    _load(model, case)
    assert isinstance(model.head, Decoder)
    assert model.auxiliary is not None
    for name, part in (
        ("params", model),
        ("params_backbone", model.backbone),
        ("params_head", model.head),
        ("params_auxiliary", model.auxiliary),
    ):
        yield Comparison(name, sum(p.numel() for p in part.parameters()), case.data[name], atol=0)
    yield from _compare_stages(case, model)
    if "losses" in case.data:
        yield from _compare_training(case, model)


def _compare_stages(case: ParityCase, model: ECFD) -> Iterator[Comparison]:
    outputs = case.data["outputs"]
    stages = {name.removeprefix(_PREFIX): summary for name, summary in outputs.items() if name.startswith(_PREFIX)}
    assert isinstance(model.head, Decoder)
    recorder = _Recorder(model.head, stages)
    given = case.data["input"]
    with torch.no_grad():
        features = model.eval().backbone(torch.from_numpy(image(tuple(given["shape"]), given["seed"])))
        for i, feature in enumerate(features):
            yield Comparison(f"backbone.level{i + 1}", feature, outputs[f"backbone.level{i + 1}"])
        logits = model.head(features)
        for name, summary in stages.items():
            yield Comparison(name, recorder.values[name], summary)
        yield Comparison("logits", logits, outputs["logits"])
        assert model.auxiliary is not None
        yield Comparison("aux_logits", model.auxiliary[0](features), outputs["aux_logits"])


def _compare_training(case: ParityCase, model: ECFD) -> Iterator[Comparison]:
    given, published = case.data["train_input"], case.data["losses"]
    batch = torch.from_numpy(image(tuple(given["shape"]), given["seed"]))
    losses = model.train().losses(batch, Target(_labels(given["labels"])), _STEP)
    total = losses["decode.loss_ce"] + losses["aux_0.loss_ce"]
    for name, value in (
        ("decode.loss_seg", losses["decode.loss_ce"]),
        ("aux.loss_seg", losses["aux_0.loss_ce"]),
        ("total", total),
    ):
        yield Comparison(name, value.detach(), published[name], rtol=1e-5, atol=0)
    total.backward()
    yield from _compare_gradients(case, model, "", rtol=1e-2)
    squares = sum(float(p.grad.square().sum()) for p in model.backbone.parameters() if p.grad is not None)
    yield Comparison("gradient norm of the backbone", squares**0.5, case.data["grad_norm_backbone"], rtol=1e-2, atol=0)
