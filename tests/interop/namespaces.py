"""Network namespaces for foreign servers and for keepalived's samples."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pylvs.system.namespaces import inside_network
from tests.iproute import ip_batch
from tests.waiting import until_up

DEVICES = tuple(f"eth{number}" for number in range(4))


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Run the block in its own network namespace, with only lo."""
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
    """Run the block in such a namespace with eth0, which has 192.0.2.1/24."""
    with inside(name):
        for words in ("link add eth0 type veth peer name peer0", "link set peer0 up", "link set eth0 up"):
            ip(words)
        ip("addr add 192.0.2.1/24 dev eth0")
        until_up("eth0", "peer0")
        yield


def ip(words: str) -> str:
    """Return the output of `ip`."""
    return subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True).stdout


def server_tls(folder: Path) -> ssl.SSLContext:
    """Return a TLS context of a server; its key and certificate are in the directory as `key` and `crt`."""
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=nobody"]
    subprocess.run([*words, "-keyout", folder / "key", "-out", folder / "crt"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    return context


@contextmanager
def four_devices() -> Iterator[Path]:
    """Make a network namespace as keepalived's samples expect it: eth0 to eth3, up, each with an address.

    Return its file; remove it afterwards.
    """
    name = f"pylvs-k{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        ip_batch(_four_links(), name)
        until_up(*DEVICES, namespace=name)
        yield Path("/run/netns", name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def _four_links() -> Iterator[str]:
    yield "link set lo up"
    for number, device in enumerate(DEVICES):
        yield f"link add {device} type veth peer name peer{device}"
        yield from (f"link set {each} up" for each in (device, f"peer{device}"))
        yield f"addr add 192.168.{200 + number}.1/24 dev {device}"


@contextmanager
def on_four_devices() -> Iterator[None]:
    """Run the block in that namespace."""
    with four_devices() as path, inside_network(path):
        yield
