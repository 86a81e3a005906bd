"""What the process of the page does before it gives up its privileges."""

from __future__ import annotations

import socket

import pytest

from pylvs.system import sandbox, syscalls
from pylvs.web import process


class _Confined(BaseException):
    """The process has given up its privileges."""


def test_the_files_are_read_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards the process cannot enter the home of root, in which pylvs may be installed."""
    read = list[str]()

    def confine(*_: object, **__: object) -> None:
        raise _Confined

    monkeypatch.setattr(syscalls, "prctl", lambda *_: 0)
    monkeypatch.setattr(sandbox, "confine", confine)
    monkeypatch.setattr(process, "Files", lambda: read.append("files"))
    parent, end = socket.socketpair()
    with parent, end, pytest.raises(_Confined):
        process.main(end)
    assert read == ["files"]
