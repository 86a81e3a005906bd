"""Where other people's servers are run for a test: a network namespace with nothing in it but lo."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pylvs.host.namespaces import inside_network


@contextmanager
def inside(name: str) -> Iterator[None]:
    """The caller is in a network namespace of its own until this ends."""
    name = f"pylvs-{name}{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with inside_network(f"/run/netns/{name}"):
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def server_tls(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS; its key and certificate are then in the folder as `key` and `crt`."""
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=nobody"]
    subprocess.run([*words, "-keyout", folder / "key", "-out", folder / "crt"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    return context
