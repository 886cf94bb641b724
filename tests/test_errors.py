"""Every mistake named in the design gives its one sentence and exit code 2, through the real commands."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segcore import files
from segcore.commands.predict import predict_command
from segcore.commands.test import test_command as script_of_test
from segcore.commands.train import train_command
from segcore.paper import Paper
from segcore.training.run_folder import WorkDirectory
from segcore.weights.states import load_state, state_files
from tests.tiny_paper import PAPER

Command = Callable[..., tuple[int, str]]
FAST = ["--run.device", "cpu", "--data.workers", "0", "--run.log-interval", "1", "--run.save-interval", "1"]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process; return its exit code and what it printed on standard error."""

    def run(script: Callable[[Paper], Callable[..., int]], *words: str) -> tuple[int, str]:
        capsys.readouterr()
        folder = [] if "--work-dir" in words else ["--work-dir", str(tmp_path / "run")]
        code = script(PAPER)([*words, *FAST, *folder])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid folder of own images: 4 images of 2 classes, in one training and one test split."""
    root = tmp_path / "own"
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(root / "images" / split / f"{i}.jpg"), rng.integers(0, 255, (40, 48, 3), np.uint8))
            cv2.imwrite(str(root / "masks" / split / f"{i}.png"), rng.integers(0, 2, (40, 48), np.uint8))
    (root / "classes.txt").write_text("ground\nobject\n")
    return root


def own(root: Path) -> list[str]:
    return ["toy", "--data.dataset", "folder", "--run.data", str(root)]


@pytest.fixture
def trained(tmp_path: Path, command: Command) -> Path:
    """Weights of a short run on the generated scenes."""
    work_dir = tmp_path / "trained"
    assert command(train_command, "toy", "--work-dir", str(work_dir))[0] == 0
    return work_dir / "last.safetensors"


def test_a_valid_folder_trains(command: Command, folder: Path) -> None:
    code, printed = command(train_command, *own(folder))
    assert code == 0, printed


def test_a_missing_data_root_names_the_option(command: Command, tmp_path: Path) -> None:
    code, printed = command(train_command, "camvid", "--run.data", str(tmp_path / "absent"))
    assert code == 2
    assert str(tmp_path / "absent") in printed
    assert "--run.data" in printed


def test_an_image_without_label_is_named(command: Command, folder: Path) -> None:
    (folder / "masks" / "train" / "1.png").unlink()
    code, printed = command(train_command, *own(folder))
    assert code == 2
    assert "1.jpg" in printed
    assert "label" in printed


def test_a_truncated_image_is_named(command: Command, folder: Path) -> None:
    image = folder / "images" / "train" / "0.jpg"
    image.write_bytes(image.read_bytes()[:600])
    code, printed = command(train_command, *own(folder))
    assert code == 2
    assert str(image) in printed
    assert "truncated" in printed


def test_a_file_that_is_no_image_is_named(command: Command, folder: Path) -> None:
    image = folder / "images" / "train" / "0.jpg"
    image.write_text("not an image")
    code, printed = command(train_command, *own(folder))
    assert code == 2
    assert str(image) in printed


def test_a_faulty_file_is_named_from_inside_a_loader_process(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = folder / "images" / "train" / "0.jpg"
    image.write_text("not an image")
    words = [*own(folder), "--run.device", "cpu", "--data.workers", "1", "--work-dir", str(tmp_path / "run")]
    assert train_command(PAPER)(words) == 2
    printed = capsys.readouterr().err
    assert str(image) in printed
    assert "Traceback" not in printed


def test_a_label_of_another_size_is_named(command: Command, folder: Path) -> None:
    label = folder / "masks" / "train" / "0.png"
    cv2.imwrite(str(label), np.zeros((30, 48), np.uint8))
    code, printed = command(train_command, *own(folder))
    assert code == 2
    assert str(label) in printed
    assert "30" in printed


def test_a_label_value_outside_the_classes_is_named(command: Command, folder: Path) -> None:
    label = folder / "masks" / "train" / "0.png"
    cv2.imwrite(str(label), np.full((40, 48), 7, np.uint8))
    code, printed = command(train_command, *own(folder))
    assert code == 2
    assert str(label) in printed
    assert "value 7" in printed


def test_a_checkpoint_of_another_model_is_refused(command: Command, trained: Path) -> None:
    code, printed = command(train_command, "toy", "--load-from", str(trained), "--model.width", "8")
    assert code == 2
    assert "--model.width 4" in printed


def test_a_checkpoint_of_another_class_number_is_refused_in_tests(
    command: Command, trained: Path, folder: Path
) -> None:
    code, printed = command(script_of_test, "toy", str(trained), *own(folder)[1:])
    assert code == 2
    assert "8 classes" in printed
    assert "2" in printed


def test_fine_tuning_to_other_classes_says_once_what_starts_anew(
    command: Command, trained: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code, printed = command(train_command, *own(folder), "--load-from", str(trained))
    assert code == 0, printed
    said = [record.getMessage() for record in caplog.records if "initial values" in record.getMessage()]
    assert len(said) == 1
    assert "classifier.weight" in said[0]


class Harmful:
    """A pickle that would leave a file behind when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "harmful.pth"
    torch.save({"state_dict": Harmful(tmp_path / "ran")}, file, pickle_module=pickle)
    code, printed = command(script_of_test, "toy", str(file))
    assert code == 2
    assert str(file) in printed
    assert "--unsafe" in printed
    assert not (tmp_path / "ran").exists()


def test_a_loss_that_is_not_finite_stops_with_its_images_and_saves_no_weight_that_is_no_number(
    command: Command, tmp_path: Path, folder: Path
) -> None:
    words = [*own(folder), "--optim.kind", "sgd", "--optim.lr", "1e30", "--schedule.iterations", "9"]
    code, printed = command(train_command, *words)
    assert code == 2
    assert "the loss is not finite at iteration" in printed
    assert "images" in printed
    assert ".jpg" in printed
    (state,) = state_files(tmp_path / "run").values()
    assert "no good state is left (the newest hold exploded weights" in printed  # its weights are near 1e30
    tensors = load_state(state)["model"].values()
    assert all(torch.isfinite(tensor).all() for tensor in tensors if tensor.is_floating_point())


def test_a_full_disk_keeps_the_previous_state(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def full(descriptor: int) -> None:
        if "state-00000002" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    code, printed = command(train_command, "toy", "--schedule.iterations", "3")
    assert code == 2
    assert "No space left" in printed
    assert "state-00000002.pt" in printed
    assert [path.name for path in (tmp_path / "run").glob("*state-*")] == ["state-00000001.pt"]
    assert load_state(tmp_path / "run" / "state-00000001.pt")["iteration"] == 1


def test_a_second_run_in_a_used_work_directory_is_refused(command: Command) -> None:
    assert command(train_command, "toy")[0] == 0
    code, printed = command(train_command, "toy")
    assert code == 2
    assert "already holds a run" in printed
    assert "--resume" in printed


def test_two_runs_at_once_in_one_work_directory_are_refused(command: Command, tmp_path: Path) -> None:
    first = WorkDirectory(tmp_path / "run", is_resuming=False)
    code, printed = command(train_command, "toy", "--resume")
    first.release()
    assert code == 2
    assert "another run is using" in printed


def test_resuming_with_another_learning_rate_is_refused(command: Command) -> None:
    assert command(train_command, "toy")[0] == 0
    code, printed = command(train_command, "toy", "--resume", "--optim.lr", "0.5")
    assert code == 2
    assert "--optim.lr" in printed


def test_an_absent_prediction_input_is_named(command: Command, trained: Path, tmp_path: Path) -> None:
    code, printed = command(predict_command, "toy", str(trained), str(tmp_path / "absent.jpg"))
    assert code == 2
    assert "absent.jpg" in printed


def test_format_only_needs_a_folder(command: Command, trained: Path) -> None:
    code, printed = command(script_of_test, "toy", str(trained), "--format-only")
    assert code == 2
    assert "--out" in printed


def test_an_unknown_metric_is_named(command: Command, trained: Path) -> None:
    code, printed = command(script_of_test, "toy", str(trained), "--eval", "mAP")
    assert code == 2
    assert "mAP" in printed
