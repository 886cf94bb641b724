"""`segcore web`: the folder on the loopback, with what browsers want of it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import msgspec
import pytest

from segcore.commands import web
from segcore.errors import InputError
from segcore.web.manifest import MANIFEST, Manifest, Runtime
from segcore.web.serve import server_of


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Serve a folder with one file of each kind."""
    for name in ("index.html", "page.js", "ort.mjs", "ort.wasm", "net.onnx"):
        (tmp_path / name).write_text(name)
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(Manifest(Runtime("1", "runtime/", {}), [], [])))
    with server_of(tmp_path, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", "text/html"),
        ("page.js", "text/javascript"),
        ("ort.mjs", "text/javascript"),
        ("ort.wasm", "application/wasm"),
        ("net.onnx", "application/octet-stream"),
        ("manifest.json", "application/json"),
    ],
)
def test_files_have_their_kind_and_the_page_is_isolated(address: str, tmp_path: Path, name: str, kind: str) -> None:
    with urlopen(address + name) as response:
        assert response.read() == (tmp_path / (name or "index.html")).read_bytes()
        assert response.headers.get_content_type() == kind
        assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"


def test_only_this_machine_is_served(tmp_path: Path) -> None:
    with server_of(tmp_path, 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_a_visitor_who_leaves_in_the_middle_of_a_file_is_no_error(
    address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(1 << 26)
    before = threading.active_count()
    with socket.create_connection(("127.0.0.1", int(address.rstrip("/").rsplit(":", 1)[1]))) as visitor:
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed at once, by a reset
        visitor.sendall(b"GET /large.onnx HTTP/1.0\r\n\r\n")
        assert visitor.recv(8).startswith(b"HTTP")
        serving = set(threading.enumerate())
    assert len(serving) > before
    for thread in serving - {threading.current_thread()}:
        if "process_request_thread" in thread.name:
            thread.join(timeout=10)
    assert capfd.readouterr().err == ""


def test_a_taken_port_and_a_folder_without_a_page_are_one_sentence(address: str, tmp_path: Path) -> None:
    port = address.rstrip("/").rsplit(":", 1)[1]
    with pytest.raises(InputError, match=f"--port {port} cannot be had: .*; choose another"):
        web.main([str(tmp_path), "--port", port])
    with pytest.raises(InputError, match=r"nothing holds no page; write one: segcore export CHECKPOINT"):
        web.main([str(tmp_path / "nothing")])
    with pytest.raises(InputError, match="--port must be between 0 and 65535"):
        web.main([str(tmp_path), "--port", "70000"])
