"""The files of the page, which are built before and shipped: read at the start, served from memory."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable

from pylvs.system.http.server import Response

_KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "ico": "image/x-icon",
    "woff2": "font/woff2",
    "webmanifest": "application/manifest+json",
    "txt": "text/plain; charset=utf-8",
}
_FOR_EVER = "max-age=31536000, immutable"  # of files whose names have their digest


class Files:
    """The files by their paths, such as "index.html" and "assets/page-1a2b.js"."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[bytes, str, str]] = {}
        folder = files("pylvs.web") / "static"
        if folder.is_dir():
            self._read(folder, "")

    def _read(self, folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                self._read(entry, f"{prefix}{entry.name}/")
                continue
            kind = _KINDS.get(entry.name.rpartition(".")[2])
            if kind is not None:
                content = entry.read_bytes()
                digest = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
                self._found[f"{prefix}{entry.name}"] = content, kind, digest

    def response(self, path: str, known: str) -> Response | None:
        """Return a file, 304 for one that the client has (its ETag is `known`), or None."""
        if path not in self._found:
            return None
        content, kind, digest = self._found[path]
        cached = _FOR_EVER if path.startswith("assets/") else "no-cache"
        headers = {"ETag": digest, "Cache-Control": cached}
        if digest in known:
            return Response(b"", HTTPStatus.NOT_MODIFIED, kind, headers)
        return Response(content, HTTPStatus.OK, kind, headers)
