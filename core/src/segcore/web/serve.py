"""A server for the page on the loopback: static files, with what browsers want of WebAssembly."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from segcore.errors import InputError

HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    """Serves files; isolated, so that WebAssembly may use threads."""

    extensions_map = {  # noqa: RUF012  # the name and the kind are the library's
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
        ".json": "application/json",
    }

    def end_headers(self) -> None:
        """Add headers: isolation, and no copy kept that a new export would not replace."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # the library's name
        """Say nothing of requests."""


class _Server(ThreadingHTTPServer):
    """A server to which a visitor who leaves in the middle of a file is no error."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error of a request, as the library does."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def server_of(folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of a folder, bound but not yet running.

    Args:
        port: 0 takes a free one.

    Raises:
        InputError: if the port is taken.
    """
    try:
        return _Server((HOST, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise InputError(
            f"--port {port} cannot be had: {error.strerror}; choose another, or 0 for a free one"
        ) from error
