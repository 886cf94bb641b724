"""The log of a run: files that scripts can read, lines that people can read."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
from pathlib import Path
from typing import IO, Any, Literal

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segcore.errors import InputError
from segcore.files import open_to_append
from segcore.training import log
from segcore.training.log import JsonLines, NullLogger, Pace, RunLogger, create_logger, used_memory

TRACKERS = ("tensorboard",)


def _lines(work_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work_dir / "log.jsonl").read_text().splitlines()]


def _run(work_dir: Path, iterations: list[int], start: int = 0) -> None:
    with create_logger(work_dir, 100, start=start, trackers=TRACKERS) as logger:
        for iteration in iterations:
            logger.step(0.5, 0.125, 8)
            logger.train(iteration, {"loss": 1.0 / iteration, "lr": 0.01, "decode.acc_seg": 50.0})


def test_train_lines_hold_the_terms_and_the_pace(tmp_path: Path) -> None:
    with create_logger(tmp_path, 100, trackers=TRACKERS) as logger:
        for _ in range(10):
            logger.step(0.5, 0.125, 8)
        logger.train(10, {"loss": 2.0, "lr": 0.01, "decode.loss_ce": 2.0})
    (line,) = _lines(tmp_path)
    assert line["mode"] == "train"
    assert line["iteration"] == 10
    assert (line["loss"], line["lr"], line["decode.loss_ce"]) == (2.0, 0.01, 2.0)
    assert line["images_per_second"] == pytest.approx(16.0)
    assert line["data_share"] == pytest.approx(0.25)
    assert line["seconds_left"] == pytest.approx(45.0)
    assert line["memory_mib"] > 0


def test_the_pace_covers_the_steps_since_the_last_report_only() -> None:
    pace = Pace()
    pace.add(100.0, 100.0, 1)
    pace.reset()
    pace.add(1.0, 0.0, 4)
    assert pace.figures(left=3) == {"images_per_second": 4.0, "data_share": 0.0, "seconds_left": 3.0}


def test_validation_lines_hold_every_class_and_the_text_the_means_only(tmp_path: Path) -> None:
    with create_logger(tmp_path, 100, trackers=TRACKERS) as logger:
        logger.validation(20, {"mIoU": 0.5, "aAcc": 0.75, "IoU.road": 0.9, "IoU.train": math.nan})
    (line,) = _lines(tmp_path)
    assert line["mode"] == "val"
    assert line["IoU.road"] == 0.9
    assert line["IoU.train"] is None  # NaN is no JSON
    text = (tmp_path / "log.txt").read_text()
    assert "validation after iteration 20  mIoU 0.5000  aAcc 0.7500\n" in text


def test_text_lines_say_what_a_waiting_person_wants_to_know(tmp_path: Path) -> None:
    _run(tmp_path, [40])
    text = (tmp_path / "log.txt").read_text()
    assert "iteration 40/100  loss 0.0250  lr 0.01  16.0 images/s  data wait 25%  memory" in text
    assert "left 0:00:30" in text


def test_a_resumed_run_continues_the_files_without_what_it_repeats(tmp_path: Path) -> None:
    _run(tmp_path, [10, 20, 30])
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"mode": "train", "iter')  # the process was killed here
    _run(tmp_path, [30, 40], start=20)
    assert [line["iteration"] for line in _lines(tmp_path)] == [10, 20, 30, 40]
    assert (tmp_path / "log.txt").read_text().count("iteration 30/100") == 2  # the text keeps the whole story


def test_tensorboard_gets_curves_and_pictures(tmp_path: Path) -> None:
    picture = np.zeros((6, 4, 3), np.uint8)
    picture[..., 0] = 255  # blue: pictures are BGR everywhere in this project
    with create_logger(tmp_path, 10, trackers=TRACKERS) as logger:
        logger.step(1.0, 0.0, 1)
        logger.train(5, {"loss": 3.0, "lr": 0.1})
        logger.validation(5, {"mIoU": 0.25})
        logger.image("val/scene", picture, 5)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(5, 3.0)]
    assert events.Scalars("val/mIoU")[0].value == 0.25
    image = events.Images("val/scene")[0]
    decoded = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded, picture)


def test_warnings_of_the_package_reach_the_file_while_the_run_lasts(tmp_path: Path) -> None:
    package = logging.getLogger("segcore")
    before = (list(package.handlers), package.level, package.propagate)
    with create_logger(tmp_path, 10, trackers=TRACKERS) as logger:
        logging.getLogger("segcore.weights.files").warning("a state is damaged")
        logger.message("hello")
    assert (list(package.handlers), package.level, package.propagate) == before
    logging.getLogger("segcore.weights.files").warning("after the end")
    text = (tmp_path / "log.txt").read_text()
    assert "WARNING a state is damaged\n" in text
    assert "INFO hello\n" in text
    assert "after the end" not in text


def test_lines_go_to_standard_error_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, [40])
    captured = capsys.readouterr()
    assert captured.err.count("iteration 40/100") == 1
    assert captured.out == ""


def test_other_processes_say_nothing(tmp_path: Path) -> None:
    with create_logger(tmp_path / "run", 10, is_main=False) as logger:
        logger.step(1.0, 0.0, 1)
        logger.train(1, {"loss": 1.0, "lr": 0.1})
        logger.validation(1, {"mIoU": 1.0})
        logger.image("x", np.zeros((1, 1, 3), np.uint8), 1)
        logger.message("hello")
    assert isinstance(logger, NullLogger)
    assert not (tmp_path / "run").exists()


def test_the_silent_logger_has_every_method_of_the_real_one() -> None:
    public = {name for name in vars(RunLogger) if not name.startswith("_")}
    assert public == {name for name in vars(NullLogger) if not name.startswith("_")}


def test_a_run_from_iteration_0_drops_the_lines_of_one_that_saved_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for loss in (2.0, 1.0):
        sink = JsonLines(path, 0)
        sink.scalars("train", 1, {"loss": loss})
        sink.close()
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [1.0]


def test_memory_is_that_of_a_process_with_torch() -> None:
    assert 50 < used_memory() < 1_000_000


def test_a_terminal_gets_a_progress_bar_with_the_lines_above_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    _run(tmp_path, [40])
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().err)  # without colors and cursor movements
    assert "iteration 40/100" in shown
    assert "━" in shown  # the bar
    assert "1/100" in shown


@pytest.mark.parametrize("name", ["log.txt", "log.jsonl"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_logs_follow_no_planted_link_and_wait_for_no_reader(tmp_path: Path, name: str, kind: str) -> None:
    """Issue 18, point 5."""
    victim, folder = tmp_path / "victim", tmp_path / "run"
    folder.mkdir()
    if kind == "link":
        (folder / name).symlink_to(victim)
    else:
        os.mkfifo(folder / name)
    with pytest.raises(InputError, match=rf"cannot write .*{name}: .*; remove it"):
        _run(folder, [1])
    assert not victim.exists()


def test_a_log_of_numbers_that_is_a_link_is_replaced_by_a_file(tmp_path: Path) -> None:
    """It is written anew at every start, without what an interrupted run wrote beyond its state."""
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("")
    folder.mkdir()
    (folder / "log.jsonl").symlink_to(victim)
    _run(folder, [1])
    assert victim.read_text() == ""
    assert len(_lines(folder)) == 1


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"[]", b"7", b'{"iteration": "x", "mode": "train"}', b"[" * 100_000])
def test_a_damaged_line_does_not_stop_a_run_that_goes_on_and_stays_for_its_owner(tmp_path: Path, damage: bytes) -> None:
    """Issue 18: a bad byte ended every resumption."""
    _run(tmp_path, [10, 20])
    path = tmp_path / "log.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], damage, lines[1], b""]))
    _run(tmp_path, [20, 30], start=10)
    kept = path.read_bytes().splitlines()
    assert kept[:2] == [lines[0], damage]
    assert [json.loads(line)["iteration"] for line in kept[2:]] == [20, 30]


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _FullDisk:
    """A file of a disk that is full after `left` more bytes."""

    def __init__(self, file: IO[bytes], left: int) -> None:
        self.file, self.left = file, left

    def write(self, data: bytes) -> int:
        self.file.write(data[: self.left])
        self.left -= len(data)
        if self.left < 0:
            raise FULL
        return len(data)

    def close(self) -> None:
        self.file.close()
        raise FULL

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("name", ["log.txt", "log.jsonl", "events.out.tfevents"])
@pytest.mark.parametrize("left", [0, 9])
def test_a_full_disk_is_one_sentence_and_what_was_logged_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, left: int
) -> None:
    """Issue 18: it was a traceback of the log, of a thread of TensorBoard's, or of `logging`."""
    _run(tmp_path, [10])
    before = (tmp_path / "log.jsonl").read_bytes()

    def opened(path: Path, mode: Literal["a", "x"]) -> Any:
        file = open_to_append(path, mode)
        return _FullDisk(file, left + 100 * (mode == "x")) if path.name.startswith(name) else file

    monkeypatch.setattr(log, "open_to_append", opened)
    with pytest.raises(InputError, match=rf"cannot write .*{name}.*: No space left on device"):
        _run(tmp_path, [20, 30], start=10)
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert "Logging error" not in printed
    assert (tmp_path / "log.jsonl").read_bytes().startswith(before)
    monkeypatch.undo()
    _run(tmp_path, [20], start=10)
    assert [line["iteration"] for line in _lines(tmp_path)] == [10, 20]
