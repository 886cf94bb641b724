"""`segcore convert` to the published layout: names, shapes and places of every paper's parity cases (issue 12)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segcore.commands import convert
from segcore.paper import load_paper
from segcore.weights.names import NameMap
from tests.parity.case_files import ParityCase, find_cases

_NO_NAMES = ("msda_module_", "ocr_context_block", "pos_embed_resize")
"""Cases of a part that is loaded without a map: one layer, or a table alone."""
CASES = [case for case in find_cases() if case.data.get("state_dict") and not case.path.name.startswith(_NO_NAMES)]


class _Captured(Exception):  # noqa: N818 - no error
    """The network of a case, as its parity adapter builds it, on the way to being loaded."""

    def __init__(self, names: NameMap, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names, self.model, self.tensors = names, model, tensors


def _network(case: ParityCase, monkeypatch: pytest.MonkeyPatch) -> _Captured:
    """Let the adapter of the case's paper build the network, without memory, and stop it where it would load it."""

    def shapes_only(self: ParityCase, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        return {name: torch.empty(shapes[name]) for name in shapes if name not in self.data.get("kept", ())}

    def stop(names: NameMap, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        raise _Captured(names, model, tensors)

    monkeypatch.setattr(ParityCase, "fill", shapes_only)
    monkeypatch.setattr(NameMap, "convert", stop)
    adapter = importlib.import_module(f"tests.parity.{case.paper}.adapter")
    with torch.device("meta"):
        try:
            list(adapter.compare(case))
        except _Captured as captured:
            return captured
    raise AssertionError(f"{case.path.name} was never loaded")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.paper}-{case.path.stem}")
def test_an_export_has_the_names_and_shapes_of_the_published_file(
    case: ParityCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = _network(case, monkeypatch)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.tensors.items()}
    wanted |= {name: case.published_shapes()[name] for name in case.data.get("kept", ())}
    assert len(wanted) == len(case.published_shapes())
    assert {name: tuple(tensor.shape) for name, tensor in network.names.export(network.model).items()} == wanted


def _file(paper: str, name: str) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return names and shapes of a published file, and its number of classes."""
    if name:
        (case,) = (case for case in CASES if case.paper == paper and case.path.stem == name)
        return case.published_shapes(), case.data["num_classes"]
    entry = load_paper(paper)  # its cases are of parts only
    with torch.device("meta"):
        model = entry.build(entry.recipes["toy"], 3)
    return {name: tuple(tensor.shape) for name, tensor in entry.name_map(model).export(model).items()}, 3


@pytest.mark.parametrize(
    ("paper", "case", "recipe", "entry"),
    [
        ("cgrseg", "t_64x96", "t-ade20k", "state_dict"),
        ("ecfd", "ecfd_fpn_r50", "fpn-r50-cityscapes", "state_dict"),
        ("iiwa", "", "toy", "state_dict"),
        ("memorynet", "fcn_r50_lip", "r50-lip", "model"),
        ("unept", "r50_96", "r50-ade20k", "state_dict"),
    ],
)
def test_a_round_trip_of_a_published_file_is_bit_equal(
    tmp_path: Path, paper: str, case: str, recipe: str, entry: str
) -> None:
    shapes, num_classes = _file(paper, case)
    generator = torch.Generator().manual_seed(0)
    integers = ("num_batches_tracked", "_index", "_idxs", "_idxs_seg")
    tensors = {
        name: torch.randint(9, shape, generator=generator)
        if name.endswith(integers)
        else torch.rand(shape, generator=generator)
        for name, shape in shapes.items()
    }
    published, ours, back = (tmp_path / name for name in ("published.pth", "ours.safetensors", "back.pth"))
    torch.save({entry: tensors}, published)
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(f"class {i}" for i in range(num_classes)))
    words = ["--paper", paper, "--recipe", recipe, "--classes", str(classes)]
    assert convert.main([str(published), str(ours), *words]) == 0
    assert convert.main([str(ours), str(back)]) == 0
    content = torch.load(back, weights_only=True)
    assert set(content) == {"meta", entry}
    assert content[entry].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(content[entry][name], tensor), name
        assert content[entry][name].dtype == tensor.dtype
