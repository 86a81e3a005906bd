"""A port of this host that leads elsewhere: a proxy, or what `ssh -L` does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from pylvs.lab.lab import Lab
from pylvs.system.namespaces import inside_network

_PIECE = 1 << 16  # bytes


@contextmanager
def proxied(connect: Callable[[], socket.socket], prefix: str = "") -> Iterator[int]:
    """Forward connections to a port, and return it. Paths lose the prefix, as behind a proxy that removes it.

    Each connection of the page has one request, so its first line is at the begin.
    """
    threads: list[threading.Thread] = []
    ends: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                near = listener.accept()[0]
                ends.append(near)
                threads.append(threading.Thread(target=forward, args=(near,)))
                threads[-1].start()

    def forward(near: socket.socket) -> None:
        with near, suppress(OSError), connect() as far:
            ends.append(far)
            back = threading.Thread(target=_copy, args=(far, near))
            back.start()
            _copy(near, far, f" {prefix}/".encode() if prefix else b"")
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            _shut(listener)
            serving.join()
            _shut(*ends)
            for thread in threads:
                thread.join()


def forwarded(lab: Lab, port: int) -> AbstractContextManager[int]:
    """Forward a port of this host to one of the director's localhost."""

    def connect() -> socket.socket:
        with inside_network(lab.host("director").network):
            return socket.create_connection(("127.0.0.1", port))

    return proxied(connect)


def _copy(source: socket.socket, sink: socket.socket, removed: bytes = b"") -> None:
    with suppress(OSError):
        while data := source.recv(_PIECE):
            sink.sendall(data.replace(removed, b" /", 1) if removed else data)
            removed = b""
    _shut(source, sink)


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
