"""`segcore web`: the folder on the loopback, with what browsers want of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from segcore.commands import web
from segcore.errors import InputError
from segcore.web.serve import server_of


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Serve a folder with one file of each kind."""
    for name in ("index.html", "page.js", "ort.mjs", "ort.wasm", "net.onnx", "manifest.json"):
        (tmp_path / name).write_text(name)
    with server_of(tmp_path, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", "text/html"),
        ("page.js", "text/javascript"),
        ("ort.mjs", "text/javascript"),
        ("ort.wasm", "application/wasm"),
        ("manifest.json", "application/json"),
    ],
)
def test_files_have_their_kind_and_the_page_is_isolated(address: str, name: str, kind: str) -> None:
    with urlopen(address + name) as response:
        assert response.read().decode() == (name or "index.html")
        assert response.headers.get_content_type() == kind
        assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"


def test_only_this_machine_is_served(tmp_path: Path) -> None:
    with server_of(tmp_path, 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_a_taken_port_and_a_folder_without_a_page_are_one_sentence(address: str, tmp_path: Path) -> None:
    port = address.rstrip("/").rsplit(":", 1)[1]
    with pytest.raises(InputError, match=f"--port {port} cannot be had: .*; choose another"):
        web.main([str(tmp_path), "--port", port])
    with pytest.raises(InputError, match=r"nothing holds no page; write one: segcore export CHECKPOINT"):
        web.main([str(tmp_path / "nothing")])
    with pytest.raises(InputError, match="--port must be between 0 and 65535"):
        web.main([str(tmp_path), "--port", "70000"])
