"""What `memorynet-memory` and the report's section say about a memory, and what they refuse."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from memorynet.inspection.command import main
from memorynet.inspection.content import MemoryContent, memory_of, read_memory
from memorynet.inspection.page import memory_page
from memorynet.memory import Memory
from memorynet.recipes import PAPER, MemorySettings
from segcore.data.base import load_classes
from segcore.errors import InputError
from segcore.pages.page import Chart, Note, Row, Table
from segcore.pages.render import render
from segcore.weights.files import read_checkpoint, save_weights
from segcore.weights.header import CheckpointMeta

NAMES = ["road", "sidewalk", "sky", "train"]


def trained_memory() -> Memory:
    """Return a memory after three steps: road and sidewalk nearly parallel, train never seen."""
    memory = Memory(len(NAMES), 3, MemorySettings())
    memory.rows[0, 0] = torch.tensor([1.0, 0.0, 0.0])
    memory.rows[1, 0] = torch.tensor([4.0, 3.0, 0.0])
    memory.rows[2, 0] = torch.tensor([0.0, 0.0, 2.0])
    memory.num_batches_tracked += torch.tensor([3, 1, 2, 0])
    return memory


def saved(folder: Path, *, paper: str = "memorynet", tensors: dict[str, Tensor] | None = None) -> Path:
    """Write a weights file that holds the memory and another tensor."""
    if tensors is None:
        memory = trained_memory().state_dict()
        tensors = {**{f"head.memory.{name}": value for name, value in memory.items()}, "other": torch.zeros(1)}
    meta = CheckpointMeta(
        paper=paper,
        recipe_name="toy",
        recipe={},
        classes=NAMES,
        palette=[[0, 0, 0]] * len(NAMES),
        iteration=4,
        scores={},
        versions={},
    )
    save_weights(folder / "last.safetensors", tensors, meta)
    return folder / "last.safetensors"


def content_of(rows: np.ndarray, names: tuple[str, ...] | None = None) -> MemoryContent:
    return MemoryContent(names or tuple(f"class {i}" for i in range(len(rows))), rows, None, 0)


def test_the_similarity_of_classes_is_the_cosine_of_their_rows(tmp_path: Path) -> None:
    content = read_memory(saved(tmp_path))
    expected = np.full((4, 4), np.nan)
    expected[:3, :3] = [[1, 0.8, 0], [0.8, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(content.similarity(), expected, atol=1e-12)
    assert content.is_empty.tolist() == [False, False, False, True]
    assert content.closest(1) == [(0, 1, pytest.approx(0.8))]
    assert len(content.closest(99)) == 3  # the empty class is in none
    assert content.updates is not None
    assert content.updates.tolist() == [3, 1, 2, 0]


def test_with_several_slots_the_most_similar_ones_count_and_empty_ones_do_not() -> None:
    rows = np.array([[[1, 0], [0, 1]], [[1, 1], [0, 0]], [[0, 5], [-1, 0]]], np.float32)
    half = 0.5**0.5
    expected = [[1, half, 1], [half, 1, half], [1, half, 1]]
    np.testing.assert_allclose(content_of(rows).similarity(), expected, atol=1e-7)


def test_grouping_puts_similar_classes_beside_each_other_and_empty_ones_last() -> None:
    angle = np.array([0.0, 1.2, 0.1, 1.3, 0.05, 0.0])
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, None].astype(np.float32)
    rows[5] = 0
    order = content_of(rows).grouped()
    assert order[-1] == 5
    assert {frozenset(order[:3]), frozenset(order[2:5])} & {frozenset((0, 2, 4))}
    assert sorted(order) == list(range(6))


def test_an_empty_memory_of_one_class_can_be_shown() -> None:
    content = content_of(np.zeros((1, 1, 4), np.float32))
    assert content.closest(5) == []
    assert "Gray: never seen (class 0)." in render(memory_page(content, content.grouped(), pairs=5, source="x.pth"))


def test_the_heat_map_shows_every_cell_in_the_order_asked_for() -> None:
    names = load_classes("ade20k").names
    rows = np.random.default_rng(0).normal(size=(len(names), 1, 16)).astype(np.float32)
    content = content_of(rows, names)
    order = list(range(len(names)))[::-1]
    (section,) = memory_page(content, order, pairs=3, source="x.pth").sections
    (chart,) = (part for part in section.parts if isinstance(part, Chart))
    (cells,) = chart.figure.data
    np.testing.assert_allclose(cells.z, content.similarity()[::-1, ::-1], atol=5e-5)
    assert list(chart.figure.layout.yaxis.ticktext) == list(names[::-1])
    assert list(chart.figure.layout.xaxis.ticktext) == list(names[::-1])


def test_the_command_writes_the_page_and_names_the_closest_and_the_rarest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "memory.html"
    assert main([str(saved(tmp_path)), "--out", str(out), "--order", "similarity", "--rows", "2"]) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    first = next(line for line in lines if "0.800" in line)
    assert {"road", "sidewalk"} <= set(first)
    rarest = [line for line in lines if "empty" in line or "25.0" in line]
    assert [line[1] for line in rarest] == ["train", "sidewalk"]
    page = out.read_text("utf-8")
    closest = ("road", "sky")  # two lines of pairs, then every class by its updates
    assert "Gray: never seen (train)." in page
    assert re.findall(r'title="(\w+)">', page) == ["road", "sidewalk", *closest, "train", "sidewalk", "sky", "road"]


def test_a_published_file_is_read_with_the_names_of_its_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "published.pth"
    torch.save({"model": {"module.memory_module.memory": torch.randn(19, 1, 8)}, "cur_epoch": 3}, file)
    assert read_memory(file).names[:2] == ("class 0", "class 1")
    content = read_memory(file, classes="cityscapes")
    assert (content.names[0], content.updates) == ("road", None)
    assert main([str(file), "--classes", "ade20k", "--out", str(tmp_path / "a.html")]) == 2
    assert "holds a memory of 19 classes, --classes ade20k has 150" in capsys.readouterr().err


def test_without_counts_only_empty_classes_make_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = torch.ones(4, 1, 8)
    for sentence, other in (("every class has a vector", "never seen"), ("never seen", "every class has a vector")):
        torch.save({"model": {"memory_module.memory": rows}}, tmp_path / "published.pth")
        assert main([str(tmp_path / "published.pth"), "--out", str(tmp_path / "a.html")]) == 0
        printed = capsys.readouterr().out
        assert sentence in printed
        assert other not in printed
        rows[2] = 0


def test_names_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    content = read_memory(saved(tmp_path), classes=str(tmp_path / "names.txt"))
    assert content.names == ("a", "b", "c", "d")


def test_names_of_nothing_are_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--classes must name a file .* one of toy, ade20k, .* got nope"):
        read_memory(saved(tmp_path), classes="nope")


def test_a_checkpoint_without_a_memory_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path, paper="cgrseg", tensors={"head.weight": torch.zeros(1)})
    assert main([str(file), "--out", str(tmp_path / "a.html")]) == 2
    assert "is a checkpoint of cgrseg without a memory; expected weights of memorynet-train" in capsys.readouterr().err
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "memory.png"], "--out must name a .html file, got memory.png"),
        (["--rows", "0"], "--rows must be at least 1, got 0"),
        ([], "does not exist"),
    ],
)
def test_impossible_options_are_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nowhere.safetensors", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_the_report_of_a_run_has_a_section_on_the_memory(tmp_path: Path) -> None:
    assert PAPER.report is not None
    (section,) = PAPER.report(read_checkpoint(saved(tmp_path)))
    note, chart, row = section.parts
    assert isinstance(note, Note)
    assert note.text.endswith("Gray: never seen (train).")
    assert isinstance(chart, Chart)
    shown = list(chart.figure.layout.yaxis.ticktext)
    assert abs(shown.index("road") - shown.index("sidewalk")) == 1  # similar ones beside each other
    assert shown[-1] == "train"
    assert isinstance(row, Row)
    pairs, updates = row.parts
    assert isinstance(pairs, Table)
    assert [cell.text for cell in pairs.rows[0]] == ["road", "sidewalk", "0.800"]
    assert isinstance(updates, Table)
    assert [cell.text for cell in updates.rows[1]] == ["sidewalk", "1", "25.0", "5"]


def test_other_weights_are_refused_by_the_file_name(tmp_path: Path) -> None:
    file = saved(tmp_path, tensors={"head.memory.rows": torch.zeros(4)})
    with pytest.raises(InputError, match=r"last\.safetensors is a checkpoint of memorynet without a memory"):
        memory_of(read_checkpoint(file))
