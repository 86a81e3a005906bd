"""A port of this host that leads to one of a lab's director."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pylvs.lab.lab import Lab
from pylvs.system.namespaces import inside_network

_PIECE = 1 << 16  # bytes


@contextmanager
def forwarded(lab: Lab, port: int) -> Iterator[int]:
    """Forward a port of this host to one of the director's localhost, as `ssh -L` does; return it."""
    network = lab.host("director").network
    threads: list[threading.Thread] = []
    ends: list[socket.socket] = []

    def run(call: object, *arguments: socket.socket) -> None:
        thread = threading.Thread(target=call, args=arguments)  # type: ignore[arg-type]
        threads.append(thread)
        thread.start()

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                run(connect, listener.accept()[0])

    def connect(near: socket.socket) -> None:
        ends.append(near)
        with near, suppress(OSError):
            with inside_network(network):
                far = socket.create_connection(("127.0.0.1", port))
            ends.append(far)
            with far:
                back = threading.Thread(target=copy, args=(near, far))
                back.start()
                copy(far, near)
                back.join()

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_PIECE):
                sink.sendall(data)
        _shut(source, sink)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        run(serve, listener)
        try:
            yield int(listener.getsockname()[1])
        finally:
            _shut(listener)
            threads[0].join()
            _shut(*ends)
            for thread in threads:
                thread.join()


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
