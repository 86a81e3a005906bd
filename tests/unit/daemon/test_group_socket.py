"""The socket for the members of a group: who may open it, what it refuses, and listings that are read through it."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import io
import json
import os
import stat
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pylvs.daemon.api.client import Client
from pylvs.daemon.api.group_socket import GroupSocket
from pylvs.daemon.api.routes import ROUTES
from pylvs.ipvsadm import main as ipvsadm
from pylvs.ipvsadm.commands import Session
from pylvs.ipvsadm.remote import reading_director
from pylvs.model.director import Connection, Director
from pylvs.model.errors import NotPermitted, NotReadable
from pylvs.model.rows import Counters, Rates
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    Tunnel,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)
from pylvs.system import unix_http
from pylvs.system.unix_http import UnixConnection
from tests.memory import MemoryDirector
from tests.unit.daemon.commands import during
from tests.unit.daemon.daemons import FakeHost, run, server, service, until

GROUP = grp.getgrall()[-1]  # any


@pytest.fixture
def monitors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of the sockets."""
    found = tmp_path / "pylvs" / "monitor"
    monkeypatch.setattr("pylvs.daemon.state.directory.MONITORS", found)
    monkeypatch.setattr(unix_http, "MONITORS", found)
    return found


@pytest.fixture
def host(tmp_path: Path, monitors: Path) -> FakeHost:
    found = FakeHost(tmp_path / "state")
    found.write(service(server(1), server(2)), monitor_group=GROUP.gr_name)
    return found


@contextlib.contextmanager
def without_root(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process have no access to the socket for root."""
    with monkeypatch.context() as patch:
        access = os.access
        patch.setattr(os, "access", lambda path, mode: path != host.state / "control" and access(path, mode))
        yield


def asked(path: Path, method: str, target: str) -> tuple[int, Any]:
    connection = UnixConnection(path, 60)
    with contextlib.closing(connection):
        connection.request(method, target, b"{}" if method == "POST" else None)
        response = connection.getresponse()
        text = response.read()
        is_json = (response.getheader("Content-Type") or "").startswith("application/json")
        return response.status, json.loads(text) if is_json else text


def opened(monitors: Path) -> Path:
    (found,) = monitors.iterdir()
    return found


def test_the_socket_is_for_the_group_and_ends_with_the_daemon(host: FakeHost, monitors: Path) -> None:
    async def scenario() -> None:
        before = os.umask(0o077)
        try:
            async with host.daemon():
                await until(lambda: monitors.exists() and len(list(monitors.iterdir())) == 1)
                await until(lambda: stat.S_IMODE(opened(monitors).stat().st_mode) == 0o660)
                assert opened(monitors).stat().st_gid == GROUP.gr_gid
                assert stat.S_IMODE(monitors.stat().st_mode) == 0o755
                assert stat.S_IMODE((host.state / "control").stat().st_mode) == 0o600
                assert stat.S_IMODE(host.state.stat().st_mode) == 0o700
        finally:
            os.umask(before)

    run(scenario())
    assert list(monitors.iterdir()) == []


def test_members_read_everything_and_change_nothing(host: FakeHost, monitors: Path) -> None:
    def listening() -> bool:
        return monitors.exists() and bool(list(monitors.iterdir()))

    async def scenario() -> None:
        async with host.daemon() as daemon:
            await until(listening)
            path = opened(monitors)
            await until(lambda: stat.S_IMODE(path.stat().st_mode) == 0o660)
            for route in ROUTES:
                required = "&".join(f"{name}=10.0.0.1" for name, field in route.takes.items() if field.required)
                target = f"{route.path}?{required}" if route.method == "GET" and required else route.path
                status, reply = await asyncio.to_thread(asked, path, route.method, target)
                if route.method == "GET" and route.path not in (
                    "/v1/vrrp/why",
                    "/v1/connections",
                    "/v1/show",
                    "/v1/drops",
                ):
                    assert status == 200, (route.path, reply)
                elif route.method == "POST":
                    assert (status, reply) == (
                        403,
                        {"error": f"POST {route.path}: this socket is for reading; root alone may change anything"},
                    )
            assert (await asyncio.to_thread(asked, path, "GET", "/v1/nothing"))[0] == 404
            assert daemon.engine.overrides() == {}
            assert daemon.drains.all() == ()
            assert not daemon._stopping.is_set()

    run(scenario())


def test_without_the_default_group_there_is_no_socket_and_no_problem(
    monitors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylvs.daemon.api.group_socket.MONITOR_GROUP", "no-such-group")

    async def never(_: Any) -> None:
        raise AssertionError("it serves")

    group = GroupSocket(monitors / "net1", never)
    run(group._serve_group(""))
    assert group.error == ""
    assert not monitors.exists()


def test_a_configured_group_that_does_not_exist_is_a_problem_until_a_reload(host: FakeHost, monitors: Path) -> None:
    host.write(service(server(1)), monitor_group="no-such-group")

    async def scenario() -> None:
        async with host.daemon() as daemon:
            text = "monitor_group no-such-group: there is no such group on this host"
            await until(lambda: [each.text for each in daemon.problems() if each.kind == "api"] == [text])
            host.write(service(server(1)), monitor_group=GROUP.gr_name)
            await daemon.reload()
            await until(lambda: monitors.exists() and bool(list(monitors.iterdir())))
            assert [each for each in daemon.problems() if each.kind == "api"] == []

    run(scenario())


def test_commands_of_members_read_status_and_are_refused_edits(
    host: FakeHost, monitors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(host.state)

    def read() -> Any:
        with without_root(host, monkeypatch):
            assert client._socket_for("POST") == host.state / "control"
            return client._socket_for("GET"), client.ask("GET", "/v1/status")

    ((path, (status, reply)),) = during(host, read)
    assert path.parent == monitors
    assert (status, len(reply["services"])) == (200, 1)


# --- listings ---

VIP = ip_address("192.0.2.1")
WEB = ServiceKey(Protocol.TCP, VIP, 80)
V6 = ServiceKey(Protocol.UDP, ip_address("2001:db8::1"), 53)
MARK = ServiceKey.of_mark(7)


def filled() -> MemoryDirector:
    """Return tables with all that a listing can show."""
    tables = MemoryDirector()
    flags = ServiceFlag.PERSISTENT | ServiceFlag.SCHED_1
    tables.add_service(VirtualService(WEB, "mh", flags, 300, 0xFFFFFF00))
    tables.add_service(VirtualService(V6, "rr", ServiceFlag.ONE_PACKET))
    tables.add_service(VirtualService(MARK, "wlc", ServiceFlag.PERSISTENT, 60))
    one, two = DestinationKey(ip_address("10.0.0.2"), 80), DestinationKey(ip_address("10.0.0.1"), 80)
    tables.add_destination(WEB, Destination(one, Method.MASQ, 5, 100, 50))
    gue = Tunnel(TunnelKind.GUE, 6080, TunnelFlag.CSUM)
    tables.add_destination(WEB, Destination(two, Method.TUNNEL, 0, tunnel=gue))
    tables.add_destination(V6, Destination(DestinationKey(ip_address("2001:db8::2"), 53), Method.MASQ))
    tables.add_destination(MARK, Destination(DestinationKey(one.address, 0), Method.LOCAL, 0x7FFFFFFF))
    many = Counters(1 << 40, 2, 3, (1 << 64) - 1, 5)
    tables.count(WEB, one, active=3, inactive=4, persistent=5, counters=many, rates=Rates(1, 2, 3, 4, 5))
    tables.count_service(WEB, many, Rates(9, 8, 7, 6, 5))
    tables.set_timeouts(Timeouts(901, 121, 301))
    connection = Connection(6, "ESTABLISHED", 899, ip_address("198.51.100.1"), 1024, VIP, 80, one.address, 80)
    call = Connection(17, "UDP", 1, V6.address, 0, V6.address, 53, ip_address("2001:db8::2"), 53, "sip", "a\xe9b c@d")
    tables.put_connections([connection._replace(client_port=port) for port in range(1024, 3000)] + [call])
    return tables


LISTINGS = [
    *(
        "-L",
        "-Ln",
        "-Ln --sort",
        "-Ln --nosort",
        "-Ln --stats",
        "-Ln --rate",
        "-Ln --stats --exact",
        "-Ln --thresholds",
    ),
    *("-Ln --persistent-conn", "-Lcn", "-Lc", "-Lcn --persistent-conn", "-L --timeout", "-L --daemon", "-Sn", "-S"),
    *(
        "-Ln -t 192.0.2.1:80",
        "-Ln -u [2001:db8::1]:53",
        "-Ln -f 7",
        "-Ln -t 192.0.2.1:81",
        "-Ln -t 192.0.2.1:80 --rate",
    ),
    *("-Ln --tun-info", "-Lcn --timeout"),
]


def printed(director: Director, words: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    status = Session(director, io.StringIO(), out, err).run(words).status
    return status, out.getvalue(), err.getvalue()


def test_each_listing_is_that_of_root_byte_for_byte(host: FakeHost, monitors: Path) -> None:
    host.tables = filled()
    host.write(monitor_group=GROUP.gr_name)
    listings = [each.split() for each in LISTINGS]

    def listed() -> list[tuple[list[str], Any, Any]]:
        return [(words, printed(host.tables, words), printed(reading_director(), words)) for words in listings]

    (found,) = during(host, listed)
    for words, by_root, by_member in found:
        assert by_member == by_root, words
    assert any(out.count("\n") > 1900 for _, (_, out, _), _ in found), "connections come in several pieces"


def test_a_daemon_of_another_network_namespace_is_passed_over(
    host: FakeHost, monitors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_http, "network_cookie", lambda: 4711)

    def refused() -> str:
        with pytest.raises(NotReadable) as caught:
            reading_director()
        return str(caught.value)

    assert during(host, refused) == ["needs root, or the group pylvs and a running pylvs run"]


def test_edits_are_not_permitted(host: FakeHost, monitors: Path) -> None:
    def refused() -> tuple[int, str, str]:
        director = reading_director()
        with pytest.raises(NotPermitted):
            director.flush()
        return printed(director, ["-C"])

    ((status, _, error),) = during(host, refused)
    assert (status, error) == (255, "Permission denied (you must be root)\n")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["-Ln"], "hint: needs root, or the group pylvs and a running pylvs run"),
        (["-C"], "hint: CAP_BPF is missing"),
        (["-Ln", "--nonsense"], "hint: CAP_BPF is missing"),
    ],
)
def test_a_user_without_a_daemon_gets_the_lines_of_ipvsadm_and_a_hint(
    monitors: Path, words: list[str], hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> Any:
        raise NotPermitted("CAP_BPF is missing", ["CAP_BPF"])

    monkeypatch.setattr("pylvs.dataplane.director.open_director", refused)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setattr("sys.argv", ["ipvsadm", *words])
    monkeypatch.setenv("PYLVS_HINT", "1")
    assert ipvsadm.main() == 2
    first, *_, last = capsys.readouterr().err.splitlines()
    assert (first, last) == ("Can't initialize ipvs: Permission denied (you must be root)", hint)


def test_rows_come_back_as_they_were() -> None:
    from pylvs.model.transfer import decode_connection, decode_row, encode_connection, encode_row

    tables = filled()
    rows = tables.services()
    assert [decode_row(json.loads(json.dumps(encode_row(row)))) for row in rows] == rows
    found = list(tables.connections())[-2:]
    assert [decode_connection(json.loads(json.dumps(encode_connection(each)))) for each in found] == found


def test_an_endless_response_may_pause_for_any_time(host: FakeHost) -> None:
    def followed() -> Any:
        with Client(host.state).stream("GET", "/v1/events?follow=true", endless=True) as response:
            return os.get_blocking(response.fileno())  # not with a timeout

    assert during(host, followed) == [True]
