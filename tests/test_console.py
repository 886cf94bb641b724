"""Names of classes, files and folders are shown literally: no markup of rich, no escape sequences, on any terminal."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from segcore.commands.main import main
from segcore.commands.scores import print_scores
from segcore.console import PlainConsole, printable
from segcore.data.base import ClassTable
from segcore.evaluation.metrics import ConfusionMatrix
from segcore.training.log import create_logger
from tests.data.test_folder import make_folder

HOSTILE = ("[/b]", "[red]car[/red]", "\x1b[31mtree\x1b]0;title\x07", ":smile:")
SHOWN = ("[/b]", "[red]car[/red]", "\\x1b[31mtree\\x1b]0;title\\x07", ":smile:")


def check_printed(printed: str, shown: tuple[str, ...] = SHOWN) -> None:
    assert "\x1b" not in printed
    assert "\x07" not in printed
    for name in shown:
        assert name in printed


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("straße 街道\tx\n", "straße 街道\tx\n"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\r\x08\x9b", "a\\r\\x08\\x9b"),
        ("gpj\u202e.exe", "gpj\\u202e.exe"),
        (os.fsdecode(b"caf\xe9"), "caf\\udce9"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_text_and_tables_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(HOSTILE[0], title=HOSTILE[2])
    table.add_row(HOSTILE[1])
    console = PlainConsole(soft_wrap=True)
    console.print(table)
    console.print(HOSTILE[3])
    check_printed(capsys.readouterr().out.replace("\\x1b[31mtree\\x1b]0;tit\nle\\x07", SHOWN[2]))


def test_class_names_with_markup_and_escapes_are_checked_and_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "[/b]", classes="\n".join(HOSTILE))
    assert main(["data", "check", "folder", "--root", str(root)]) == 0
    check_printed(capsys.readouterr().out)
    assert main(["data", "split", "--root", str(root)]) == 0
    check_printed(capsys.readouterr().out)


def test_class_names_with_markup_and_escapes_are_scored(capsys: pytest.CaptureFixture[str]) -> None:
    matrix = ConfusionMatrix(len(HOSTILE), names=HOSTILE)
    classes = ClassTable(HOSTILE, np.zeros((len(HOSTILE), 3), np.uint8))
    print_scores(PlainConsole(soft_wrap=True), matrix.scores(), classes, ("mIoU",), "[/b] \x1b[31m")
    check_printed(capsys.readouterr().out)


def test_a_folder_with_markup_and_escapes_in_its_name_is_named_in_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "[/b] \x1b[31m")
    (root / "masks" / "03.png").write_text("nothing")
    assert main(["data", "check", "folder", "--root", str(root)]) == 2
    check_printed(capsys.readouterr().out, ("[/b] \\x1b[31m/masks/03.png",))
    assert main(["data", "check", "folder", "--root", str(root / "x\x07")]) == 2
    check_printed(capsys.readouterr().err, ("[/b] \\x1b[31m/x\\x07",))


def test_log_lines_do_nothing_to_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with create_logger(tmp_path, 10) as logger:
        logger.message(" ".join(HOSTILE))
        logging.getLogger("segcore.data").warning("%s", HOSTILE[0])
    check_printed(capsys.readouterr().err)
    check_printed((tmp_path / "log.txt").read_text())


def test_a_terminal_that_cannot_show_a_letter_gets_its_number(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "街道", classes="straße\ncar\n")
    code = "from segcore.commands.main import main; import sys; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "data", "check", "folder", "--root", str(root), "--split", "val"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert "stra\\xdfe" in result.stdout
