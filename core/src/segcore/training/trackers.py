"""Where the numbers and pictures of a run go beside its own files: trackers, found by the entry-point group.

A tracker is an entry `NAME = "module:function"` of the group segcore.trackers of any installed package; the function is
called with the work directory and the iteration that the run goes on from, and returns a `Sink`. A service that is not
installed is named when it is asked for, so that nothing is imported before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segcore.errors import InputError

GROUP = "segcore.trackers"
_PROJECT = "segcore"


class Sink(Protocol):
    """A place where numbers and pictures go."""

    def scalars(self, mode: str, iteration: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one moment; mode is "train" or "val"."""
        ...

    def picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        """Take an RGB picture (H, W, 3) uint8."""
        ...

    def close(self) -> None:
        """Write what is still held back."""
        ...


def open_tracker(name: str, work_dir: Path, start: int) -> Sink:
    """Open a tracker by its name (`--run.trackers`).

    Args:
        start: iteration that the run goes on from, 0 for a new one.

    Raises:
        InputError: if no package registers that name, or the service's package is not installed.
    """
    for point in entry_points(group=GROUP, name=name):
        try:
            return point.load()(work_dir, start)
        except ModuleNotFoundError as error:
            raise InputError(
                f"--run.trackers {name} needs the package {error.name}, which is absent: pip install {error.name}"
            ) from error
    installed = ", ".join(sorted(point.name for point in entry_points(group=GROUP))) or "none"
    raise InputError(f"--run.trackers: there is no tracker {name!r} (installed: {installed})")


class _Logged:
    """A run of a service with the functions of Weights & Biases."""

    def __init__(self, service: Any, run: Any) -> None:
        self._service, self._run = service, run

    def scalars(self, mode: str, iteration: int, values: Mapping[str, float]) -> None:
        self._run.log({f"{mode}/{name}": value for name, value in values.items()}, step=iteration)

    def picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        self._run.log({name: self._service.Image(picture)}, step=iteration)

    def close(self) -> None:
        self._run.finish()


def _identity(work_dir: Path) -> str:
    """Return the same word for every resumption of a run."""
    return hashlib.sha1(str(work_dir.resolve()).encode()).hexdigest()[:16]


def wandb(work_dir: Path, _: int) -> Sink:
    """Return a run of Weights & Biases."""
    service: Any = import_module("wandb")
    place = {"name": work_dir.name, "dir": str(work_dir), "id": _identity(work_dir)}
    return _Logged(service, service.init(project=_PROJECT, resume="allow", **place))


def trackio(work_dir: Path, _: int) -> Sink:
    """Return a run of Trackio, which knows runs by their names alone."""
    service: Any = import_module("trackio")
    name = f"{work_dir.name}-{_identity(work_dir)}"
    return _Logged(service, service.init(project=_PROJECT, name=name, resume="allow"))


class _MLflowRun:
    """A run of MLflow; its identity is kept in the work directory, for the next resumption."""

    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run

    def scalars(self, mode: str, iteration: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            key = re.sub(r"[^\w./: -]", "_", f"{mode}/{name}")  # class names may hold what MLflow refuses
            self._client.log_metric(self._run, key, value, step=iteration)

    def picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        file = re.sub(r"[^\w./-]", "_", name)
        self._client.log_image(self._run, picture, artifact_file=f"{file}-{iteration}.png")

    def close(self) -> None:
        self._client.set_terminated(self._run)


def mlflow(work_dir: Path, start: int) -> Sink:
    """Return a run of MLflow, where MLFLOW_TRACKING_URI says (by default, a file of the current folder)."""
    client: Any = import_module("mlflow").MlflowClient()
    known = work_dir / "mlflow-run.txt"
    if start and known.is_file():
        return _MLflowRun(client, known.read_text("utf-8").strip())
    experiment = client.get_experiment_by_name(_PROJECT)
    number = experiment.experiment_id if experiment else client.create_experiment(_PROJECT)
    run: str = client.create_run(number, run_name=work_dir.name).info.run_id
    known.write_text(run, "utf-8")
    return _MLflowRun(client, run)
