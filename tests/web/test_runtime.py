"""ONNX Runtime Web beside the page: only the files that were meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segcore.errors import InputError
from segcore.web import runtime
from segcore.web.runtime import copy_runtime, integrity_of


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unpacked package with two small files, which are those that are expected."""
    folder = tmp_path / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"version": runtime.VERSION}))
    for name in ("a.mjs", "a.wasm"):
        (folder / "dist" / name).write_text(name)
    monkeypatch.setattr(runtime, "FILES", {name: integrity_of(name.encode()) for name in ("a.mjs", "a.wasm")})
    return folder


def test_the_files_are_copied(package: Path, tmp_path: Path) -> None:
    assert copy_runtime(package, tmp_path) == "runtime/"
    assert sorted(path.name for path in (tmp_path / "runtime").iterdir()) == ["a.mjs", "a.wasm"]


def test_without_a_folder_they_stay_on_a_content_network(tmp_path: Path) -> None:
    assert copy_runtime(None, tmp_path).endswith(f"onnxruntime-web@{runtime.VERSION}/dist/")
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_named(package: Path, tmp_path: Path) -> None:
    (package / "dist" / "a.wasm").unlink()
    with pytest.raises(InputError, match=r"--runtime .* has no dist/a.wasm; unpack onnxruntime-web"):
        copy_runtime(package, tmp_path)


def test_another_version_and_damage_are_told_apart(package: Path, tmp_path: Path) -> None:
    (package / "dist" / "a.wasm").write_text("other")
    with pytest.raises(InputError, match=r"a.wasm is not that of onnxruntime-web .*: the file is damaged"):
        copy_runtime(package, tmp_path)
    (package / "package.json").write_text(json.dumps({"version": "1.2.3"}))
    with pytest.raises(InputError, match=r"a.wasm is not that of onnxruntime-web .* but of 1.2.3"):
        copy_runtime(package, tmp_path)
