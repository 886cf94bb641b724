"""Name maps are strict in both directions and lose nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segcore.errors import InputError
from segcore.weights.names import Companion, NameMap, Transform
from tests.tiny_paper import NAMES, TinySegmentor, published_tensors


def _model(num_classes: int = 3) -> TinySegmentor:
    torch.manual_seed(0)
    return TinySegmentor(4, num_classes)


def test_renames_apply_one_after_the_other() -> None:
    names = NameMap(renames=((r"^a\.", "b."), (r"^b\.(\d)", r"c.\1.x")))
    assert names.to_published("a.0.weight") == "c.0.x.weight"
    assert names.to_published("z.0.weight") == "z.0.weight"


def test_exported_and_converted_tensors_are_the_originals() -> None:
    model = _model()
    converted = NAMES.convert(model, published_tensors(model))
    assert list(converted) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(converted[name], tensor, rtol=0, atol=0)


def test_shapes_that_differ_by_trailing_ones_are_reshaped() -> None:
    model = _model()
    published = published_tensors(model)
    assert published["backbone.scale"].shape == (4, 1, 1)
    assert NAMES.convert(model, published)["scale"].shape == (4,)


def test_missing_and_unexpected_names_are_listed_with_their_counts() -> None:
    model = _model()
    published = published_tensors(model)
    del published["backbone.stem.bias"]
    published["neck.weight"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"1 missing \(backbone\.stem\.bias\), 1 unexpected \(neck\.weight\)"):
        NAMES.convert(model, published)


def test_long_lists_are_cut_after_ten_names() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(13)))
    with pytest.raises(InputError, match=r"13 missing \(0\.weight, .*9\.weight, and 3 more\)"):
        NameMap().convert(model, {})


def test_another_shape_is_an_error_unless_its_prefix_is_allowed() -> None:
    published = published_tensors(_model(num_classes=5))
    model = _model(num_classes=3)
    with pytest.raises(InputError, match=r"classifier\.weight is \[5, 4, 1, 1\], not \[3, 4, 1, 1\]"):
        NAMES.convert(model, published)
    converted = NAMES.convert(model, published, allow=("classifier.",))
    assert set(model.state_dict()) - set(converted) == {"classifier.weight", "classifier.bias"}


def test_counters_may_be_absent_on_either_side() -> None:
    model = _model()
    published = published_tensors(model)
    del published["backbone.norm.num_batches_tracked"]
    published["elsewhere.num_batches_tracked"] = torch.tensor(3)
    assert "norm.num_batches_tracked" not in NAMES.convert(model, published)


def test_dropped_names_match_in_full_only() -> None:
    model = _model()
    published = {**published_tensors(model), "my_auxiliary_head.bias": torch.zeros(1)}
    with pytest.raises(InputError, match=r"1 unexpected \(my_auxiliary_head\.bias\)"):
        NAMES.convert(model, published)


def test_transforms_are_undone_by_the_export() -> None:
    model = nn.Linear(4, 2)
    swap = Transform(r"weight", lambda t: t[:, [2, 3, 0, 1]], lambda t: t[:, [2, 3, 0, 1]])
    names = NameMap(transforms=(swap,))
    published = names.export(model)
    torch.testing.assert_close(published["weight"][:, :2], model.weight[:, 2:])
    torch.testing.assert_close(names.convert(model, published)["weight"], model.weight.detach())


def test_two_tensors_of_ours_under_one_published_name_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match="both called"):
        NameMap(renames=((r"^\d", "x"),)).convert(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), {})


def test_the_export_has_the_published_shapes() -> None:
    """Issue 12: tensors written as (C,) where the published code has (C, 1, 1) were skipped by it."""
    assert NAMES.export(_model())["backbone.scale"].shape == (4, 1, 1)


def test_companions_are_written_and_need_not_be_read() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    names = NameMap(companions=(Companion(r"\bweight$", "index", lambda linear: torch.arange(linear.out_features)),))
    published = names.export(model)
    assert list(published) == ["0.weight", "0.index", "0.bias"]
    assert published["0.index"].tolist() == [0, 1]
    for tensors in (published, {name: t for name, t in published.items() if name != "0.index"}):
        assert list(names.convert(model, tensors)) == ["0.weight", "0.bias"]


def test_tensors_of_ours_alone_are_neither_written_nor_missed() -> None:
    model = nn.Linear(4, 2)
    names = NameMap(ours_only=("bias",))
    assert list(names.export(model)) == ["weight"]
    assert list(names.convert(model, names.export(model))) == ["weight"]


def test_what_an_export_would_not_give_back_is_left_over() -> None:
    model = nn.Linear(4, 2)
    names = NameMap(
        dropped=("old_head",), companions=(Companion("weight$", "index", lambda _: torch.zeros(3, dtype=torch.int64)),)
    )
    file = {**names.export(model), "old_head": torch.ones(1)}
    assert list(names.left_over(model, file)) == ["old_head"]
    file["index"] = torch.ones(3, dtype=torch.int64)
    assert set(names.left_over(model, file)) == {"old_head", "index"}


def test_a_network_adds_its_names_to_those_of_its_backbone() -> None:
    backbone = NameMap(((r"^backbone\.", "trunk."),), dropped=("fc",), container="model")
    names = backbone.with_renames((r"^head\.", "decode."))
    assert (names.to_published("backbone.a"), names.to_published("head.b")) == ("trunk.a", "decode.b")
    assert (names.dropped, names.container) == (("fc",), "model")
