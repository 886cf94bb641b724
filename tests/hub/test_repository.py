"""Networks as folders and repositories: what is written, found, uploaded and refused."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import segcore
from segcore.evaluation.score_files import ScoredImages, ScoreFile, file_hash, now, score_path, write_score
from segcore.hub.card import MARK
from segcore.hub.repository import locate
from segcore.paper import load_paper
from segcore.recipe.plain import to_plain
from segcore.segmentor import Segmentor
from segcore.weights.header import read_meta
from tests.hub.fake_hub import TOKEN, FakeHub, running


@pytest.fixture(scope="module")
def model() -> Segmentor:
    """A small network that was never trained."""
    return segcore.create_model("memorynet-toy")


def test_a_folder_holds_the_weights_their_recipe_and_a_card(model: Segmentor, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "net", scores={"mIoU on <b>our</b> | streets": 0.5})
    weights = tmp_path / "net" / "model.safetensors"
    meta = read_meta(weights)
    config = json.loads((tmp_path / "net" / "config.json").read_text("utf-8"))
    assert meta is not None
    assert (config["paper"], config["name"], config["recipe"]) == ("memorynet", "toy", meta.recipe)
    card = (tmp_path / "net" / "README.md").read_text("utf-8")
    assert card.startswith("---\nlibrary_name: segcore\nlicense: unknown\n")
    assert "| mIoU on b our /b streets | 50.00 | as the author says |" in card  # nothing that would be markup
    assert "Nobody has said under which license" in card
    assert "not at all" in card  # it was never trained
    assert locate(tmp_path / "net") == weights


def test_folders_of_this_machine_stay_here(model: Segmentor, tmp_path: Path) -> None:
    origin = model.known_origin()
    recipe = load_paper("memorynet").recipes["toy"]
    recipe = replace(
        recipe,
        run=replace(recipe.run, work_dir="/home/me/run", data="/home/me/data", load_from="/home/me/old.pth"),
        data=replace(recipe.data, train_list="/home/me/some.txt"),
        model=replace(recipe.model, weights="/home/me/imagenet.pth"),
    )
    model = segcore.create_model("memorynet-toy")
    model.origin = replace(origin, meta=replace(origin.meta, recipe=to_plain(recipe)))
    model.save_pretrained(tmp_path)
    assert all(b"/home/me" not in path.read_bytes() for path in tmp_path.iterdir())
    kept = json.loads((tmp_path / "config.json").read_text("utf-8"))["recipe"]
    assert (kept["run"]["load_from"], kept["data"]["train_list"]) == ("old.pth", "some.txt")


def test_a_card_of_the_users_own_is_left_alone(
    model: Segmentor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = tmp_path / "README.md"
    for text, is_kept in (("my words", True), (f"{MARK}\nold words", False)):
        card.write_text(text)
        with caplog.at_level(logging.WARNING):
            model.save_pretrained(tmp_path)
        assert (card.read_text("utf-8") == text) == is_kept
        assert ("README.md is not ours" in caplog.text) == is_kept
        caplog.clear()


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"classes": ["one"]}, "expected 8 names, one per class of the network, got 1"),
        ({"license": "my own: words"}, "expected a word such as cc-by-4.0"),
        ({"scores": {"mIoU": 43.5}}, "mIoU must be a fraction of 1, got 43.5"),
        ({"scores": {"mIoU": float("nan")}}, "mIoU must be a fraction of 1, got nan"),
    ],
)
def test_what_cannot_be_said_of_a_network_is_refused(
    model: Segmentor, tmp_path: Path, about: Any, message: str
) -> None:
    with pytest.raises(segcore.InputError, match=message):
        model.save_pretrained(tmp_path / "net", **about)
    assert not (tmp_path / "net").exists()


def test_a_network_put_together_by_hand_has_no_recipe_to_save(tmp_path: Path) -> None:
    model = load_paper("memorynet").build(load_paper("memorynet").recipes["toy"], 3)
    with pytest.raises(segcore.InputError, match=r"put together by hand.* segcore\.create_model"):
        model.save_pretrained(tmp_path)
    with pytest.raises(segcore.InputError, match="put together by hand"):
        segcore.parameter_groups(model)


def test_a_card_shows_the_tests_of_exactly_these_weights(model: Segmentor, tmp_path: Path) -> None:
    weights = model.save_pretrained(tmp_path / "net") / "model.safetensors"
    recipe = load_paper("memorynet").recipes["toy"]
    data = ScoredImages.of(recipe.data, "")
    for protocol, miou, hash_ in (
        (recipe.evaluate, 0.25, file_hash(weights)),
        (recipe.evaluate.with_augmentation(), 0.75, "0" * 64),  # of other weights that had this name
    ):
        score = ScoreFile(
            weights=weights.name,
            sha256=hash_,
            paper="memorynet",
            recipe="toy",
            data=data,
            images=2,
            protocol=protocol,
            amp="off",
            time=now(),
            metric={"mIoU": miou, "mAcc": None},
        )
        write_score(score_path(weights.parent, weights, data, protocol), score)
    again = segcore.Predictor.from_pretrained(weights, device="cpu").model
    assert isinstance(again, Segmentor)
    card = (again.save_pretrained(tmp_path / "again") / "README.md").read_text("utf-8")
    assert "| mIoU | 25.00 | toy test, single scale, whole images |" in card
    assert "75.00" not in card


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "user/x.safetensors", "user/net@"])
def test_a_name_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(segcore.InputError, match=f"{name} is neither a file, nor a folder, nor a repository"):
        locate(name)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(segcore.InputError, match=r"has no weights: none of model\.safetensors"):
        locate(tmp_path)


def test_without_a_network_the_cache_is_all_there_is() -> None:
    with pytest.raises(
        segcore.InputError, match=r"user/none on the hub: it is not in the cache, .* no folder here is called so"
    ):
        locate("user/none")
    with pytest.raises(segcore.InputError, match="user/none on the hub: HF_HUB_OFFLINE is set"):
        segcore.create_model("memorynet-toy").push_to_hub("user/none")


def _run(hub: FakeHub, folder: Path, code: str, *, token: str = TOKEN) -> str:
    """Run a program against the server, with a cache of its own; returns what it prints."""
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "cache"), "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    environment = {**os.environ, **own, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", f"import segcore\n{code}"], env=environment, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


UPLOAD = """
import torch
torch.manual_seed(0)
model = segcore.create_model("memorynet-toy").eval()
model.push_to_hub("user/net", private=True, license="cc0-1.0")
print(float(model(torch.ones(1, 3, 64, 96)).sum()))
model.push_to_hub("user/net", license="mit")
"""
DOWNLOAD = """
import torch
first, last = "0" * 39 + "1", "main"
for revision in (first, last):
    model = segcore.Predictor.from_pretrained(f"user/net@{revision}", device="cpu").model
    print(float(model.to(memory_format=torch.contiguous_format)(torch.ones(1, 3, 64, 96)).sum()))
for name in ("user/none", "user/net@other", "user/empty"):
    try:
        segcore.Predictor.from_pretrained(name)
    except segcore.InputError as error:
        print(error)
"""


def test_what_is_uploaded_comes_back_by_name_and_revision(tmp_path: Path) -> None:
    with running() as hub:
        hub.add("user/empty", {"notes.txt": b""})
        written = _run(hub, tmp_path, UPLOAD)
        commits = hub.commits["user/net"]
        assert [asked["name"] for asked in hub.made] == ["net"]
        assert "private" in json.dumps(hub.made[0])  # the library's word for it depends on its version
        assert commits[1].files.keys() == {".gitattributes", "README.md", "config.json", "model.safetensors"}
        cards = [commit.files["README.md"].decode() for commit in commits[1:]]
        assert ["license: cc0-1.0" in card for card in cards] == [True, False]
        assert 'from_pretrained("user/net")' in cards[0]
        lines = _run(hub, tmp_path, DOWNLOAD).splitlines()
    assert lines[:2] == written.splitlines() * 2
    assert lines[2].startswith("user/none on the hub: there is no such repository")
    assert lines[3] == "user/net on the hub: it has no such revision"
    assert lines[4].startswith("user/empty on the hub: it has no config.json and model.safetensors")


STOPPED = """
try:
    segcore.create_model("memorynet-toy").push_to_hub("user/net")
except segcore.InputError as error:
    print(error)
"""


def test_a_hub_that_refuses_or_is_away_is_one_sentence(tmp_path: Path) -> None:
    with running() as hub:
        printed = _run(hub, tmp_path, STOPPED, token="hf_wrong")
        assert printed == "user/net on the hub: it wants to know who you are: `hf auth login`\n"
    printed = _run(hub, tmp_path, STOPPED)  # the server has ended
    assert printed.startswith("user/net on the hub: ")
    assert printed.count("\n") == 1


def test_a_card_that_somebody_wrote_on_the_hub_stays(tmp_path: Path) -> None:
    with running() as hub:
        hub.add("user/net", {"README.md": b"my words"})
        _run(hub, tmp_path, STOPPED)
        assert hub.commits["user/net"][-1].files["README.md"] == b"my words"
        assert "model.safetensors" in hub.commits["user/net"][-1].files
