"""Trackers: found by the entry-point group, each with the numbers and pictures of a run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segcore.errors import InputError
from segcore.recipe import Run
from segcore.training import trackers
from segcore.training.log import create_logger

ENTRIES = {
    "standin": f"{__name__}:StandIn",
    "wandb": "segcore.training.trackers:wandb",
    "trackio": "segcore.training.trackers:trackio",
    "mlflow": "segcore.training.trackers:mlflow",
}
SEEN: list[tuple[Any, ...]] = []


class StandIn:
    """A tracker of another package."""

    def __init__(self, work_dir: Path, start: int) -> None:
        SEEN.append(("open", work_dir.name, start))

    def scalars(self, mode: str, iteration: int, values: Mapping[str, float]) -> None:
        SEEN.append((mode, iteration, dict(values)))

    def picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        SEEN.append((name, iteration, picture.tolist()))

    def close(self) -> None:
        SEEN.append(("close",))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints(EntryPoint(name, value, trackers.GROUP) for name, value in ENTRIES.items())
    monkeypatch.setattr(trackers, "entry_points", lambda **wanted: points.select(**wanted))
    SEEN.clear()


def log_a_run(folder: Path, name: str, start: int = 0) -> None:
    with create_logger(folder, 10, start=start, trackers=(name,)) as logger:
        logger.validation(5, {"mIoU": 0.25, "IoU.a*b": 0.5})
        logger.image("val/x", np.array([[[1, 2, 3]]], np.uint8), 5)


def test_a_tracker_of_another_package_gets_numbers_and_rgb_pictures(tmp_path: Path) -> None:
    log_a_run(tmp_path / "run", "standin", start=4)
    assert SEEN == [
        ("open", "run", 4),
        ("val", 5, {"mIoU": 0.25, "IoU.a*b": 0.5}),
        ("val/x", 5, [[[3, 2, 1]]]),
        ("close",),
    ]


def test_an_unknown_tracker_and_an_absent_service_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no tracker 'wandbb' \(installed: mlflow, standin, trackio, wandb\)"):
        create_logger(tmp_path, 10, trackers=("wandbb",))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"--run\.trackers wandb needs the package wandb, .*: pip install wandb"):
        create_logger(tmp_path, 10, trackers=("wandb",))


@pytest.mark.parametrize("service", ["wandb", "trackio"])
def test_resumptions_of_a_work_directory_are_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    begun: list[dict[str, Any]] = []
    logged: list[tuple[dict[str, Any], int]] = []

    def init(**options: Any) -> SimpleNamespace:
        begun.append(options)
        return SimpleNamespace(log=lambda values, step: logged.append((values, step)), finish=lambda: None)

    fake: Any = ModuleType(service)
    fake.init, fake.Image = init, lambda picture: picture.shape
    monkeypatch.setitem(sys.modules, service, fake)
    for _ in range(2):
        log_a_run(tmp_path, service)
    assert logged == [({"val/mIoU": 0.25, "val/IoU.a*b": 0.5}, 5), ({"val/x": (1, 1, 3)}, 5)] * 2
    assert begun[0] == begun[1]
    assert begun[0]["resume"] == "allow"
    log_a_run(tmp_path / "other", service)
    assert begun[2] != begun[0]


def test_mlflow_goes_on_with_the_run_of_the_work_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    class Client:
        def get_experiment_by_name(self, name: str) -> None:
            calls.append(("experiment", name))

        def create_experiment(self, name: str) -> str:
            return "7"

        def create_run(self, number: str, run_name: str) -> SimpleNamespace:
            calls.append(("run", number, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

        def log_metric(self, run: str, key: str, value: float, step: int) -> None:
            calls.append((run, key, value, step))

        def log_image(self, run: str, picture: np.ndarray, artifact_file: str) -> None:
            calls.append((run, artifact_file))

        def set_terminated(self, run: str) -> None:
            calls.append((run, "end"))

    fake: Any = ModuleType("mlflow")
    fake.MlflowClient = Client
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    log_a_run(tmp_path / "run", "mlflow")
    logged = [
        ("abc", "val/mIoU", 0.25, 5), ("abc", "val/IoU.a_b", 0.5, 5), ("abc", "val/x-5.png"), ("abc", "end"),
    ]  # fmt: skip
    assert calls == [("experiment", "segcore"), ("run", "7", "run"), *logged]
    calls.clear()
    log_a_run(tmp_path / "run", "mlflow", start=5)
    assert calls == logged


def test_every_tracker_of_the_help_is_an_entry_of_segcore() -> None:
    names = {point.name for point in entry_points(group=trackers.GROUP)}
    assert {"tensorboard", "wandb", "mlflow", "trackio"} <= names


def test_wandb_of_older_recipes_is_one_more_tracker() -> None:
    assert Run(wandb=True, trackers=("wandb", "mlflow")).all_trackers == ("wandb", "mlflow")
    assert Run(wandb=True).all_trackers == ("tensorboard", "wandb")
