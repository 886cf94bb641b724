"""Reading of parity cases: JSON files that hold what a published implementation computed.

`fill.py` and `inputs.py` beside this file regenerate every weight and input from its name. A paper's adapter
(`tests/parity/<paper>/adapter.py`) turns a case into comparisons; `test_parity.py` runs them.
"""

from __future__ import annotations

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

DEFAULT_DIRECTORY = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class ParityCase:
    """One case file.

    Attributes:
        path: the JSON file; companion files lie relative to its folder.
        data: its content.
    """

    path: Path
    data: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.data["case"]

    @property
    def paper(self) -> str:
        return self.data["paper"]

    def published_state(self) -> dict[str, Tensor]:
        """Return the filled tensors by their published names, without the names in `kept`."""
        kept = set(self.data.get("kept", ()))
        scale = self.data.get("scale") or {}
        state = {}
        for name, shape in self.data["state_dict"].items():
            if name not in kept:
                factor = next((f for suffix, f in scale.items() if name.endswith(suffix)), None)
                values = fill(name, tuple(shape))
                state[name] = torch.from_numpy(np.asarray(values if factor is None else values * np.float32(factor)))
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
        if isinstance(self.published, dict) and "values" in self.published:
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
    """Yield every case among the JSON files of `find_files`."""
    for path in find_files("*.json"):
        data = json.loads(path.read_text())
        if isinstance(data, dict) and "case" in data and "paper" in data:
            yield ParityCase(path, data)
