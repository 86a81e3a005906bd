"""Two directors and one VIP: a tutorial's keepalived.conf as printed on one, its backup on the other.

seeds/keepalived is that configuration. By its text the backup has state BACKUP and priority 90.
"""

from __future__ import annotations

import re
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from pylvs.lab.demo import LongConnections
from pylvs.lab.hosts import port_name
from pylvs.lab.lab import Lab, build, power_off, power_on, take_down
from pylvs.lab.outage import Outage, watched
from pylvs.lab.topologies import design
from pylvs.model.errors import Unsupported
from pylvs.system.namespaces import inside_network
from tests.lab.conftest import MakeLab
from tests.lab.support import PYLVS, answers, neighbours, remains, shared_evenly
from tests.lab.tutorial import KEEPALIVED, VIP, machines
from tests.waiting import PATIENCE_S, until

MAC = {"director1": "02:00:00:00:0d:00", "director2": "02:00:00:00:0e:00"}
SKEW_S, DOWN_S = (256 - 90) / 256, 3 + (256 - 90) / 256  # of the backup
SO_TIMESTAMPNS = 35  # asm-generic/socket.h
ETH_P_ALL, IPPROTO_VRRP = 3, 112


def holds(lab: Lab, host: str) -> bool:
    """Return whether a director has the VIP."""
    return bool(lab.sh(host, f"ip -o addr show to {lab.network.vip}"))


@contextmanager
def outage(lab: Lab) -> Iterator[list[Outage]]:
    """Measure how long a client of the VIP waits in the block; the list has it afterwards."""
    seen: list[Outage] = []
    with watched(lab.host("client").inside(), lab.network.vip) as watch:
        begin = time.time()
        yield seen
        watch.answered()
    seen.append(watch.outage(begin))


@contextmanager
def advertisements(lab: Lab) -> Iterator[Callable[[], list[float]]]:
    """Record when advertisements of director1 came to director2 (seconds since 1970)."""
    times: list[float] = []
    second = lab.network.host("director2")
    with inside_network(lab.wire):
        cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))

    def received() -> list[float]:
        with suppress(BlockingIOError):
            while True:
                frame, more, _, _ = cable.recvmsg(2000, 100)
                if frame[6:12].hex(":") == MAC["director1"] and frame[12:14] == b"\x08\0" and frame[23] == IPPROTO_VRRP:
                    whole, part = struct.unpack("=qq", more[0][2])
                    times.append(whole + part / 1e9)
        return times

    with cable:
        cable.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        cable.setblocking(False)
        cable.bind((port_name(second, 0), ETH_P_ALL))
        yield received


def tutorial(make_lab: MakeLab, master: str, backup: str) -> Lab:
    """Make the tutorial's machines and a second director; each runs its file with this program."""
    lab = machines(make_lab, "ha", dip2="192.168.67.128/24")
    printed = KEEPALIVED.read_text()
    assert "state MASTER" in printed
    assert "priority 100" in printed
    texts = {"director1": printed}
    texts["director2"] = printed.replace("state MASTER", "state BACKUP").replace("priority 100", "priority 90")
    for host, program in (("director2", backup), ("director1", master)):
        path = "/etc/keepalived/keepalived.conf"
        assert lab.run(host, ["sh", "-c", f"mkdir -p /etc/keepalived; cat >{path}"], text=texts[host]).returncode == 0
        lab.sh(host, f"service {program} start")
    return lab


def is_master(lab: Lab, host: str) -> None:
    """Return whether it alone has the VIP, and serves the client."""
    other = "director2" if host == "director1" else "director1"
    until(lambda: holds(lab, host) and not holds(lab, other), f"{host} alone holds the VIP")
    # pylvs learns of an address of keepalived a moment later. Until then this host itself refuses connections.
    until(lambda: served(lab, 1) and neighbours(lab, "client")[VIP] == MAC[host], f"{host} serves")
    assert served(lab, 4)


def served(lab: Lab, requests: int) -> bool:
    """Return whether the client gets the servers' pages."""
    return set(answers(lab, requests, url=f"http://{VIP}/")) <= {"This is rs1 server!", "This is rs2 server!"}


@pytest.mark.parametrize(("master", "backup"), [("pylvs", "pylvs"), ("pylvs", "keepalived"), ("keepalived", "pylvs")])
def test_the_tutorials_pair(make_lab: MakeLab, master: str, backup: str) -> None:
    """The VIP moves when the master is killed, and returns with it. The client waits no less than the timers imply."""
    lab = tutorial(make_lab, master, backup)
    until(lambda: holds(lab, "director1"), "the master holds the VIP")
    is_master(lab, "director1")
    with closing(LongConnections(lab)) as connections:
        with advertisements(lab) as times, outage(lab) as died:
            until(times, "an advertisement")
            power_off(lab, "director1")
            until(lambda: holds(lab, "director2"), "the backup has taken over")
            last = times()[-1]
        assert set(answers(lab, 4, url=f"http://{VIP}/")) <= {"This is rs1 server!", "This is rs2 server!"}
        assert neighbours(lab, "client")[VIP] == MAC["director2"]
        fates = sorted(connections.ask())
    with outage(lab) as returned:
        power_on(lab, "director1")
        lab.sh("director1", f"service {master} start")
        until(lambda: holds(lab, "director1"), "the master is back")
    is_master(lab, "director1")
    with outage(lab) as stopped:
        lab.sh("director1", f"service {master} stop")
        until(lambda: holds(lab, "director2"), "the backup has taken over")
    print(
        f"{master} → {backup}: killed, the client waited {died[0].seconds:.2f} s (the timers: {DOWN_S:.2f} s after the "
        f"last advertisement, now {died[0].begin + died[0].seconds - last:.2f} s); "
        f"at the return {returned[0].seconds:.2f} s; stopped {stopped[0].seconds:.2f} s (skew {SKEW_S:.2f} s)"
    )
    print(f"connections that were open when the master was killed: {', '.join(fates)}")
    assert died[0].begin + died[0].seconds - last > DOWN_S - 0.1
    assert fates == ["lost: reset"] * 3


def test_a_restarted_master_keeps_its_connections(make_lab: MakeLab) -> None:
    """After stop and start, the tables and the connections are the same."""
    lab = tutorial(make_lab, "pylvs", "pylvs")
    is_master(lab, "director1")
    with closing(LongConnections(lab)) as connections:
        assert connections.ask() == ["kept"] * 3
        lab.sh("director1", "service pylvs stop")
        is_master(lab, "director2")
        lab.sh("director1", "service pylvs start")
        is_master(lab, "director1")
        fates = sorted(connections.ask())
    print(f"connections that were open when the master was restarted, and silent in that time: {', '.join(fates)}")
    assert fates == ["kept"] * 3


@pytest.mark.parametrize("words", [[], ["--peer", "keepalived"], ["--ipv6"]], ids=["pylvs", "keepalived", "IPv6"])
def test_the_tour_kills_the_master(words: list[str]) -> None:
    command = [*PYLVS, "lab", "demo", "ha", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        shown, error = process.communicate(timeout=2 * PATIENCE_S)
    assert (process.returncode, error) == (0, "")
    pauses = [float(found) for found in re.findall(r"had no answer for ([\d.]+) s", shown)]
    assert len(pauses) == 3
    assert pauses[0] > 0  # the test above has the time of the last advertisement
    assert re.findall(r"Connections that were open: (.*)\.", shown) == ["3 lost: reset"]
    assert len(re.findall(r"This is rs\d server!", shown)) == 5
    assert remains(f"demo{process.pid}") == []


@pytest.mark.parametrize("version", [4, 6])
def test_the_lab_serves_when_it_is_up(version: int, make_lab: MakeLab) -> None:
    lab = make_lab("ha", version=version)
    assert holds(lab, "director1")
    until(lambda: not holds(lab, "director2"), "director2 gave way")
    assert shared_evenly(answers(lab, 6), 3)
    assert lab.sh("client", "curl -s --max-time 60 -o /dev/null -w '%{size_download}' http://VIP/big") == str(10 << 20)
    for host in ("director1", "director2"):
        rows = [line for line in lab.sh(host, "ipvsadm -Ln").splitlines() if line.startswith("  ->") and ":80 " in line]
        assert len(rows) == 3, host
    assert take_down(lab.name)
    assert remains(lab.name) == []


def test_a_directors_services_report_their_status(make_lab: MakeLab) -> None:
    lab = make_lab("ha", servers=1, bare=True)

    def service(words: str) -> tuple[int, str]:
        done = lab.run("director1", ["service", *words.split()])
        return done.returncode, done.stdout + done.stderr

    assert service("pylvs status") == (3, "pylvs is stopped\n")
    assert service("pylvs start") == (1, "pylvs: there is no /etc/keepalived/keepalived.conf\n")
    assert service("nginx start") == (1, "nginx: unrecognized service\n")
    assert service("pylvs dance") == (2, "usage: service pylvs start|stop|restart|reload|status\n")
    lab.sh(
        "director1", "mkdir -p /etc/keepalived; echo 'global_defs { router_id lab }' >/etc/keepalived/keepalived.conf"
    )
    assert service("keepalived start") == service("keepalived start") == (0, "")
    assert service("keepalived status") == (0, "keepalived is running\n")
    assert service("pylvs status") == (0, "pylvs is running\n")
    assert service("keepalived reload") == (0, "")
    assert service("keepalived stop") == (0, "")
    assert service("keepalived status") == (3, "keepalived is stopped\n")


def test_a_peer_that_is_not_installed_is_named(lab_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda tool, path=None: None if tool == "keepalived" else found(tool, path=path)
    )
    with pytest.raises(Unsupported, match=r"^a lab needs keepalived \(package keepalived\); install it$"):
        build(lab_name, design("ha", 1, 4, {"peer": "keepalived"}))
