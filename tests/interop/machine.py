"""A machine as keepalived's samples expect it: eth0 to eth3, up, each with an address."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pylvs.system.namespaces import inside_network

DEVICES = tuple(f"eth{number}" for number in range(4))
COMMANDS = "link set lo up\n" + "".join(
    f"link add {device} type veth peer name peer{device}\n"
    f"link set {device} up\nlink set peer{device} up\n"
    f"addr add 192.168.{200 + number}.1/24 dev {device}\n"
    for number, device in enumerate(DEVICES)
)


@contextmanager
def four_devices() -> Iterator[Path]:
    """Its network namespace, as a file; nothing is left of it afterwards."""
    name = f"pylvs-k{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "-batch", "-"], input=COMMANDS, text=True, check=True)
        yield Path("/run/netns", name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@contextmanager
def on_it() -> Iterator[None]:
    """Everything in here happens on such a machine."""
    with four_devices() as path, inside_network(path):
        yield
