"""Downloads continue while the director has no service: over an init script's stop and start, and the daemon's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab
from tests.lab.daemons import daemon
from tests.lab.support import endpoint
from tests.waiting import PATIENCE_S

SIZE = 10 << 20
PIECE = 1 << 20
MUCH = 4 << 20  # more than the socket buffers and a pipe hold
METHODS = {"-g": "DR", "-m": "NAT", "-i": "TUN"}
MODES = {4: "generic", 6: "tc"}
KINDS = [(topology, version) for topology in ("nat", "dr", "tun") for version in MODES]

NAMES = "{0[0]}{0[1]}".format


class Download:
    """A curl that receives a file only as far as the test reads it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.received = 0

    def read(self, count: int) -> None:
        """Receive this many bytes; fewer at the end of the file."""
        assert self._process.stdout is not None
        while count and (data := self._process.stdout.read(min(count, PIECE))):
            self.received += len(data)
            count -= len(data)

    def finish(self) -> int:
        """Receive the rest; return curl's exit status."""
        self.read(SIZE)
        return self._process.wait(PATIENCE_S)


@contextmanager
def download(lab: Lab) -> Iterator[Download]:
    """Begin to receive a file from the virtual address."""
    for name in "rmem", "wmem":
        for host in "client", *(each.name for each in lab.network.role("realserver")):
            lab.sh(host, f"sysctl -qw net.ipv4.tcp_{name}='4096 65536 262144'")
    command = ["curl", "-sN", "--max-time", str(PATIENCE_S), "http://VIP/big"]
    with subprocess.Popen([*lab.host("client").inside(), *command], stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            yield Download(process)
        finally:
            process.kill()


@pytest.fixture(params=KINDS, ids=NAMES)
def lab(request: pytest.FixtureRequest, make_lab: MakeLab) -> Lab:
    topology, version = request.param
    made = make_lab(topology, 1, version)
    director = made.network.role("director")[0]
    for interface in director.interfaces:
        made.sh("director", f"pylvs attach {interface.device} --mode {MODES[version]}")
    return made


def listing(lab: Lab) -> list[str]:
    """Return the services and servers."""
    return [line for line in lab.sh("director", "ipvsadm -Sn").splitlines() if line]


def test_a_download_continues_without_services_and_after_they_are_restored(lab: Lab) -> None:
    saved = listing(lab)
    vip = endpoint(lab.network, lab.network.vip)
    with download(lab) as received:
        received.read(PIECE)
        for delete in "ipvsadm -C", f"ipvsadm -D -t {vip}":
            lab.sh("director", f"ipvsadm -Sn >/run/saved; {delete}")
            assert listing(lab) == []
            received.read(MUCH)
            assert "ESTABLISHED" in lab.sh("director", "ipvsadm -Lnc")
            lab.sh("director", "ipvsadm -R </run/saved")
            assert listing(lab) == saved
        assert received.finish() == 0
        assert received.received == SIZE


@pytest.mark.parametrize("lab", [("nat", 4), ("dr", 6), ("tun", 4)], ids=NAMES, indirect=True)
def test_a_download_continues_over_the_daemons_stop_and_start(lab: Lab, tmp_path: Path) -> None:
    lab.sh("director", "ipvsadm -C")
    network = lab.network
    server = network.role("realserver")[0].interfaces[0].addresses[0].partition("/")[0]
    text = f"""
        virtual_server {network.vip} 80 {{
            lb_algo rr
            lb_kind {METHODS[network.method]}
            protocol TCP
            real_server {server} 80 {{
            }}
        }}
    """
    with daemon(lab, tmp_path, text) as running, download(lab) as received:
        received.read(PIECE)
        assert running.stop() == 0
        assert listing(lab) == []
        received.read(MUCH)
        running.start()
        assert running.servers()
        assert received.finish() == 0
        assert received.received == SIZE
