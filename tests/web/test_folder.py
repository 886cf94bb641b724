"""The folder of the browser page: what is in it, what is refused, and that its graphs answer as `Predictor` does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segcore.commands.export import main
from segcore.data.toy.dataset import ToyScenes
from segcore.errors import InputError
from segcore.export.form import Form
from segcore.export.onnx_file import open_session
from segcore.export.write import exported_bytes
from segcore.models import create_model
from segcore.paper import Paper, installed_papers
from segcore.predictor import Predictor
from segcore.recipe import Evaluate
from segcore.segmentor import Segmentor
from segcore.web import folder as folder_module
from segcore.web.answer import PageNetwork
from segcore.web.folder import PageOptions, write_page_folder
from tests.commands.test_export_command import weights
from tests.tiny_paper import PAPER, TinySegmentor

__all__ = ["weights"]  # a fixture
MARGIN = 1e-3
"""Two classes may change places where their probabilities are this near."""


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tiny paper an installed one, whose network is the same in all tests and exported once for each form."""
    monkeypatch.setattr(folder_module, "load_paper", lambda _: PAPER)
    monkeypatch.setattr(folder_module, "exported_bytes", lambda _, form, kind: _tiny_bytes(form))


@cache
def _tiny_bytes(form: Form) -> bytes:
    return exported_bytes(_tiny(), form, "onnx")


def _tiny() -> Segmentor:
    torch.manual_seed(0)
    return TinySegmentor(4, len(ToyScenes.classes.names)).eval()


def _written(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in _files(folder)}


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def test_the_folder_holds_page_graph_golden_picture_and_examples(weights: Path, tmp_path: Path) -> None:
    assert main([str(weights), str(weights), "--web", str(tmp_path / "page")]) == 0
    manifest = json.loads((tmp_path / "page" / "manifest.json").read_text())
    first, second = manifest["networks"]
    assert (first["name"], second["name"]) == ("tiny-toy", "tiny-toy-2")
    written = _written(tmp_path / "page")
    for network in manifest["networks"]:
        assert written[network["file"]] == network["sha256"]
        assert (tmp_path / "page" / network["file"]).stat().st_size == network["bytes"]
        golden = _read(tmp_path / "page" / network["golden"]["image"])
        labels = _read(tmp_path / "page" / network["golden"]["labels"])
        assert np.array_equal(Predictor.from_checkpoint(weights, device="cpu")(golden).label, labels)
    assert len(manifest["examples"]) == 5
    assert {example["file"] for example in manifest["examples"]} <= written.keys()
    assert {"index.html", "page.css", "page.js", "worker.js"} <= written.keys()
    assert manifest["runtime"]["base"].startswith("https://")


def test_an_earlier_page_is_replaced_and_anything_else_left_alone(weights: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    write_page_folder([weights], page, PageOptions())
    (page / "old.onnx").touch()
    write_page_folder([weights], page, PageOptions())
    assert not (page / "old.onnx").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="mine holds something else than an earlier page; give another folder"):
        write_page_folder([weights], mine, PageOptions())
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "page", "w.safetensors"]  # nothing unfinished


def test_a_page_of_somebody_else_is_left_alone(weights: Path, tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "index.html").touch()
    (app / "manifest.json").write_text(json.dumps({"name": "an app that can be installed", "icons": []}))
    with pytest.raises(InputError, match="app holds something else than an earlier page; give another folder"):
        write_page_folder([weights], app, PageOptions())
    assert sorted(path.name for path in app.iterdir()) == ["index.html", "manifest.json"]


@pytest.mark.parametrize("name", ["CNAME", ".git/HEAD", "examples/mine.png", "deep/a.onnx"])
def test_what_was_put_beside_a_page_is_not_removed_with_it(weights: Path, tmp_path: Path, name: str) -> None:
    page = tmp_path / "page"
    write_page_folder([weights], page, PageOptions())
    (page / name).parent.mkdir(exist_ok=True)
    (page / name).write_text("mine")
    with pytest.raises(InputError, match=f"page holds {name} beside an earlier page; give another folder"):
        write_page_folder([weights], page, PageOptions())
    assert (page / name).read_text() == "mine"


def test_images_without_use_are_refused_before_the_export(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "exported_bytes", lambda *_: pytest.fail("exported first"))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"--int8 .*none: expected images"):
        write_page_folder([weights], tmp_path / "page", PageOptions(int8=tmp_path / "none"))


def test_ones_own_pictures_are_the_examples(weights: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    cv2.imwrite(str(pictures / "street.png"), np.full((50, 2000, 3), 90, np.uint8))
    manifest = write_page_folder([weights], tmp_path / "page", PageOptions(examples=pictures))
    assert [example.name for example in manifest.examples] == ["street"]
    assert _read(tmp_path / "page" / "examples" / "1.png").shape == (32, 1280, 3)
    with pytest.raises(InputError, match=r"--examples .*empty: expected a folder of images"):
        write_page_folder([weights], tmp_path / "other", PageOptions(examples=tmp_path / "empty"))


def test_a_graph_that_answers_otherwise_is_not_written(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = PageNetwork.labels
    monkeypatch.setattr(PageNetwork, "labels", lambda page, image: (labels(page, image) + 1) % 3)
    with pytest.raises(
        InputError, match=r"w.safetensors: the exported graph labels .* % of a picture.s pixels otherwise"
    ):
        write_page_folder([weights], tmp_path / "page", PageOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_an_8_bit_network_stands_beside_its_float_network(weights: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    generator = np.random.default_rng(0)
    for kind, size in (("images", (40, 60, 3)), ("masks", (40, 60))):
        (data / kind).mkdir(parents=True)
        for number in range(2):
            cv2.imwrite(str(data / kind / f"{number}.png"), generator.integers(0, 3, size).astype(np.uint8))
    names = json.loads(json.dumps(ToyScenes.classes.names))
    (data / "classes.txt").write_text("\n".join(names))
    manifest = write_page_folder([weights], tmp_path / "page", PageOptions(int8=data))
    plain, small = manifest.networks
    assert (plain.precision, small.precision, small.of) == ("float32", "int8", "tiny-toy")
    assert plain.miou is not None
    assert small.miou is not None
    content = (tmp_path / "page" / small.file).read_bytes()
    golden, labels = (_read(tmp_path / "page" / name) for name in (small.golden.image, small.golden.labels))
    assert np.array_equal(PageNetwork(open_session(content), PAPER.recipes["toy"].evaluate).labels(golden), labels)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a.safetensors", "b.onnx", "--web", "page"], "b.onnx: with --web all words are checkpoints"),
        (["a.safetensors", "b.onnx", "--runtime", "x"], "--runtime are for pages"),
        (["a.safetensors"], "expected CHECKPOINT OUT, or CHECKPOINT... --web FOLDER"),
        (["--web", "page"], "--web needs at least one CHECKPOINT"),
        (["a.safetensors", "--web", "page", "--normalize"], "--normalize are for files; a page has its own form"),
        (["absent.safetensors", "--web", "page"], "absent.safetensors does not exist"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence.replace(".", r"\.")):
        main(words)


PAPERS = installed_papers()
PROTOCOLS = {
    "whole": Evaluate(scale=(96, 64)),
    "windows": Evaluate(scale=(120, 80), mode="slide", crop=(32, 48), stride=(20, 30)),
    "padded windows": Evaluate(scale=(60, 40), mode="slide", crop=(48, 48), stride=(32, 32), pad_window=True),
    "multiples": Evaluate(scale=(96, 64), resize_divisor=32),
    "padded": Evaluate(scale=(90, 50), pad_divisor=32),
    "family S": Evaluate(family="S", scale=(96, 64), keep_ratio=False),
    "family S, probabilities": Evaluate(
        family="S", scale=(90, 62), probabilities=True, mode="slide", crop=(40, 40), stride=(24, 24)
    ),
}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_the_answer_is_the_predictors(protocol: Evaluate) -> None:
    _check_answers(_tiny(), protocol, _tiny_bytes, number=20)


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_the_answer_of_every_paper_is_the_predictors(paper: Paper) -> None:
    torch.manual_seed(0)
    model = create_model(f"{paper.name}-toy").eval()
    protocol = replace(paper.recipes["toy"].evaluate, flip=False, ratios=(1.0,))
    _check_answers(model, protocol, lambda form: exported_bytes(model, form, "onnx"), number=5)


def _check_answers(model: Segmentor, protocol: Evaluate, exported: Callable[[Form], bytes], number: int) -> None:
    """Compare a graph's label maps with `Predictor`'s on pictures of odd sizes."""
    padded = protocol.crop if protocol.pad_window else None
    form = Form(normalize=True, output="coarse", padded=padded, divisor=max(protocol.pad_divisor, 1))
    page = PageNetwork(open_session(exported(form)), protocol)
    predictor = Predictor(model, ToyScenes.classes, protocol, torch.device("cpu"))
    generator = np.random.default_rng(0)
    for _ in range(number):
        small = generator.integers(0, 256, (*generator.integers(3, 20, 2), 3), dtype=np.uint8)
        size = generator.integers(20, 150, 2)
        image = cv2.resize(small, (int(size[1]), int(size[0])), interpolation=cv2.INTER_CUBIC)
        expected, probabilities = predictor(image, with_probabilities=True)
        assert probabilities is not None
        differing = page.labels(image) != expected
        assert differing.mean() <= 1e-3
        best = probabilities.topk(2, dim=0).values.numpy()
        assert np.all((best[0] - best[1])[differing] < MARGIN)
