"""The answers of Debian's kernels 6.1 and 6.12 about a table with connections (tests/interop/ipvs_in_guest.py)."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.ipvs import messages
from pylvs.ipvs.kernel import KernelRow
from pylvs.ipvs.listing import Line, Unreadable, ends, parse, words_of
from pylvs.ipvs.plan import (
    FTP_DATA,
    NO_SERVER,
    RETIRED,
    SIP_CALL,
    Content,
    Resolver,
    plan,
    why_left,
)
from pylvs.model.marks.words import rule_of
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    Tunnel,
    TunnelKind,
    VirtualService,
)

RECORDED = json.loads((Path(__file__).parents[2] / "golden" / "ipvs" / "tables.json").read_text())
VIP, VIP6 = ip_address("10.9.1.1"), ip_address("fd09::1")
WEB, TUNNELLED, MARK = ServiceKey(Protocol.TCP, VIP, 80), ServiceKey(Protocol.TCP, VIP, 443), ServiceKey.of_mark(7)
MARKED = [rule_of("7", dst="0.0.0.0/0")]
each_kernel = pytest.mark.parametrize("recorded", RECORDED, ids=[each["kernel"] for each in RECORDED])


def rows_of(recorded: dict[str, Any]) -> dict[ServiceKey, KernelRow]:
    found = {}
    for body in recorded["services"]:
        service = messages.parse_service(bytes.fromhex(body))
        key = service.service.key
        bodies = recorded["destinations"][str(key)]
        destinations = tuple(messages.parse_destination(bytes.fromhex(each), key.family) for each in bodies)
        found[key] = KernelRow(service, destinations)
    return found


def lines_of(recorded: dict[str, Any]) -> list[Line]:
    return list(parse(f"{line}\n".encode() for line in recorded["connections"]))


def content(recorded: dict[str, Any], **more: Any) -> Content:
    return Content(list(rows_of(recorded).values()), Timeouts(), more.pop("settings", {}), **more)


@each_kernel
def test_services_and_servers_are_those_of_ipvsadm(recorded: dict[str, Any]) -> None:
    rows = rows_of(recorded)
    assert messages.parse_timeouts(bytes.fromhex(recorded["timeouts"][0])) == Timeouts(800, 70, 60)
    assert len(rows) == 6
    web, servers = rows[WEB].wanted
    assert (web.scheduler, web.flags, web.timeout_s) == ("wrr", ServiceFlag(0), 0)
    newest, oldest = servers
    assert newest == Destination(DestinationKey(ip_address("10.9.2.2"), 80), Method.ROUTE)
    assert oldest == Destination(DestinationKey(ip_address("10.9.2.1"), 8080), Method.MASQ, 3, 100, 50)
    tunnelled, (server,) = rows[TUNNELLED].wanted
    assert (tunnelled.timeout_s, tunnelled.mask) == (600, 0xFFFFFF00)
    assert server.tunnel == Tunnel(TunnelKind.GUE, 6080)
    six, _ = rows[ServiceKey(Protocol.TCP, VIP6, 80)].wanted
    assert (six.mask, six.flags) == (64, ServiceFlag.PERSISTENT | ServiceFlag.SCHED_1 | ServiceFlag.SCHED_2)
    assert ServiceFlag.ONE_PACKET in rows[ServiceKey(Protocol.UDP, VIP, 53)].wanted[0].flags
    assert [each.weight for each in rows[MARK].wanted[1]] == [1, 0]


@each_kernel
def test_a_message_to_add_is_what_the_kernel_lists(recorded: dict[str, Any]) -> None:
    for row in rows_of(recorded).values():
        service, destinations = row.wanted
        body = messages.request(messages.NEW_SERVICE, messages.service_whole(service))
        assert messages.parse_service(body).service == service
        for server in destinations:
            body = messages.request(messages.NEW_DEST, messages.destination_whole(server))
            assert messages.parse_destination(body, service.key.family).destination == server


@each_kernel
def test_each_connection_finds_its_server_and_template(recorded: dict[str, Any]) -> None:
    resolver = Resolver([row.wanted for row in rows_of(recorded).values()])
    lines = lines_of(recorded)
    keys = {line.key for line in lines}
    assert len(lines) == 9
    for line in lines:
        found = resolver.find(line)
        assert found, line
        assert found.destination
        assert found.destination.key.address.packed == line.server
        assert why_left(line, found, knows_state=True) is None
        is_persistent = bool(found.service.flags & ServiceFlag.PERSISTENT)
        assert (found.template in keys) == (is_persistent and not line.is_template), line
    assert {resolver.find(line).service.key for line in lines if not line.protocol} == {MARK}  # type: ignore[union-attr]  # found


@each_kernel
def test_all_of_it_is_taken_over_with_a_rule_for_the_mark(recorded: dict[str, Any]) -> None:
    assert plan(content(recorded), SCHEDULERS, MARKED).problems == ()
    (problem,) = plan(content(recorded), SCHEDULERS, []).problems
    assert problem.startswith("FWM 7: pylvs has no rule that gives packets this mark")


def test_settings_and_programs_that_cannot_be_taken_over_are_named() -> None:
    settings = {"sloppy_tcp": "1", "drop_entry": "9", "conntrack": "1", "sync_threshold": "3\t50", "sync_version": "0"}
    daemon = messages.SyncDaemon(messages.MASTER, "eth0", 3)
    found = plan(
        content(RECORDED[0], settings=settings, daemons=[daemon], managers=[("keepalived", 12)]), SCHEDULERS, MARKED
    )
    assert found.settings == {"sloppy_tcp": 1, "conntrack": 1}
    assert [each.split(":")[0] for each in found.notes] == [
        "net.ipv4.vs.drop_entry=9",
        "net.ipv4.vs.sync_version = 0",
        "net.ipv4.vs.conntrack = 1",
    ]
    manager, sync = found.problems
    assert manager.startswith("keepalived, process 12, edits ip_vs")
    assert sync.startswith("ip_vs runs a master sync daemon on eth0")


def test_what_pylvs_does_not_know_is_named() -> None:
    service = messages.KernelService(VirtualService(WEB, "new"), 0x83)
    server = Destination(DestinationKey(ip_address("10.9.2.1"), 80))
    destinations = (
        messages.KernelDestination(server, 5, 0, 0, 0, 0),
        messages.KernelDestination(server, Method.TUNNEL, 9, 0, 0, 0),
    )
    problems = plan(Content([KernelRow(service, destinations)], Timeouts(), {}), SCHEDULERS, []).problems
    assert [each.split(": ", 1)[1].split(":")[0].split(";")[0] for each in problems] == [
        "no scheduler 'new'",
        "flags 0x80",
        "forwarding method 5",
        "tunnel type 9",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("IP  0A090105 0000 0A090101 FFFF 0A090201 FFFF NONE 100", RETIRED),
        ("UDP 0A090105 0000 0A090101 13E9 0A090201 0035 NONE 100 sip a@b", SIP_CALL),
        ("TCP 0A090105 0000 0A090101 0050 0A090202 0050 LISTEN 100", FTP_DATA),
        ("TCP 0A090105 1000 0A090101 0050 0A090209 0050 ESTABLISHED 100", NO_SERVER),
    ],
)
def test_a_connection_that_is_left_has_a_reason(text: str, reason: str) -> None:
    (line,) = parse([b"title\n", text.encode() + b"\n"])
    resolver = Resolver([row.wanted for row in rows_of(RECORDED[0]).values()])
    assert why_left(line, resolver.find(line), knows_state=True) == reason


@pytest.mark.parametrize(
    "text", ["", "x", "?? 0A090105 0000 0A090101 FFFF 0A090201 FFFF NONE 100", "TCP 0A 1 2 3 4 5 6"]
)
def test_a_line_of_another_form_is_refused(text: str) -> None:
    lines = [b"title\n", text.encode() + b"\n"]
    if not text:
        assert list(parse(lines)) == []
        return
    with pytest.raises(Unreadable):
        list(parse(lines))


@each_kernel
def test_the_words_of_a_connection_are_those_of_its_line(recorded: dict[str, Any]) -> None:
    texts = [line.encode() for line in recorded["connections"][1:]]
    assert [words_of(line.key) for line in lines_of(recorded)] == [ends(text) for text in texts]
