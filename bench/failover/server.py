"""Echo what clients send: `python server.py ADDRESS PORT` prints "ready" and the port. Standard library alone.

It ends when its input does.
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import sys

_BACKLOG, _BATCH = 4096, 256


def main(address: str, port: int) -> None:
    """Accept and echo, in one thread."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with socket.create_server((address, port), backlog=_BACKLOG) as listener, select.epoll() as ready:
        listener.setblocking(False)
        ready.register(listener, select.EPOLLIN)
        ready.register(0, select.EPOLLIN)
        clients: dict[int, socket.socket] = {}
        print("ready", listener.getsockname()[1], flush=True)
        while True:
            for number, _ in ready.poll(-1, _BATCH):
                if number == 0:
                    return
                if number == listener.fileno():
                    with contextlib.suppress(OSError):  # all are accepted, or a client has given up
                        while True:
                            client = listener.accept()[0]
                            client.setblocking(False)
                            clients[client.fileno()] = client
                            ready.register(client, select.EPOLLIN)
                elif number in clients and not _echo(clients[number]):
                    clients.pop(number).close()


def _echo(client: socket.socket) -> bool:
    """Return whether the client is still there."""
    try:
        data = client.recv(64)
        return bool(data) and client.send(data) == len(data)
    except BlockingIOError:  # the event was that of an earlier client with this descriptor
        return True
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
