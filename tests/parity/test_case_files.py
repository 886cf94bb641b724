"""Cases are found by what they hold, in any folder and under any name; tensors are filled, scaled and kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.parity.case_files import DEFAULT_DIRECTORY, ParityCase, find_cases, first_problem
from tests.parity.fill import fill
from tests.parity.varied import problem, public


def test_cases_under_other_names_in_other_folders_are_the_same_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [path for path in sorted(DEFAULT_DIRECTORY.rglob("*.json")) if path.stat().st_size < 12_000]
    small.append(DEFAULT_DIRECTORY / "core" / "checkpoints.json")
    for number, path in enumerate(small):
        shutil.copy(path, tmp_path / f"case-{len(small) - number:03}.json")
    shutil.copytree(DEFAULT_DIRECTORY / "core" / "checkpoints", tmp_path / "checkpoints")
    monkeypatch.setenv("PARITY_CASES", str(tmp_path))
    cases = list(find_cases())
    assert len(cases) == len(small) > 10
    assert len({case.paper for case in cases}) > 3
    assert {case.name for case in cases} == {path.stem for path in small}
    assert [problem for case in cases if (problem := first_problem(case))] == []


def test_a_file_that_is_no_case_fails_and_hides_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.json").write_text(json.dumps({"case": "of no paper"}))
    (tmp_path / "other.json").write_text(json.dumps(public("iiwa", "pos_c16_1x1")))
    (tmp_path / "typing_error.json").write_text(json.dumps(public("iiwa", "pos_c16_1x1") | {"paper": "iwa"}))
    monkeypatch.setenv("PARITY_CASES", str(tmp_path))
    problems = [first_problem(case) or "" for case in find_cases()]
    assert ["no package" in problem for problem in problems] == [True, False, True]
    assert "iwa" in problems[2]


def test_the_directories_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_CASES", "no/such/folder")
    with pytest.raises(FileNotFoundError, match="no/such/folder"):
        list(find_cases())


def test_tensors_are_scaled_by_the_end_of_their_names_and_kept_ones_are_not_filled() -> None:
    shapes = {"a.weight": [2, 3], "b.weight": [2], "b.index": [4], "b.bias": [3]}
    content = {"case": "x", "paper": "core", "state_dict": shapes, "scale": {"b.weight": 0.25, ".bias": 4.0}}
    case = ParityCase.create(Path("x"), content | {"kept": ["b.index"]})
    state = case.published_state()
    assert list(state) == ["a.weight", "b.weight", "b.bias"]
    for name, factor in (("a.weight", 1.0), ("b.weight", 0.25), ("b.bias", 4.0)):
        np.testing.assert_array_equal(state[name].numpy(), factor * fill(name, tuple(shapes[name])))
    assert list(case.data.unread()) == ["case", "paper"]
    with pytest.raises(ValueError, match=r"no tensors: \['b.other'\]"):
        ParityCase.create(Path("x"), content | {"kept": ["b.other"]}).published_state()


def test_a_factor_that_fits_no_tensor_is_unread() -> None:
    content = {"case": "x", "paper": "core", "state_dict": {"a.weight": [2]}, "scale": {".a.wait": 0.25}}
    case = ParityCase.create(Path("x"), content)
    case.published_state()
    assert list(case.data.unread()) == ["case", "paper", "scale..a.wait"]


def test_the_first_value_that_differs_is_named() -> None:
    case = public("core", "lr_schedules")
    case["expected"]["ecfd"]["rows"][3][1] *= 1.001
    iteration = case["expected"]["ecfd"]["rows"][3][0]
    assert f"ecfd.{iteration} is the first to differ" in (problem(case) or "")
