"""Reading of parity cases: JSON files that hold what a published implementation computed, and what is made of them.

`fill.py` and `inputs.py` beside this file regenerate every weight and input from its name. A paper's adapter
(`tests/parity/<paper>/adapter.py`) turns a case into comparisons; `first_problem` runs them.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.parity.fill import fill, sample
from tests.parity.recorder import RecordedMapping

DEFAULT_DIRECTORY = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class ParityCase:
    """One case file.

    Attributes:
        path: the JSON file; companion files lie relative to its folder.
        data: its content, which remembers what an adapter looked at.
    """

    path: Path
    data: RecordedMapping

    @classmethod
    def create(cls, path: Path, content: Mapping[str, Any]) -> ParityCase:
        """Return the case with this content; its path need not exist where nothing lies beside it."""
        return cls(path, RecordedMapping(content))

    @property
    def name(self) -> str:
        return self.data["case"]

    @property
    def paper(self) -> str:
        return self.data["paper"]

    def published_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every published tensor."""
        shapes = self.data["state_dict"]
        return {name: tuple(shapes[name]) for name in shapes}

    def published_state(self) -> dict[str, Tensor]:
        """Return the filled tensors by their published names, without the names in `kept`."""
        return self.fill(self.published_shapes())

    def fill(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Return tensors filled by their names and scaled as the case says, without the names in `kept`."""
        kept, scale = set(self.data.get("kept", ())), self.data.get("scale") or {}
        if kept - shapes.keys():
            raise ValueError(f"{self.name}: kept names that are no tensors: {sorted(kept - shapes.keys())}")
        state: dict[str, Tensor] = {}
        for name in shapes:
            if name not in kept:
                factors = [np.float32(scale[suffix]) for suffix in scale if name.endswith(suffix)]
                values = fill(name, shapes[name])
                state[name] = torch.from_numpy(np.asarray(values * factors[0] if factors else values))
        return state


@dataclass(frozen=True)
class Comparison:
    """One value of ours beside the published one.

    Attributes:
        name: what it is, as the case calls it.
        ours: our array, or a number or list.
        published: a summary made by `sample` (a dict with shape, mean, std, values), or an array, list or number.
        rtol, atol: tolerances; for summaries atol is relative to the published standard deviation.
    """

    name: str
    ours: Any
    published: Any
    rtol: float = 0.0
    atol: float = 1e-4

    def difference(self) -> str | None:
        """Return None where the two agree, else one sentence that says how far they are apart."""
        ours = self.ours.detach().cpu().numpy() if isinstance(self.ours, Tensor) else np.asarray(self.ours)
        if isinstance(self.published, Mapping) and "values" in self.published:
            want = self.published
            if list(ours.shape) != list(want["shape"]):
                return f"shape {list(ours.shape)}, published {list(want['shape'])}"
            got = sample(ours, len(want["values"]))
            unit = max(float(want["std"]), 1e-30)
            pairs = [(np.asarray(got["values"]), np.asarray(want["values"])), (got["mean"], want["mean"])]
        else:
            unit = 1.0
            pairs = [(np.asarray(ours, np.float64), np.asarray(self.published, np.float64))]
        for mine, theirs in pairs:
            if np.shape(mine) != np.shape(theirs):
                return f"shape {np.shape(mine)}, published {np.shape(theirs)}"
            # 6e-8: the cases round every value to seven decimals
            rounding = 6e-8 if unit != 1.0 else 0.0
            allowed = self.atol * unit + self.rtol * np.abs(theirs) + rounding
            error = np.abs(np.asarray(mine, np.float64) - theirs)
            bad = ~((error <= allowed) | (np.isnan(mine) & np.isnan(theirs)))
            if np.any(bad):
                worst = float(np.nanmax(np.where(bad, error, 0)))
                share = f"{int(np.sum(bad))} of {np.size(bad)} values differ"
                return f"{share}, by at most {worst:.3g} (allowed {np.max(allowed):.3g})"
        return None


def find_files(pattern: str) -> Iterator[Path]:
    """Yield the files under the directories of PARITY_CASES (os.pathsep between them), else the project's own."""
    setting = os.environ.get("PARITY_CASES", "")
    directories = [Path(part) for part in setting.split(os.pathsep) if part] or [DEFAULT_DIRECTORY]
    for directory in directories:
        if not directory.is_dir():
            raise FileNotFoundError(f"PARITY_CASES: {directory} is not a directory")
        yield from sorted(directory.rglob(pattern))


def find_cases() -> Iterator[ParityCase]:
    """Yield every JSON file of `find_files`; one that names no case or no paper is a case of no paper, and fails."""
    for path in find_files("*.json"):
        content = json.loads(path.read_text())
        is_case = isinstance(content, dict) and {"case", "paper"} <= content.keys()
        yield ParityCase.create(path, content if is_case else {"case": path.stem, "paper": "(none)"})


def first_problem(case: ParityCase) -> str | None:
    """Return the first value of a case that differs or that its adapter did not look at; None where all is well."""
    where = f"{case.name} of {case.paper} ({case.path.name})"
    if importlib.util.find_spec(f"tests.parity.{case.paper}") is None:
        return f"{where}: no package of this repository implements that paper"
    adapter = importlib.import_module(f"tests.parity.{case.paper}.adapter")
    compared = 0
    for comparison in adapter.compare(case):
        compared += 1
        difference = comparison.difference()
        if difference is not None:
            return f"{where}: {comparison.name} is the first to differ: {difference}"
    unread = list(case.data.unread())
    if unread:
        return f"{where}: the adapter did not look at {', '.join(unread[:5])} ({len(unread)} values in all)"
    return None if compared else f"{where}: the adapter compared nothing"
