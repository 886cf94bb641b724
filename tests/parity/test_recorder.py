"""Nothing of a case can be passed over: the recorder itself, and adapters that do not look at something."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.parity.case_files import Comparison, ParityCase
from tests.parity.core import adapter
from tests.parity.recorder import INFORMATION, RecordedMapping
from tests.parity.varied import problem, public

CONTENT: dict[str, Any] = {
    "a": 1,
    "none": None,
    "empty": [],
    "plain": [[1, 2], [3]],
    "inner": {"b": 2, "c": {"d": 3.5}},
    "objects": [{"e": 1}, [{"f": 2}, 7]],
    "nothing": {},
}


def unread(content: Any, *read: str) -> list[str]:
    """Return what is left after some paths, such as "inner.c.d" or "objects.1.0.f", were taken."""
    data = RecordedMapping(content)
    for path in read:
        value: Any = data
        for key in path.split("."):
            value = value[int(key) if key.isdigit() else key]
    return list(data.unread())


def test_everything_is_unread_at_first_and_named_by_its_path() -> None:
    paths = ["a", "none", "plain", "inner.b", "inner.c.d", "objects[0].e", "objects[1][0].f", "objects[1][1]"]
    assert unread(CONTENT) == paths


def test_what_was_taken_by_its_own_key_is_read_and_nothing_else() -> None:
    left = unread(CONTENT, "inner.c.d", "objects.1.0.f", "plain", "none")
    assert left == ["a", "inner.b", "objects[0].e", "objects[1][1]"]
    assert unread(CONTENT, "inner.c", "objects.1") == unread(CONTENT)  # a part is handed out, none of its values
    data = RecordedMapping(CONTENT)
    assert data.get("a") == 1
    assert data.get("absent", 5) == 5
    assert "a" not in data.unread()


def test_looking_at_names_reads_no_value() -> None:
    data = RecordedMapping(CONTENT)
    assert "a" in data
    assert len(data) == len(list(data)) == len(data.keys()) == 7
    assert [len(part) for part in data["objects"]] == [1, 2]
    assert list(data.unread()) == unread(CONTENT)


def test_values_cannot_be_had_without_their_keys() -> None:
    data = RecordedMapping(CONTENT)
    for take_all in (data.items, data.values):
        with pytest.raises(TypeError, match="by key"):
            take_all()
    with pytest.raises(TypeError, match="slice"):
        data["objects"][:1]
    with pytest.raises(KeyError):
        data["absent"]


@pytest.mark.parametrize("key", INFORMATION)
def test_information_may_be_left_unread_where_it_is_text_only(key: str) -> None:
    assert INFORMATION[key]
    assert unread({key: "words"}) == unread({"inner": {key: ["words", "more words"]}}) == []
    for value in (1, [1.0], ["words", 2], True, None):
        assert unread({key: value}) == [key]
    assert unread({key: {"seed": 3}}) == [f"{key}.seed"]


def _values(case: ParityCase) -> Iterator[Comparison]:
    yield Comparison("a", case.data["a"], 1)
    for part in case.data["parts"]:
        yield Comparison("part", part["x"], part["x"])


def test_an_adapter_that_ignores_a_key_fails_and_the_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "compare", _values)
    case: dict[str, Any] = {"case": "x", "paper": "core", "notes": "made up", "a": 1, "parts": [{"x": 1}, {"x": 2}]}
    assert problem(case) is None
    assert "did not look at b (1 values" in (problem(case | {"b": 1}) or "")
    assert "parts[1].y" in (problem(case | {"parts": [{"x": 1}, {"x": 2, "y": None}]}) or "")
    assert "a is the first to differ" in (problem(case | {"a": 2}) or "")


def test_a_summary_that_is_not_compared_is_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    summary = {"shape": [1], "mean": 1.0, "std": 0.0, "values": [1.0]}
    case = {"case": "x", "paper": "core", "a": 1, "parts": [], "result": summary}
    compared: list[bool] = [False]

    def compare(case: ParityCase) -> Iterator[Comparison]:
        yield from _values(case)
        comparison = Comparison("result", [1.0], case.data["result"])
        if compared[0]:
            yield comparison

    monkeypatch.setattr(adapter, "compare", compare)
    assert "did not look at result.shape, result.mean, result.std, result.values" in (problem(case) or "")
    compared[0] = True
    assert problem(case) is None


def _objects(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the places of all objects of a case, the first two of a list's."""
    if isinstance(content, dict):
        yield path
        for key in content:
            yield from _objects(content[key], (*path, key))
    elif isinstance(content, list):
        for i, part in enumerate(content[:2]):
            yield from _objects(part, (*path, i))


CASES = [
    ("core", "lr_schedules"), ("core", "metrics_absent"), ("core", "ohem"), ("core", "loss_ce"), ("core", "aux_fcn"),
    ("core", "slide_m_odd"), ("core", "single_m_padded"), ("core", "flip_s_pairs"), ("core", "resize_values_down"),
    ("core", "flip_pad_normalize"), ("core", "rotation_lip"), ("core", "photometric"), ("core", "overlay"),
    ("ecfd", "msda_d10_l4_p8"), ("ecfd", "msda_module_box"), ("ecfd", "head_ecfdfpn"),
    ("iiwa", "self_c64_w7x7_5x6_one_window"), ("iiwa", "cross_c64_w4x4_q8x8_b2"), ("iiwa", "pos_c16_1x1"),
    ("iiwa", "loss_ohem_cityscapes_keep1000"), ("iiwa", "param_groups_with_backbone_key"),
    ("memorynet", "memory_update_two_ranks"), ("memorynet", "ocr_context_block"), ("memorynet", "tta_whole_ms_flip"),
    ("memorynet", "schedule_poly"), ("unept", "msda_op"), ("unept", "losses"), ("unept", "spatial_branch"),
    ("unept", "sine_position"), ("unept", "pos_embed_resize"),
]  # fmt: skip


@pytest.mark.parametrize(("paper", "name"), CASES, ids=[f"{paper}-{name}" for paper, name in CASES])
def test_no_adapter_accepts_a_key_that_it_does_not_know(paper: str, name: str) -> None:
    """A new key anywhere in a case is named as unread, or cannot be understood; it is never passed over."""
    content, num_unread = public(paper, name), 0
    for path in _objects(content):
        changed = copy.deepcopy(content)
        target: Any = changed
        for key in path:
            target = target[key]
        target["unheard_of"] = 3
        try:
            found = problem(changed)
        except (KeyError, ValueError, TypeError, AttributeError):
            continue  # the adapter took it for the name of a tensor, a value or a transform
        assert found is not None, f"a new key at {'.'.join(map(str, path))} was passed over"
        num_unread += "unheard_of" in found
    assert num_unread > 0
