"""Published boundary files: found beside the labels, read in training, written by unept-dt-offset."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat

from segcore.data.ade20k import ADE20K
from segcore.data.base import FileDataset
from segcore.data.pascal_context import PascalContext60
from segcore.errors import InputError
from segcore.images.region import Box
from segcore.images.target_maps import LabeledSample
from segcore.images.transforms import TrainTransform
from segcore.recipe import Augment
from segcore.segmentor import Target
from segcore.training.batches import BatchPlan, StepSampler, TrainSet, train_loader
from tests.unept.boundary.test_maps import regions
from unept.boundary.command import main
from unept.boundary.files import encode_offsets, offset_file, read_offsets
from unept.boundary.maps import boundary_maps
from unept.boundary.source import ANGLE, DISTANCE, BoundarySource

SIZE = (60, 80)
LAYOUTS = {
    "ade20k": ("images/training/{}.jpg", "annotations/training/{}.png", "dt_offset/training/{}.mat"),
    "pascal_context_60": ("train/image/{}.jpg", "train/label/{}.png", "train/dt_offset/{}.mat"),
}
KINDS: dict[str, type[FileDataset]] = {"ade20k": ADE20K, "pascal_context_60": PascalContext60}


def build(root: Path, name: str, count: int = 3) -> None:
    """Write the training split of a data set as it is released: ADE20K stores its classes from 1, 0 is void."""
    for number in range(count):
        label = regions(*SIZE, number)
        raw = np.where(label == 255, 0, label + 1) if name == "ade20k" else label
        image = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        for place, content in zip(LAYOUTS[name], (image, raw.astype(np.uint8)), strict=False):
            path = root / place.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), content)


def targets(dataset: FileDataset, workers: int = 0) -> list[Target]:
    """Return three batches of training targets."""
    transform = TrainTransform(Augment(scale=(100, 70), crop=(48, 48)))
    train_set = TrainSet(dataset, transform, 0, BoundarySource())
    batches = train_loader(train_set, StepSampler(BatchPlan(3, 2, 0), 0, 3, 0, 1, 1), workers)
    return [batch.to("cpu")[1] for batch in batches]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("ADE/annotations/training/ADE_train_1.png", "ADE/dt_offset/training/ADE_train_1.mat"),
        ("ctx/train/label/2008_000002.png", "ctx/train/dt_offset/2008_000002.mat"),
        ("VOC2010/SegmentationClassContext/2008_000002.png", "VOC2010/dt_offset/2008_000002.mat"),
        ("annotations/mine/annotations/val/a.b.png", "annotations/mine/dt_offset/val/a.b.mat"),
        ("gtFine/train/bonn/bonn_1_gtFine_labelTrainIds.png", None),
        ("label.png", None),
    ],
)
def test_files_lie_where_the_labels_do(label: str, expected: str | None) -> None:
    assert offset_file(Path(label)) == (None if expected is None else Path(expected))


@pytest.mark.parametrize("name", LAYOUTS)
def test_training_on_written_files_equals_training_without_them(name: str, tmp_path: Path) -> None:
    build(tmp_path, name)
    dataset = KINDS[name](tmp_path, "train")
    computed = targets(dataset)
    assert main([name, "--root", str(tmp_path), "--split", "train", "--processes", "1"]) == 0
    path = tmp_path / LAYOUTS[name][2].format(0)
    label = dataset.load_label(0)
    distance, angle = read_offsets(path, SIZE)
    np.testing.assert_array_equal(distance, boundary_maps(label).depth)
    np.testing.assert_array_equal(angle, boundary_maps(label).angle())
    for number in range(3):  # told from computed ones by a distance that no label gives
        place = tmp_path / LAYOUTS[name][2].format(number)
        maps = boundary_maps(dataset.load_label(number))
        place.write_bytes(encode_offsets(maps._replace(depth=maps.depth + np.uint8(100))))
    for workers in (0, 2):
        for ours, theirs in zip(targets(dataset, workers), computed, strict=True):
            assert ours.boundary_distance is not None
            assert theirs.boundary_distance is not None
            assert ours.boundary_angle is not None
            assert theirs.boundary_angle is not None
            is_inside = theirs.boundary_distance < 250
            assert torch.equal(ours.boundary_distance[is_inside], theirs.boundary_distance[is_inside] + 100)
            assert torch.equal(ours.boundary_angle, theirs.boundary_angle)


def test_a_sample_without_a_file_is_computed_beside_others_with_one(tmp_path: Path) -> None:
    build(tmp_path, "ade20k", count=2)
    label_file = tmp_path / LAYOUTS["ade20k"][1].format(1)
    other = tmp_path / LAYOUTS["ade20k"][2].format(0)
    other.parent.mkdir(parents=True)
    other.write_bytes(b"not looked at")
    label = regions(*SIZE, 1)
    planes = BoundarySource()(LabeledSample(label, "1", None, label_file)).cut(Box(0, 0, *SIZE))
    np.testing.assert_array_equal(planes[DISTANCE], boundary_maps(label).depth)
    assert planes[DISTANCE].dtype == planes[ANGLE].dtype == np.float32


def test_the_step_of_a_file_is_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    steps = np.arange(4, dtype=np.uint8).reshape(2, 2)
    savemat(path, {"depth": steps, "dir_deg": steps, "deg_reduce": 4})
    np.testing.assert_array_equal(read_offsets(path, (2, 2))[1], steps * 4.0 - 180)


def damaged(path: Path, kind: str) -> None:
    """Write a file that cannot be used."""
    maps = boundary_maps(regions(*SIZE, 0))
    data = encode_offsets(maps)
    flat = maps.depth.astype(np.float32)
    contents = {
        "cut off": data[: len(data) // 2],
        "foreign": b"\xff\xd8 an image, not an array" * 9,
        "empty": b"",
        "turned": encode_offsets(boundary_maps(regions(SIZE[1], SIZE[0], 0))),
    }
    fields = {
        "no angle": {"depth": maps.depth, "deg_reduce": 2},
        "text": {"depth": maps.depth, "dir_deg": maps.direction, "deg_reduce": "two"},
        "zero": {"depth": maps.depth, "dir_deg": maps.direction, "deg_reduce": 0},
        "complex": {"depth": flat + 1j, "dir_deg": maps.direction, "deg_reduce": 2},
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    else:
        savemat(path, fields[kind])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut off", "cannot read .* as a MATLAB file"),
        ("foreign", "cannot read .* as a MATLAB file"),
        ("empty", "cannot read .* as a MATLAB file"),
        ("turned", r"label's size 80x60 \(width x height\), got 60x80 and 60x80"),
        ("no angle", "expected a MATLAB file with the array 'dir_deg'"),
        ("text", "one positive number in deg_reduce"),
        ("zero", "one positive number in deg_reduce"),
        ("complex", "expected numbers in depth"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(kind: str, message: str, tmp_path: Path) -> None:
    build(tmp_path, "ade20k")
    for number in range(3):
        path = tmp_path / LAYOUTS["ade20k"][2].format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        damaged(path, kind)
    with pytest.raises(InputError, match=message) as caught:
        targets(ADE20K(tmp_path, "train"))
    sentence = str(caught.value)
    assert str(path.parent) in sentence
    assert "unept-dt-offset" in sentence
    assert "\n" not in sentence


def test_files_that_exist_stay_and_damaged_ones_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(tmp_path, "ade20k")
    words = ["ade20k", "--root", str(tmp_path), "--split", "train", "--processes", "1"]
    first, second = (tmp_path / LAYOUTS["ade20k"][2].format(number) for number in (0, 1))
    first.parent.mkdir(parents=True)
    mine = encode_offsets(boundary_maps(np.zeros(SIZE, np.uint8)))
    first.write_bytes(mine)
    assert main(words) == 0
    assert "wrote 2 boundary files" in capsys.readouterr().out
    assert first.read_bytes() == mine
    whole = second.read_bytes()
    second.write_bytes(whole[:-3])
    assert main(words) == 2
    assert f"{second} exists but is no whole MATLAB file; remove it, or pass --force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    assert first.read_bytes() != mine
    read_offsets(second, SIZE)
    assert main([*words[:-1], "-1"]) == 2
    assert "--processes must not be negative" in capsys.readouterr().err
    assert main(["ade20k", "--root", str(tmp_path / "nowhere")]) == 2
    assert "ADE20K: the folder" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_run_leaves_whole_files_and_goes_on(tmp_path: Path) -> None:
    count = 1500  # seconds, so that the interrupt does not come too late
    build(tmp_path, "pascal_context_60", count=count)
    folder = tmp_path / "train/dt_offset"
    words = ["pascal_context_60", "--root", str(tmp_path), "--split", "train", "--processes"]
    command = [sys.executable, "-m", "unept.boundary.command", *words, "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        while run.poll() is None and len(list(folder.glob("*.mat"))) < 3:
            time.sleep(0.002)
        run.send_signal(signal.SIGINT)
        assert run.wait() == 130
        assert run.stderr is not None
        assert run.stderr.read().strip() == "unept-dt-offset: interrupted"
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert 3 <= len(written) < count
    assert all(path.suffix == ".mat" for path in written)
    assert main([*words, "2"]) == 0
    assert len(list(folder.iterdir())) == count
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
