"""Where other people's servers are run for a test: a network namespace with nothing in it but lo."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pylvs.system.namespaces import inside_network


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


@contextmanager
def on_a_link(name: str) -> Iterator[None]:
    """The same, and there is eth0, which holds 192.0.2.1/24."""
    with inside(name):
        for words in ("link add eth0 type veth peer name peer0", "link set peer0 up", "link set eth0 up"):
            ip(words)
        ip("addr add 192.0.2.1/24 dev eth0")
        yield


def ip(words: str) -> str:
    """What `ip` says to them."""
    return subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True).stdout


def server_tls(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS; its key and certificate are then in the folder as `key` and `crt`."""
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=nobody"]
    subprocess.run([*words, "-keyout", folder / "key", "-out", folder / "crt"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    return context
