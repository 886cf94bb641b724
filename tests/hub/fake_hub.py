"""A server on this machine that speaks as much of the Hugging Face Hub's protocol as an upload and a download need.

It keeps the commits of every repository in memory. Files travel in the commit itself, as the hub asks for small ones.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple

TOKEN = "hf_of_the_test"
_ABSENT = {"repository": "RepoNotFound", "revision": "RevisionNotFound", "file": "EntryNotFound"}


class Commit(NamedTuple):
    """A commit by its number, and all files after it."""

    name: str
    files: dict[str, bytes]


class FakeHub(ThreadingHTTPServer):
    """The server: its commits by repository, the newest last, and what the making of each repository asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[Commit]] = {}
        self.made: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repository: str, files: dict[str, bytes]) -> Commit:
        """Commit files on top of what the repository has."""
        commits = self.commits.setdefault(repository, [])
        before = commits[-1].files if commits else {}
        commits.append(Commit(f"{len(commits):040x}", {**before, **files}))
        return commits[-1]


@contextmanager
def running() -> Iterator[FakeHub]:
    """Serve in a thread as long as the block runs."""
    server = FakeHub()
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):  # is there such a repository? asked where making it is refused
            return self._send(404, b"", **{"X-Error-Code": "RepoNotFound"})
        return self._file(**self._parts(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)"))

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, b"", **{"X-Error-Message": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._json({"warnings": [], "errors": []})
        else:
            parts = self._parts(r"/api/models/(?P<name>[^/]+/[^/]+)/(?P<what>preupload|commit)/main")
            {"preupload": self._preupload, "commit": self._commit}[parts["what"]](parts["name"], body)

    def _parts(self, pattern: str) -> dict[str, str]:
        found = re.fullmatch(pattern, self.path.partition("?")[0])
        assert found, f"the test's server does not know {self.command} {self.path}"
        return found.groupdict()

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name not in self.server.commits:
            self.server.add(name, {".gitattributes": b""})
            self.server.made.append(asked)
        self._json({"url": f"{self.server.address}/{name}", "name": name, "id": name})

    def _preupload(self, name: str, body: bytes) -> None:
        paths = [file["path"] for file in json.loads(body)["files"]]
        self._json({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})

    def _commit(self, name: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.decode().splitlines()]
        files = [line["value"] for line in lines if line["key"] == "file"]
        commit = self.server.add(name, {file["path"]: base64.b64decode(file["content"]) for file in files})
        address = f"{self.server.address}/{name}/commit/{commit.name}"
        self._json({"success": True, "commitOid": commit.name, "commitUrl": address})

    def _file(self, name: str, revision: str, file: str) -> None:
        commits = self.server.commits.get(name, [])
        commit = next((commit for commit in reversed(commits) if revision in ("main", commit.name)), None)
        if commit is None or file not in commit.files:
            absent = "repository" if not commits else "revision" if commit is None else "file"
            return self._send(404, b"", **{"X-Error-Code": _ABSENT[absent]})
        content = commit.files[file]
        tag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self._send(200, content, **{"X-Repo-Commit": commit.name, "ETag": tag})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
