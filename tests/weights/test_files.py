"""Weights and states are written whole or not at all, and read without running anything that is in them."""

from __future__ import annotations

import errno
import json
import os
import secrets
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from segcore import files
from segcore.errors import InputError
from segcore.files import atomic_write
from segcore.weights.files import (
    LoadedCheckpoint,
    load_into,
    read_checkpoint,
    run_versions,
    save_weights,
)
from segcore.weights.header import CheckpointMeta
from segcore.weights.names import NameMap
from segcore.weights.states import save_state, state_path
from segcore.weights.torch_files import read_published, read_torch_file
from tests.tiny_paper import NAMES, TinySegmentor, published_tensors

META = CheckpointMeta(
    paper="tiny",
    recipe_name="toy",
    recipe={"model": {"backbone": "stem", "width": 4}},
    classes=["road", "sky", "tree"],
    palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    iteration=12,
    scores={"mIoU": 0.5},
    versions={"torch": "2"},
)


def _model(num_classes: int = 3, seed: int = 0) -> TinySegmentor:
    torch.manual_seed(seed)
    return TinySegmentor(4, num_classes)


class _FullDisk:
    """A file that takes a number of bytes and then reports a full disk."""

    def __init__(self, path: Path, room: int) -> None:
        self._file, self._room = open(path, "wb"), room  # noqa: SIM115 - closed by `__exit__`

    def write(self, data: Any) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()

    def __enter__(self) -> _FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _fill_disk(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(files, "open", lambda path, _: _FullDisk(path, room), raising=False)


def test_weights_and_their_description_survive_the_file(tmp_path: Path) -> None:
    model = _model()
    save_weights(tmp_path / "w.safetensors", model.state_dict(), META)
    loaded = read_checkpoint(tmp_path / "w.safetensors")
    assert loaded.meta == META
    other = _model(seed=1)
    assert load_into(other, loaded, NAMES) == []
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=0, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_tensors_that_share_memory_are_both_stored(tmp_path: Path) -> None:
    weight = torch.arange(4.0)
    save_weights(tmp_path / "w.safetensors", {"a": weight, "b": weight[1:]}, META)
    tensors = read_checkpoint(tmp_path / "w.safetensors").tensors
    torch.testing.assert_close(tensors["b"], torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("room", [0, 10, 500, 1200])
def test_a_full_disk_leaves_the_previous_weights_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    path = tmp_path / "last.safetensors"
    save_weights(path, _model().state_dict(), META)
    before = path.read_bytes()
    assert len(before) > room
    _fill_disk(monkeypatch, room)
    with pytest.raises(InputError, match=r"last\.safetensors: No space left on device; the previous file is unchanged"):
        save_weights(path, _model(seed=1).state_dict(), META)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("room", [0, 200, 100_000])
def test_a_full_disk_leaves_the_previous_state_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    path = state_path(tmp_path, 7)
    save_state(path, {"model": {"weight": torch.zeros(100_000)}, "iteration": 7})
    before = path.read_bytes()
    _fill_disk(monkeypatch, room)
    with pytest.raises(InputError, match=r"state-00000007\.pt: No space left on device"):
        save_state(path, {"model": {"weight": torch.ones(100_000)}, "iteration": 8})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_unfinished_files_follow_no_planted_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 18, point 5: `.NAME.PID.tmp` could be foreseen, and a link of that name was written through."""
    victim = tmp_path / "victim"
    victim.write_text("kept")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (f".w.safetensors.{os.getpid()}.tmp", f".w.safetensors.{os.getpid()}.00.tmp"):
        (folder / name).symlink_to(victim)
    save_weights(folder / "w.safetensors", _model().state_dict(), META)
    monkeypatch.setattr(secrets, "token_hex", lambda _: "00")  # even one that was foreseen
    with pytest.raises(InputError, match=r"cannot save .*w\.safetensors: File exists"):
        save_weights(folder / "w.safetensors", _model(seed=1).state_dict(), META)
    assert victim.read_text() == "kept"
    read_checkpoint(folder / "w.safetensors")


def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("w" * 243 + ".safetensors")
    save_weights(path, _model().state_dict(), META)
    assert read_checkpoint(path).meta == META


def test_an_error_of_ours_while_writing_is_not_called_a_full_disk(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "x"):
            raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot save .*file/w\.safetensors: .*file is a file, not a folder"):
        save_weights(tmp_path / "file" / "w.safetensors", {}, META)


def test_a_published_checkpoint_loads_through_the_name_map(tmp_path: Path) -> None:
    model, other = _model(), _model(seed=1)
    tensors = {f"module.{name}": tensor for name, tensor in published_tensors(model).items()}
    torch.save({"state_dict": tensors, "meta": {"CLASSES": ("a",)}}, tmp_path / "p.pth")
    loaded = read_checkpoint(tmp_path / "p.pth")
    assert loaded.meta is None
    assert loaded.published_meta["CLASSES"] == ("a",)
    load_into(other, loaded, NAMES)
    torch.testing.assert_close(other.classifier.weight, model.classifier.weight, rtol=0, atol=0)


def test_a_checkpoint_of_another_model_is_named_with_what_differs(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", nn.Linear(2, 2).state_dict(), META)
    with pytest.raises(InputError, match=r"w\.safetensors is a checkpoint of another model \(tiny toy\): \d+ missing"):
        load_into(_model(), read_checkpoint(tmp_path / "w.safetensors"), NAMES)


def test_another_class_number_is_said_with_both_numbers() -> None:
    loaded = LoadedCheckpoint(published_tensors(_model(num_classes=7)), None, Path("p.pth"))
    with pytest.raises(InputError, match=r"p\.pth was trained for 7 classes, the data set here has 3"):
        load_into(_model(), loaded, NAMES)


def test_fine_tuning_keeps_the_initial_classifier_and_loads_the_rest() -> None:
    source, model = _model(num_classes=7), _model(seed=1)
    initial = model.classifier.weight.detach().clone()
    loaded = LoadedCheckpoint(published_tensors(source), None, Path("p.pth"))
    assert load_into(model, loaded, NAMES, fine_tune=True) == ["classifier.weight", "classifier.bias"]
    torch.testing.assert_close(model.classifier.weight.detach(), initial, rtol=0, atol=0)
    torch.testing.assert_close(model.stem.weight, source.stem.weight, rtol=0, atol=0)


def test_fine_tuning_is_strict_about_everything_else() -> None:
    tensors = published_tensors(_model(num_classes=7))
    del tensors["backbone.stem.weight"]
    with pytest.raises(InputError, match=r"another model: 1 missing \(backbone\.stem\.weight\)"):
        load_into(_model(), LoadedCheckpoint(tensors, None, Path("p.pth")), NAMES, fine_tune=True)


def test_fine_tuning_to_the_same_class_number_loads_the_classifier() -> None:
    source, model = _model(), _model(seed=1)
    assert load_into(model, LoadedCheckpoint(published_tensors(source), None, Path("p")), NAMES, fine_tune=True) == []
    torch.testing.assert_close(model.classifier.weight, source.classifier.weight, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors"])
def test_an_absent_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"the checkpoint .*{name} does not exist"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("is_zip", [True, False])
def test_every_truncation_of_a_published_file_is_one_sentence(tmp_path: Path, is_zip: bool) -> None:
    path = tmp_path / "p.pth"
    torch.save({"state_dict": {"weight": torch.zeros(50)}}, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"p\.pth"):
            read_checkpoint(path)


def test_every_truncation_of_our_weights_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, _model().state_dict(), META)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"w\.safetensors is truncated"):
            read_checkpoint(path)


def test_one_changed_bit_anywhere_in_our_weights_is_one_sentence(tmp_path: Path) -> None:
    """Issue 18, point 3: 39 of 80 damaged files loaded silently."""
    path = tmp_path / "w.safetensors"
    save_weights(path, _model().state_dict(), META)
    whole = path.read_bytes()
    names = range(whole.index(b'"sha256"'), whole.index(b'"sha256"') + 10)
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        if place in names and b'"sha256":"' not in data:  # the mark itself: what it marks is whole
            continue
        with pytest.raises(InputError, match=r"w\.safetensors is truncated"):
            read_checkpoint(path)


def test_other_programs_read_our_weights_as_before(tmp_path: Path) -> None:
    model = _model()
    save_weights(tmp_path / "w.safetensors", model.state_dict(), META)
    tensors = safetensors.torch.load_file(tmp_path / "w.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    assert torch.equal(tensors["stem.weight"], model.stem.weight)


def test_weights_without_a_checksum_load_and_say_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(_model().state_dict(), path, {"segcore": json.dumps(asdict(META))})
    for _ in range(2):
        assert read_checkpoint(path).meta == META
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} carries no checksum (an older version wrote it): a changed value would not be noticed"
    ]


def test_a_text_in_the_header_is_not_taken_for_the_checksum(tmp_path: Path) -> None:
    text = '","sha256":"' + "1" * 64 + '"'
    save_weights(tmp_path / "w.safetensors", _model().state_dict(), replace(META, recipe_name=text, classes=[text] * 3))
    meta = read_checkpoint(tmp_path / "w.safetensors").meta
    assert meta is not None
    assert meta.recipe_name == text


def test_a_published_file_that_was_written_without_sums_loads(tmp_path: Path) -> None:
    computes = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"state_dict": {"weight": torch.ones(3)}}, tmp_path / "p.pth")
    finally:
        torch.serialization.set_crc32_options(computes)
    assert read_checkpoint(tmp_path / "p.pth").tensors["weight"].tolist() == [1, 1, 1]


def test_a_changed_record_of_a_published_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.pth"
    torch.save({"state_dict": {"weight": torch.zeros(1000)}}, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"p\.pth is damaged: its record p/data/0 has changed"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["page.pth", "page.safetensors"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<!DOCTYPE html> 404 not found")
    with pytest.raises(InputError, match=rf"{name} is (truncated or )?no"):
        read_checkpoint(tmp_path / name)


def test_a_damaged_header_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"segcore": "{"})
    with pytest.raises(InputError, match=r"w\.safetensors: header is not readable as JSON"):
        read_checkpoint(path)


class _Touch:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, is_zip: bool) -> None:
    content = {"state_dict": {"weight": torch.zeros(1)}, "meta": _Touch(tmp_path / "ran")}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(InputError, match=r"evil\.pth would run code when loaded: it holds posix\.mkdir.*--unsafe"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    assert list(read_checkpoint(tmp_path / "evil.pth", unsafe=True).tensors) == ["weight"]
    assert (tmp_path / "ran").exists()  # which is why the flag is off by default


def test_objects_of_other_packages_are_named(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "module.pth")
    with pytest.raises(InputError, match=r"module\.pth would run code .* torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(tmp_path / "module.pth")


def test_numpy_numbers_text_and_arrays_are_read(tmp_path: Path) -> None:
    meta = {"seed": np.int64(3), "lr": np.float32(0.5), "PALETTE": np.eye(3, dtype=np.uint8), "name": np.array(["a"])}
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "meta": meta}, tmp_path / "p.pth")
    read = read_published(tmp_path / "p.pth").meta
    assert read["seed"] == 3
    assert read["lr"] == 0.5
    np.testing.assert_array_equal(read["PALETTE"], np.eye(3))
    assert read["name"].tolist() == ["a"]


def test_numpy_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    array = np.array([_Touch(tmp_path / "ran")], dtype=object)
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "meta": array}, tmp_path / "p.pth")
    with pytest.raises(InputError, match=r"p\.pth"):
        read_published(tmp_path / "p.pth")
    assert not (tmp_path / "ran").exists()


def test_weights_may_lie_at_the_top_or_under_model(tmp_path: Path) -> None:
    for content in ({"weight": torch.ones(1)}, {"model": {"weight": torch.ones(1)}, "cur_epoch": 3}):
        torch.save(content, tmp_path / "p.pth")
        assert list(read_published(tmp_path / "p.pth").tensors) == ["weight"]
    assert read_published(tmp_path / "p.pth").meta["cur_epoch"] == 3


@pytest.mark.parametrize(("content", "sentence"), [([1], "holds a list"), ({"lr": 1.0}, "holds no tensors .* only lr")])
def test_a_file_without_tensors_is_named(tmp_path: Path, content: object, sentence: str) -> None:
    torch.save(content, tmp_path / "p.pth")
    with pytest.raises(InputError, match=sentence):
        read_published(tmp_path / "p.pth")


def test_versions_name_what_a_run_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = run_versions()
    assert versions["torch"] == torch.__version__
    assert {"segcore", "timm", "python"} <= set(versions)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "git" not in run_versions()
    json.dumps(versions)


def test_our_files_need_no_name_map(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    save_weights(tmp_path / "w.safetensors", model.state_dict(), META)
    wrong = NameMap(renames=((".*", "nonsense"),))
    assert load_into(nn.Linear(2, 2), read_checkpoint(tmp_path / "w.safetensors"), wrong) == []


def test_an_unreadable_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.pth").write_bytes(b"x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(InputError, match=r"cannot read .*p\.pth: Permission denied"):
        read_torch_file(tmp_path / "p.pth")
