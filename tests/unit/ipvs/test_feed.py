"""The messages by which IPVS's backup daemon takes connections."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pylvs.ipvs import feed
from pylvs.ipvs.feed import SYNCID, Feed, messages
from pylvs.model.errors import PylvsError
from pylvs.model.sync.connection import SyncedConnection, SyncFlag
from pylvs.sync.wire import parse


def connection(number: int, network: str = "198.51.100.", flags: int = 3) -> SyncedConnection:
    def at(last: int) -> object:
        return ip_address(f"{network}{last}")

    return SyncedConnection(6, at(1), 1024 + number, at(2), 80, at(3), 8080, flags, 1, 60)  # type: ignore[arg-type]


def test_each_connection_is_in_one_message_that_fits_a_link() -> None:
    sent = [connection(number) for number in range(500)] + [connection(1, "2001:db8::")]
    sent.append(connection(2, flags=SyncFlag.TEMPLATE | SyncFlag.INACTIVE))
    made = list(messages(sent))
    assert max(map(len, made)) <= 1472
    counts = Counter[str]()
    assert [each for message in made for each in parse(message, SYNCID, counts)] == sent
    assert counts == {"messages": len(made), "connections": len(sent)}


def test_without_connections_there_is_no_message() -> None:
    assert list(messages([])) == []


_TITLES = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer"
_LINE = "{0:5}: {1}:2290 00000000:0000 07 00000000:{2:08X} 00:00000000 00000000     0        0 {0} 2 0000000000000000 0"
_GROUP, _ANY = "510000E0", "00000000"
DAEMON, OTHER, SERVER = 20, 10, 11  # inodes


class Kernel:
    """The kernel whose sync daemon has a socket behind those of others, in the list of the kernel."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unread: dict[int, int] = {OTHER: 7000, SERVER: 70}
        self.listed: list[bytes] = []
        self.write()

    def write(self) -> None:
        lines = [_LINE.format(each, _ANY if each == SERVER else _GROUP, count) for each, count in self.unread.items()]
        self.path.write_text("\n".join([_TITLES, *lines, ""]))

    def start_backup(self, *_: object) -> None:
        self.unread[DAEMON] = 0
        self.write()

    def connection_lines(self) -> list[bytes]:
        return [b"Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n", *self.listed]

    def stop_backup(self, *_: object) -> None:
        del self.unread[DAEMON]
        self.write()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    made = Kernel(tmp_path / "udp")
    monkeypatch.setattr(feed, "_SOCKETS", str(made.path))
    monkeypatch.setattr(feed, "_PATIENCE_S", 0.0)
    return made


def opened(kernel: Kernel, sent: list[bytes]) -> Feed:
    made = Feed(kernel)  # type: ignore[arg-type]  # a stand-in
    made._socket.close()
    end: Any = SimpleNamespace(sendto=lambda data, _: sent.append(data), close=lambda: None)
    made._socket = end
    return made


def test_other_sockets_of_the_port_are_not_those_of_the_daemon(kernel: Kernel) -> None:
    """Such a daemon of pylvs, on another device, has the same address; a server may have the port alone."""
    sent = list[bytes]()
    with opened(kernel, sent) as made:
        made.send([connection(1)])
    assert len(sent) == 1


def test_it_waits_until_the_daemon_has_read(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.unread = {OTHER: 0}
    kernel.write()
    with opened(kernel, []) as made:
        kernel.unread[DAEMON] = 1472
        kernel.write()
        with pytest.raises(PylvsError, match="does not read what it is sent"):
            made.send([connection(1)])
        monkeypatch.setattr(feed, "_PATIENCE_S", 60.0)
        pauses = list[float]()

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            kernel.unread[DAEMON] = 0
            kernel.write()

        monkeypatch.setattr("pylvs.ipvs.feed.time.sleep", pause)
        made.send([connection(2)])
        assert len(pauses) == 1


def test_the_end_of_the_daemon_is_an_error(kernel: Kernel) -> None:
    with opened(kernel, []) as made:
        del kernel.unread[DAEMON]
        kernel.write()
        with pytest.raises(PylvsError, match="its sync daemon has ended"):
            made.send([connection(1)])
        kernel.start_backup()


def test_connections_that_the_kernel_does_not_list_are_sent_again(kernel: Kernel) -> None:
    """But those that are about to expire."""
    here, six, lost = connection(0), connection(1, "2001:db8::"), connection(2)
    kernel.listed = [
        b"TCP C6336401 0400 C6336402 0050 C6336403 1F90 ESTABLISHED     899\n",
        b"TCP 2001:0db8:0000:0000:0000:0000:0000:0001 0401 2001:0db8:0000:0000:0000:0000:0000:0002 0050 REST\n",
    ]
    sent = list[bytes]()
    with opened(kernel, sent) as made:
        assert made.missing([here, six, lost, replace(connection(3), timeout_s=1)]) == [lost]
        assert [each for data in sent for each in parse(data, SYNCID, Counter())] == [lost]
        assert made.missing([here, six]) == []
