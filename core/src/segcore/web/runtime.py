"""ONNX Runtime Web, which the page runs networks with: one version, its files known by their hashes."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path

from segcore.errors import InputError
from segcore.files import reading, writing

VERSION = "1.30.0"
FILES = {
    "ort.webgpu.bundle.min.mjs": "sha384-1ntMeyj+z5diX6vBR5h+zlJBPc4iNvhCxE6nlammh8daBYcLBZkzrwDkuJjhwI+f",
    "ort-wasm-simd-threaded.asyncify.wasm": "sha384-EPVDLTxuO663dkZO/pcKJF6vOyyfq/5z9FY1oksN0UWFX2ABH4wDDZQHeNoUleWR",
    "ort.wasm.bundle.min.mjs": "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    "ort-wasm-simd-threaded.wasm": "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}
"""Files of the package's dist/ and their hashes: the first two with WebGPU, the others without."""
_NETWORK = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist/"
_FOLDER = "runtime"


def check_runtime(source: Path) -> Path:
    """Return the folder with the files of an unpacked onnxruntime-web of npm.

    Raises:
        InputError: if a file is missing, or is not that of `VERSION`.
    """
    dist = source / "dist" if (source / "dist").is_dir() else source
    for name, integrity in FILES.items():
        if not (dist / name).is_file():
            raise InputError(f"--runtime {source} has no dist/{name}; unpack onnxruntime-web {VERSION} of npm there")
        with reading(dist / name):
            content = (dist / name).read_bytes()
        if integrity_of(content) != integrity:
            raise InputError(f"{dist / name} is not that of onnxruntime-web {VERSION}{_found(source)}")
    return dist


def copy_runtime(source: Path | None, folder: Path) -> str:
    """Put the runtime into the page's folder, and return the address of its files as the page writes it.

    Args:
        source: see `check_runtime`; None leaves the files where a content network has them.

    Raises:
        InputError: see `check_runtime`.
    """
    if source is None:
        return _NETWORK
    dist = check_runtime(source)
    with writing(folder / _FOLDER):
        (folder / _FOLDER).mkdir()
        for path in (*(dist / name for name in FILES), source / "LICENSE"):
            if path.is_file():
                shutil.copyfile(path, folder / _FOLDER / path.name)
    return f"{_FOLDER}/"


def integrity_of(content: bytes) -> str:
    """Return the hash of a file as browsers write it."""
    return "sha384-" + base64.b64encode(hashlib.sha384(content).digest()).decode()


def _found(source: Path) -> str:
    """Return which version a folder says it is, as the end of a sentence."""
    try:
        found = str(json.loads((source / "package.json").read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" but of {found}" if found != VERSION else ": the file is damaged"
