"""Long-lived HTTP connections of a client."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Iterator

from pylvs.lab.lab import Lab
from pylvs.system.namespaces import inside_network

PATIENCE_S = 20.0
KEPT = "kept"


class LongConnections:
    """Connections from a lab's client to its VIP."""

    def __init__(self, lab: Lab, count: int = 3) -> None:
        """Open them, and send one request over each. Raises OSError."""
        network = lab.network
        with inside_network(lab.host("client").network):
            sockets = [socket.create_connection((network.entry, network.port), PATIENCE_S) for _ in range(count)]
        self._connections = [http.client.HTTPConnection(network.entry, network.port) for _ in sockets]
        for connection, made in zip(self._connections, sockets, strict=True):
            connection.auto_open = 0  # do not open a lost connection again
            connection.sock = made
        self._servers = [_ask(each) for each in self._connections]

    def ask(self) -> list[str]:
        """Send a request over each; return "kept", or why it is lost."""
        return [_outcome(each, server) for each, server in zip(self._connections, self._servers, strict=True)]

    def close(self) -> None:
        for each in self._connections:
            each.close()


@contextlib.contextmanager
def long_connections(lab: Lab, count: int = 3) -> Iterator[LongConnections]:
    """Open connections, and close them afterwards."""
    made = LongConnections(lab, count)
    try:
        yield made
    finally:
        made.close()


def _ask(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/")
    return connection.getresponse().read()


def _outcome(connection: http.client.HTTPConnection, server: bytes) -> str:
    try:
        return KEPT if _ask(connection) == server else "lost: another server answers"
    except ConnectionResetError:
        return "lost: reset"
    except TimeoutError:
        return "lost: no answer"
    except (OSError, http.client.HTTPException) as error:
        return f"lost: {error!r}"
