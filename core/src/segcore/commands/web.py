"""`segcore web FOLDER`: serve the page of `segcore export ... --web FOLDER` on this machine, and open it."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from segcore.commands.parsing import parse_options
from segcore.errors import check

_DESCRIPTION = """Serve the page that `segcore export CHECKPOINT... --web FOLDER` wrote, to this machine alone, and open
it in the browser. Stop it with Ctrl-C. Any static host serves the same folder to others."""


@dataclass(frozen=True, kw_only=True)
class WebOptions:
    """What to serve."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder of the page."""
    port: int = 8000
    """Port of 127.0.0.1; 0 takes a free one."""
    open: bool = True
    """Open the browser."""

    def __post_init__(self) -> None:
        check(0 <= self.port <= 65535, f"--port must be between 0 and 65535, got {self.port}")


def main(words: list[str]) -> int:
    """Run the command until it is stopped; returns the exit code.

    Raises:
        InputError: if the folder holds no page, or the port is taken.
    """
    options = parse_options("segcore web", _DESCRIPTION, WebOptions, words)
    from segcore.web.manifest import is_page_folder
    from segcore.web.serve import server_of  # --help needs no server

    check(
        is_page_folder(options.folder),
        f"{options.folder} holds no page; write one: segcore export CHECKPOINT... --web {options.folder}",
    )
    with server_of(options.folder, options.port) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"serving {options.folder} at {address} (Ctrl-C stops)", flush=True)
        if options.open:
            webbrowser.open(address)
        server.serve_forever()
    return 0
