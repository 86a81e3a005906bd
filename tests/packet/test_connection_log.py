"""`pylvs log` has a record of each connection that is made or ends, and none while nothing reads."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner
from scapy.layers.inet import IP, UDP
from scapy.utils import wrpcap

from pylvs.bpf import abi
from pylvs.cli.packets import log as command
from pylvs.cli.packets.ipfix import CREATED, DELETED, LONGEST, Exporter
from pylvs.dataplane import load
from pylvs.model.errors import Busy
from pylvs.model.service import Method, Protocol, Timeouts
from pylvs.trace import connection_log
from pylvs.trace.connection_log import ConnectionLog, Event
from tests.json_page import assert_documented
from tests.packet.frames import CLIENT4, CLIENT6, ether, tcp, udp
from tests.packet.host import HOOKS, SENT, VIP4, VIP6, Host, new_host, server4, server6
from tests.packet.table import shorten
from tests.waiting import PATIENCE_S, until

LOG_BYTES = 1 << 20  # of bpf/abi/conntrack.h


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(recycled=True) as made:
        yield made


@pytest.fixture(autouse=True)
def _the_machine_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads sends packets in between, so its lease must last for the whole test."""
    monkeypatch.setattr(connection_log, "LEASE_S", 2 * PATIENCE_S)


@pytest.fixture
def log(host: Host) -> Iterator[ConnectionLog]:
    with closing(ConnectionLog(host.director.state)) as made:
        yield made


def ends(event: Event) -> tuple[str, int, str, int, str, int]:
    return (
        *(str(event.client), event.client_port, str(event.virtual), event.virtual_port),
        *(str(event.server), event.server_port),
    )


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("method", [Method.MASQ, Method.ROUTE])
def test_a_new_connection_is_recorded_once(
    host: Host, log: ConnectionLog, hook: str, version: int, method: Method
) -> None:
    service = host.new_key(vip=VIP4 if version == 4 else VIP6)
    host.serve(service, 1, method, port=8080 if method == Method.MASQ else None)
    client, vip, server = (CLIENT4, VIP4, server4(1)) if version == 4 else (CLIENT6, VIP6, server6(1))
    for flags in "SA":
        frame = tcp(flags, dport=service.port, source=client, target=vip)
        assert host.run(frame, hook).verdict in SENT[hook]
    (event,) = log.read()
    port = 8080 if method == Method.MASQ else service.port
    assert ends(event) == (client, 4000, vip, service.port, server, port)
    assert (event.why, event.state, event.protocol) == ("", "SYN_RECV", Protocol.TCP)


def test_an_end_has_its_reason(host: Host, log: ConnectionLog) -> None:
    service, datagrams = host.new_key(), host.new_key(Protocol.UDP)
    host.serve(service, 1)
    host.serve(datagrams, 1)
    host.director.set_timeouts(Timeouts(1, 1, 1))
    for flags in "S", "A", "FA":
        host.run(tcp(flags, sport=4001, dport=service.port), "tc")
    for _ in range(2):
        host.run(udp(sport=4003, dport=datagrams.port), "tc")
    found: list[Event] = []

    def have_ended() -> bool:
        found.extend(log.read())
        return len([each for each in found if each.why]) == 2

    until(have_ended, lambda: f"{found}")
    assert {each.client_port: each.why for each in found if each.why} == {4001: "finished", 4003: "timeout"}
    assert [each.client_port for each in found if not each.why] == [4001, 4003]


def test_an_end_by_the_operator_has_its_reason(host: Host, log: ConnectionLog) -> None:
    service = host.new_key()
    keys = host.serve(service, 1)
    host.director.change_setting("expire_nodest_conn", 1)
    host.run(tcp(sport=4002, dport=service.port), "tc")
    host.director.delete_destination(service, keys[0])
    assert [each.why for each in log.read()] == ["", "server deleted"]


def test_nothing_is_recorded_while_nothing_reads(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)
    with closing(ConnectionLog(host.director.state)) as first:
        host.run(tcp(sport=1, dport=service.port), "tc")
        assert len(first.read()) == 1
    host.run(tcp(sport=2, dport=service.port), "tc")
    with closing(ConnectionLog(host.director.state)) as second:
        assert second.read() == []


def test_a_lease_ends_by_itself(host: Host, log: ConnectionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed reader leaves no cost."""
    monkeypatch.setattr(connection_log, "LEASE_S", 1.0)
    log._renew()
    service = host.new_key()
    host.serve(service, 1)
    with mock.patch.object(log, "_renew"):
        host.wait_ticks(round(connection_log.LEASE_S * load.ticks_per_second()) + 1)
        host.run(tcp(sport=1, dport=service.port), "tc")
        assert log.read() == []


def test_a_killed_reader_leaves_no_lease() -> None:
    """Another build could not take over tables in which this field is in use."""
    with new_host(expires=False) as host, closing(ConnectionLog(host.director.state)):
        root = host.director.tables.root
        host.expiry.run(host.director)
        assert root.get(0, "log"), "the lease lasts"
        root.publish(0, "log", os.getpid() << 32 | (load.clock(host.director.state) - 1 & 0xFFFFFFFF))
        host.expiry.run(host.director)
        assert not root.get(0, "log")


def test_a_reader_that_was_stopped_does_not_disturb_the_next_one(host: Host) -> None:
    other = os.getppid() << 32 | (load.clock(host.director.state) + 1000 & 0xFFFFFFFF)
    with closing(ConnectionLog(host.director.state)) as stopped:
        stopped._tables.root.publish(0, "log", other)
        stopped._renewed_s = 0.5  # long ago
        with pytest.raises(Busy, match=f"process {os.getppid()} reads the connection log"):
            stopped.read()
    root = host.director.tables.root
    assert root.get(0, "log") == other
    root.publish(0, "log", 0)


def test_records_before_an_upgrade_are_read_behind_it() -> None:
    with new_host() as host, closing(ConnectionLog(host.director.state)) as log:
        service = host.new_key()
        host.serve(service, 1)
        host.run(tcp(sport=4010, dport=service.port), "tc")
        log._inode = 0  # as if another one were pinned now
        log._renewed_s = 0.5  # long ago
        assert [each.client_port for each in log.read()] == [4010]


def test_two_readers_are_refused(host: Host, log: ConnectionLog) -> None:
    with pytest.raises(Busy, match=f"process {os.getpid()} reads the connection log"):
        ConnectionLog(host.director.state)


def test_lost_records_are_counted() -> None:
    """The buffer is full of records that no one has read. So those of later connections have no space."""
    with new_host(connections=1 << 15) as host, closing(ConnectionLog(host.director.state)) as log:
        fill_and_read(host, log)


def fill_and_read(host: Host, log: ConnectionLog) -> None:
    service = host.new_key()
    host.serve(service, 1)
    log.lost()
    capacity = LOG_BYTES // (abi.struct("conn_event").size + 8)
    for sport in range(1, capacity + 11):
        host.run(tcp(sport=sport, dport=service.port), "tc")
    assert 0 < len(log.read()) <= capacity
    assert log.lost() > 0


def event(why: str, client: str, server: str | None, port: int = 80) -> Event:
    """Return an event; `server` None: it bypasses the service."""
    virtual = VIP4 if ":" not in client else VIP6
    return Event(
        *(1_700_000_000.123, why, Protocol.TCP, ip_address(client), 4000, ip_address(virtual), port, 0),
        *(ip_address(server) if server else None, 8080 if server else 0, "masq", "ESTABLISHED"),
    )


SHAPES = [
    event(why, client, server)
    for why in ("", "timeout", "finished", "evicted", "server deleted", "replaced")
    for client, server in (
        (CLIENT4, server4(1)),
        (CLIENT4, server6(1)),
        (CLIENT6, server6(1)),
        (CLIENT6, server4(1)),
        (CLIENT4, None),
    )
]
FIELDS = (
    *("firewall_event", "flow_end_reason", "protocol", "srcaddr", "srcaddrv6", "dstaddr", "dstaddrv6", "srcport"),
    *("dstport", "post_natdestination_ipv4_address", "post_nat_destination_ipv6_address"),
    "post_naptdestination_transport_port",
)


def decoded(messages: list[bytes], tmp_path: Path) -> list[dict[str, list[str]]]:
    """Return the fields of each message as tshark reads them."""
    path = tmp_path / "ipfix.pcap"
    to_collector = ether() / IP(src="192.0.2.1", dst="192.0.2.9") / UDP(sport=4000, dport=4739)
    wrpcap(str(path), [to_collector / message for message in messages])
    fields = [word for name in FIELDS for word in ("-e", f"cflow.{name}")]
    words = [
        "tshark",
        "-n",
        "-r",
        str(path),
        "-d",
        "udp.port==4739,cflow",
        "-T",
        "fields",
        "-E",
        "separator=;",
        *fields,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    rows = [line.split(";") for line in done.stdout.splitlines()]
    return [dict(zip(FIELDS, (cell.split(",") if cell else [] for cell in row), strict=True)) for row in rows]


def test_a_collector_decodes_each_record(tmp_path: Path) -> None:
    ends_by = {"timeout": "1", "finished": "3", "evicted": "5", "server deleted": "4", "replaced": "4"}
    exporter = Exporter(7)
    messages = [message for event in SHAPES for message in exporter.messages([event], 1_700_000_001.0)]
    for event, fields in zip(SHAPES, decoded(messages, tmp_path), strict=True):
        server, port = event.server or event.virtual, event.server_port or event.virtual_port
        of_four, of_six = ("srcaddr", "dstaddr"), ("srcaddrv6", "dstaddrv6")
        own, other = (of_four, of_six) if event.client.version == 4 else (of_six, of_four)
        assert [fields[name] for name in own] == [[str(event.client)], [str(event.virtual)]]
        assert [fields[name] for name in other] == [[], []]
        name = "post_natdestination_ipv4_address" if server.version == 4 else "post_nat_destination_ipv6_address"
        assert fields[name] == [str(server)]
        assert fields["post_naptdestination_transport_port"] == [str(port)]
        assert (fields["srcport"], fields["dstport"], fields["protocol"]) == (["4000"], ["80"], ["6"])
        assert fields["firewall_event"] == [str(DELETED if event.why else CREATED)]
        assert fields["flow_end_reason"] == ([ends_by[event.why]] if event.why else [])


def test_many_records_share_messages_of_a_bounded_length(tmp_path: Path) -> None:
    exporter = Exporter(7)
    many = [event("", CLIENT4, server4(1), port) for port in range(1, 101)]
    messages = [*exporter.messages(many, 0)]
    assert 1 < len(messages) < 10
    assert max(map(len, messages)) <= LONGEST
    assert [port for fields in decoded(messages, tmp_path) for port in fields["dstport"]] == [*map(str, range(1, 101))]
    sequences = [int.from_bytes(message[8:12], "big") for message in messages]
    assert sequences == [0, *sequences[1:]]
    (last,) = exporter.messages(many[:1], 0)
    assert int.from_bytes(last[8:12], "big") == 100


def test_the_command_prints_json_lines_and_sends_to_a_collector(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)

    sports = iter((4007, 4008))

    def interrupted(reader: ConnectionLog) -> Iterator[list[Event]]:
        host.run(tcp(sport=next(sports), dport=service.port), "tc")
        yield reader.read()
        raise KeyboardInterrupt

    with mock.patch.object(command, "events", interrupted):
        printed = json.loads(CliRunner().invoke(command.log, standalone_mode=False).output)
        expected = {"client": f"{CLIENT4}:4007", "service": f"{VIP4}:{service.port}", "event": "opened", "why": None}
        assert printed | expected == printed
        assert_documented("pylvs log", printed, printed | {"server": None, "why": "timeout"})
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as collector:
            collector.bind(("127.0.0.1", 0))
            collector.settimeout(PATIENCE_S)
            CliRunner().invoke(command.log, ["--ipfix", f"127.0.0.1:{collector.getsockname()[1]}"])
            assert collector.recv(2000)[:2] == b"\0\x0a"


@pytest.mark.parametrize("error", [errno.ECONNREFUSED, errno.ENETUNREACH, errno.ENOBUFS])
def test_the_log_outlives_a_moment_without_a_way_to_the_collector(error: int) -> None:
    collector = mock.Mock(spec=socket.socket)
    collector.send.side_effect = OSError(error, os.strerror(error))
    command._send(collector, b"a message")
    collector.send.assert_called_once_with(b"a message")


@pytest.mark.parametrize("where", ["collector", "192.0.2.9:0", "192.0.2.9:x", ":", "192.0.2.9:65536"])
def test_a_wrong_collector_is_refused(host: Host, where: str) -> None:
    done = CliRunner().invoke(command.log, ["--ipfix", where])
    assert done.exit_code == 2
    assert "write HOST:PORT" in done.output


def test_an_end_that_another_cpu_records_first_comes_later(host: Host, log: ConnectionLog) -> None:
    """A connection may end on another CPU before the one that made it has written its record."""
    service = host.new_key()
    host.serve(service, 1)
    host.director.set_timeouts(Timeouts(1, 1, 1))
    for flags in "S", "A", "FA":
        host.run(tcp(flags, sport=4007, dport=service.port), "tc")
    shorten(host.director.tables, 0)
    host.expiry.run(host.director)
    opened, ended = log._ring.records()
    with mock.patch.object(log._ring, "records", side_effect=[[ended], [opened], []]):
        assert [event.why for event in log.read()] == ["", "finished"]
