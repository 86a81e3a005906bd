"""When connections are announced to other directors (IPVS-SEMANTICS 10.4), at both hooks, as the real IPVS did."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from unittest import mock

import pytest
from scapy.layers.inet import ICMP, IP

from pylvs.bpf import abi
from pylvs.bpf.maps import ArrayMap, LargeArray
from pylvs.dataplane import load
from pylvs.dataplane.sync import feed as feed_module
from pylvs.dataplane.sync.feed import SyncFeed
from pylvs.model.errors import Busy, PylvsError
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from pylvs.model.sync.connection import SyncedConnection, SyncFlag
from tests.packet.frames import CLIENT4, CLIENT6, build, chunk, ether, sctp, tcp, udp
from tests.packet.host import HOOKS, PASSED, VIP4, VIP6, Host, new_host, server4, server6
from tests.packet.test_sip import message
from tests.packet.test_sip import serve as serve_sip

FLAGS = {"S": "S", "Y": "SA", "A": "A", "P": "PA", "F": "FA", "R": "R"}
CHUNKS = {"I": 1, "E": 10, "K": 11, "D": 0, "H": 7, "B": 6}
# Of the recording sync_master: packets of a client, of its server in small letters, and what the master sent of them:
# state/flags.
TCP = {
    "S": "",
    "SA": "",
    "SAA": "1/83",
    "SAAA": "1/83",
    "SAF": "4/183",
    "SAR": "6/183",
    "SAAF": "1/83 4/183",
    "SAAFA": "1/83 4/183",
    "SAAR": "1/83 6/183",
    "SR": "",
    "SF": "5/183",
    "SAAS": "1/83",
    "SA*51": "1/83",
    "SA*52": "1/83*2",
    "SA*53": "1/83*2",
}
NAT = {
    "S": "",
    "Sy": "",
    "SyA": "",
    "SyAP": "1/0",
    "SyAPp": "1/0",
    "SyAPpF": "1/0 7/100",
    "SyAPpFf": "1/0 7/100",
    "SyAPpFfA": "1/0 7/100 5/100",
    "SyAPpf": "1/0",
    "SyAPpfF": "1/0 5/100",
    "SyAPr": "1/0",
    "SyAPR": "1/0 6/100",
}
TUNNEL = {
    "S": "",
    "SA": "",
    "SAA": "1/82",
    "SAAA": "1/82",
    "SAF": "4/182",
    "SAR": "6/182",
    "SAAF": "1/82 4/182",
    "SAAFA": "1/82 4/182",
    "SAAR": "1/82 6/182",
    "SR": "",
}
UDP = {"P": "", "PP": "", "PPP": "0/183", "PPPP": "0/183", "P*53": "0/183*2"}
SCTP = {
    "I": "",
    "IE": "",
    "IEK": "8/83",
    "IEDD": "8/83",
    "IEDDH": "8/83 10/183",
    "IEDH": "8/83 10/183",
    "IEB": "13/183",
}
_FORCED = {"SAF": "4/183", "SAR": "6/183"}
THRESHOLDS = {
    (0, 1): {
        "S": "",
        "SA": "1/83",
        "SAA": "1/83*2",
        "SAAA": "1/83*3",
        "SAF": "1/83 4/183",
        "SAR": "1/83 6/183",
        "SAAFA": "1/83*2 4/183*2",
        "SA*12": "1/83*12",
    },
    (1, 2): {"S": "", "SA": "", "SAA": "1/83", "SAAA": "1/83", "SAAFA": "1/83 4/183*2", "SA*12": "1/83*6", **_FORCED},
    (3, 0): {"S": "", "SA": "", "SAA": "1/83", "SAAA": "1/83", "SAAFA": "1/83 4/183", "SA*12": "1/83", **_FORCED},
    (0, 0): {"S": "", "SA": "", "SAA": "", "SAAA": "", "SAAFA": "4/183", "SA*12": "", **_FORCED},
    (2, 5): {"S": "", "SA": "1/83", "SAAA": "1/83", "SAF": "1/83 4/183", "SAAFA": "1/83 4/183", "SA*12": "1/83*3"},
}
TEMPLATES = {
    "S": "0/1183",
    "SA": "0/1183 1/1183",
    "SAA": "0/1183 1/1183*2",
    "SAAF": "0/1183 1/1183*3",
}
SECONDS = {
    Protocol.TCP: {1: 900, 4: 120, 5: 120, 6: 10, 7: 60},
    Protocol.UDP: {0: 300},
    Protocol.SCTP: {8: 900, 10: 61, 13: 61},
}


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(recycled=True) as made:
        yield made


@pytest.fixture
def feed(host: Host) -> Iterator[SyncFeed]:
    with SyncFeed(host.director.tables) as made:
        yield made


def letters(word: str) -> str:
    """Return "SAAA" for "SA*3"."""
    return re.sub(r"(\w)\*(\d+)", lambda found: found[1] * int(found[2]), word)


def frame(letter: str, service: ServiceKey, sport: int, server_port: int) -> bytes:
    """Return a packet of the client, or for a small letter of the first real server."""
    version = service.address.version
    client, vip, server = (CLIENT4, VIP4, server4(1)) if version == 4 else (CLIENT6, VIP6, server6(1))
    is_reply = letter.islower()
    source, target = (server, client) if is_reply else (client, vip)
    ports = (server_port, sport) if is_reply else (sport, service.port)
    if service.protocol == Protocol.UDP:
        return udp(*ports, source, target)
    if service.protocol == Protocol.SCTP:
        return sctp(chunk(CHUNKS[letter]), *ports, source, target)
    return tcp(FLAGS[letter.upper()], *ports, source, target)


def summary(announced: list[SyncedConnection]) -> str:
    """Return states and flags as the tables above have them."""
    sent: list[tuple[str, int]] = []
    for connection in announced:
        text = f"{connection.state}/{connection.flags:x}"
        if sent and sent[-1][0] == text:
            sent[-1] = text, sent[-1][1] + 1
        else:
            sent.append((text, 1))
    return " ".join(text if count == 1 else f"{text}*{count}" for text, count in sent)


def play(host: Host, feed: SyncFeed, service: ServiceKey, word: str, sport: int, hook: str, port: int = 0) -> list[str]:
    """Send the packets; return what was announced of connections and of templates."""
    for letter in letters(word):
        sent = frame(letter, service, sport, port or service.port)
        host.receive(sent) if hook == "xdp" else host.run(sent, hook)
    announced = feed.read()
    of_templates = [each for each in announced if each.flags & SyncFlag.TEMPLATE]
    others = [each for each in announced if not each.flags & SyncFlag.TEMPLATE]
    for connection in others:
        assert connection.timeout_s == SECONDS[service.protocol][connection.state]
        ends = connection.client_port, connection.virtual, connection.virtual_port
        assert ends == (sport, service.address, service.port)
        assert connection.server_port == (port or service.port)
        assert str(connection.server) in (server4(1), server6(1))
    return [summary(others), summary(of_templates)]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    ("table", "protocol", "version", "method", "port"),
    [
        (TCP, Protocol.TCP, 4, Method.ROUTE, 0),
        (NAT, Protocol.TCP, 4, Method.MASQ, 8080),
        (TUNNEL, Protocol.TCP, 6, Method.TUNNEL, 0),
        (UDP, Protocol.UDP, 4, Method.ROUTE, 0),
        (SCTP, Protocol.SCTP, 4, Method.ROUTE, 0),
    ],
    ids=["tcp", "nat", "tunnel6", "udp", "sctp"],
)
def test_connections_are_announced_as_by_ipvs(
    host: Host,
    feed: SyncFeed,
    table: dict[str, str],
    protocol: Protocol,
    version: int,
    method: Method,
    port: int,
    hook: str,
) -> None:
    service = host.new_key(protocol, VIP4 if version == 4 else VIP6)
    host.serve(service, 1, method, port=port or None)
    sent = {word: play(host, feed, service, word, 6000 + number, hook, port) for number, word in enumerate(table)}
    assert sent == {word: [wanted, ""] for word, wanted in table.items()}
    assert feed.lost == 0


def test_a_new_connection_in_the_same_slot_counts_anew(host: Host, feed: SyncFeed) -> None:
    service = host.new_key()
    host.serve(service, 1)
    for word, wanted in ("SAR", "6/183"), ("SA", ""), ("A", "1/83"), ("R", "6/183"), ("SAF", "4/183"):
        assert play(host, feed, service, word, 6000, "tc") == [wanted, ""]


@pytest.mark.parametrize(("threshold", "period"), THRESHOLDS)
def test_the_threshold_and_its_period_decide_as_in_ipvs(
    host: Host, feed: SyncFeed, threshold: int, period: int
) -> None:
    service = host.new_key()
    host.serve(service, 1)
    host.director.change_setting("sync_threshold", threshold)
    host.director.change_setting("sync_period", period)
    table = THRESHOLDS[threshold, period]
    sent = {word: play(host, feed, service, word, 6000 + number, "xdp") for number, word in enumerate(table)}
    assert sent == {word: [wanted, ""] for word, wanted in table.items()}


def persistent(host: Host, protocol: Protocol = Protocol.TCP, flags: ServiceFlag = ServiceFlag(0)) -> ServiceKey:
    """Add a persistent service of one server."""
    service = host.new_key(protocol)
    host.director.add_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT | flags, 60))
    server = DestinationKey(ip_address(server4(1)), service.port)
    host.director.add_destination(service, Destination(server, Method.MASQ))
    return service


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("mode", [0, 1])
def test_templates_are_announced_with_every_packet(host: Host, feed: SyncFeed, mode: int, hook: str) -> None:
    """With sync_persist_mode their connections are not."""
    host.director.change_setting("sync_persist_mode", mode)
    of_connections = {"S": "", "SA": "", "SAA": "1/83", "SAAF": "1/83 4/183"}
    for word, wanted in TEMPLATES.items():
        service = host.new_key()
        host.director.add_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, 60))
        server = Destination(DestinationKey(ip_address(server4(1)), service.port), Method.ROUTE)
        host.director.add_destination(service, server)
        assert play(host, feed, service, word, 6000, hook) == ["" if mode else of_connections[word], wanted]


def test_a_template_has_the_masked_client_and_the_service_s_timeout(host: Host, feed: SyncFeed) -> None:
    service = persistent(host)
    host.run(tcp("S", 6000, service.port), "tc")
    (template,) = feed.read()
    assert (str(template.client), template.client_port, template.timeout_s) == (CLIENT4, 0, 60)
    assert (template.virtual, template.virtual_port) == (service.address, service.port)
    assert (str(template.server), template.server_port, template.mark) == (server4(1), service.port, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_the_template_of_a_mark_has_the_mark_as_address(host: Host, feed: SyncFeed, version: int) -> None:
    service = ServiceKey.of_mark(7, 2 if version == 4 else 10)
    host.director.add_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, 70))
    server, vip, client = (server4(1), VIP4, CLIENT4) if version == 4 else (server6(1), VIP6, CLIENT6)
    host.director.add_destination(service, Destination(DestinationKey(ip_address(server), 0), Method.ROUTE))
    for flags in "SAA":
        host.run(tcp(flags, 6000, 80, client, vip), "tc", mark=7)
    *_, connection, template = feed.read()
    assert str(template.virtual) == ("0.0.0.7" if version == 4 else "0:7::")
    assert (template.protocol, template.virtual_port, template.server_port, template.mark) == (0, 0, 0, 7)
    assert (str(connection.virtual), connection.virtual_port, connection.mark) == (vip, 80, 7)


def test_of_one_packet_scheduling_templates_alone_are_announced(host: Host, feed: SyncFeed) -> None:
    host.director.change_setting("sync_threshold", 0)
    host.director.change_setting("sync_period", 1)
    service = persistent(host, Protocol.UDP, ServiceFlag.ONE_PACKET)
    assert play(host, feed, service, "P*3", 6000, "tc") == ["", "0/1100*3"]


def test_version_0_announces_a_template_with_its_connection_alone(host: Host, feed: SyncFeed) -> None:
    host.director.change_setting("sync_version", 0)
    service = persistent(host)
    assert play(host, feed, service, "SA", 6000, "tc") == ["", ""]
    assert play(host, feed, service, "SAA", 6001, "tc") == ["1/0", "1/1100"]


def test_the_template_of_a_call_has_its_call_id(host: Host, feed: SyncFeed) -> None:
    service = serve_sip(host)
    host.run(udp(6000, service.port, payload=message("one@here")), "tc")
    (template,) = feed.read()
    assert (template.engine, template.data, template.flags) == ("sip", b"one@here", 0x1183)
    assert (str(template.client), template.client_port, template.virtual) == (CLIENT4, 0, service.address)


def test_a_refresh_period_limits_announcements(host: Host, feed: SyncFeed) -> None:
    """Without a threshold, and with it; a change of state does not wait."""
    host.director.change_setting("sync_threshold", 3)
    host.director.change_setting("sync_period", 0)
    host.director.change_setting("sync_refresh_period", 1)
    service = host.new_key()
    host.serve(service, 1)
    assert play(host, feed, service, "SAAA", 6000, "xdp") == ["1/83", ""]
    host.wait_ticks(round(load.ticks_per_second()) + 2)
    assert play(host, feed, service, "AA", 6000, "xdp") == ["1/83", ""]
    assert play(host, feed, service, "F", 6000, "xdp") == ["4/183", ""]
    host.director.change_setting("sync_threshold", 1)
    host.director.change_setting("sync_period", 2)
    assert play(host, feed, service, "SAA", 6001, "xdp") == ["1/83", ""]
    assert play(host, feed, service, "AA", 6001, "xdp") == ["", ""]
    host.wait_ticks(round(load.ticks_per_second()) + 2)
    assert play(host, feed, service, "AAA", 6001, "xdp") == ["1/83", ""]


def test_retries_repeat_an_announcement_within_its_refresh_period(host: Host, feed: SyncFeed) -> None:
    """Each waits for an eighth of the period."""
    for name, value in {"threshold": 3, "period": 0, "refresh_period": 60, "retries": 2}.items():
        host.director.change_setting(f"sync_{name}", value)
    service = host.new_key()
    host.serve(service, 1)
    assert play(host, feed, service, "SAAA", 6000, "xdp") == ["1/83", ""]
    for wanted in "1/83", "1/83", "":
        age(host, 8)
        assert play(host, feed, service, "AA", 6000, "xdp") == [wanted, ""]


def age(host: Host, seconds: float) -> None:
    """Let the announcements of all connections be older."""
    with ArrayMap.open(host.director.tables.path("sync_counts")) as outer:
        number = int.from_bytes(outer.get(0) or b"", "little")
    ticks, codec = round(seconds * load.ticks_per_second()), abi.struct("sync_count")
    from pylvs.bpf import kernel

    with ArrayMap(kernel.map_by_id(number)) as counts:
        for slot in range(counts.max_entries):
            fields = codec.unpack_from(counts.get(slot) or b"")
            if fields["sent"]:
                end = (fields["sent"] & 0xFFFFFFFF) - ticks & 0xFFFFFFFF
                counts.put(slot, codec.pack(packets=fields["packets"], sent=fields["sent"] >> 32 << 32 | end))


def test_an_icmp_error_about_a_connection_counts(host: Host, feed: SyncFeed) -> None:
    """Except with NAT. It announces nothing."""
    service = host.new_key()
    host.serve(service, 1)
    host.run(tcp("S", 6000, service.port), "tc")
    inner = tcp("SA", service.port, 6000, VIP4, CLIENT4)[14:42]
    error = build(ether() / IP(src="198.18.0.99", dst=VIP4) / ICMP(type=3, code=1) / inner)
    host.run(error, "tc")
    assert feed.read() == []
    host.run(tcp("A", 6000, service.port), "tc")
    assert summary(feed.read()) == "1/83", "the third packet"


def test_a_template_that_the_expiry_timer_extends_is_announced() -> None:
    with new_host(expires=False) as host, SyncFeed(host.director.tables) as feed:
        service = persistent(host)
        host.run(tcp("S", 6000, service.port), "tc")
        (template,) = feed.read()
        tables = host.director.tables
        (entry,) = (each for each in feed_module._TableReader(tables, feed._words)._entries() if not each[8])
        word = entry[1] >> 32 << 32 | (load.clock(host.director.state) - 1 & 0xFFFFFFFF)
        tables.connections.store(entry[0] // 2, entry[0] % 2 * 32, word)
        ticks = tables.open_array("expiry_ticks")
        ticks.memory[:] = (load.clock(host.director.state) - 1 & 0xFFFFFFFF).to_bytes(4, "little") * (
            len(ticks.memory) // 4
        )
        host.expiry.run(host.director)
        (again,) = feed.read()
        assert (again.client, again.flags, again.timeout_s) == (template.client, template.flags, 60)


def test_nothing_is_announced_without_a_reader(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)
    with SyncFeed(host.director.tables) as first:
        assert play(host, first, service, "SAA", 6000, "xdp") == ["1/83", ""]
    assert not host.director.tables.root.get(0, "sync")
    for name in "sync_counts", "sync_rings":
        with ArrayMap.open(host.director.tables.path(name)) as outer:
            assert outer.get(0) is None, "its memory is free"
    host.run(tcp("A", 6000, service.port))
    with SyncFeed(host.director.tables) as second:
        assert play(host, second, service, "AA", 6000, "xdp") == ["", ""]
        assert play(host, second, service, "A", 6000, "xdp") == ["1/83", ""], "counts begin anew"


def test_a_killed_reader_leaves_no_lease() -> None:
    with new_host(expires=False) as host:
        feed = SyncFeed(host.director.tables)
        root, service = host.director.tables.root, host.new_key()
        host.serve(service, 1)
        host.expiry.run(host.director)
        assert root.get(0, "sync"), "the lease lasts"
        root.publish(0, "sync", os.getpid() << 32 | (load.clock(host.director.state) - 1 & 0xFFFFFFFF))
        host.expiry.run(host.director)
        assert not root.get(0, "sync")
        for flags in "SAAA":
            host.run(tcp(flags, 6000, service.port))
        assert feed.read() == []
        feed.close()


def test_one_process_announces_at_a_time(host: Host, feed: SyncFeed) -> None:
    code = (
        "from pylvs.dataplane.state import State; from pylvs.dataplane.tables import Tables;"
        "from pylvs.dataplane.sync.feed import SyncFeed; SyncFeed(Tables(State.open()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"process {os.getpid()} announces the connections of this network namespace" in done.stderr
    other = os.getppid() << 32 | (load.clock(host.director.state) + 1000 & 0xFFFFFFFF)
    host.director.tables.root.publish(0, "sync", other)
    with mock.patch.object(feed, "_renewed_s", 0.5), pytest.raises(Busy, match="announces the connections"):
        feed.read()
    feed.close()
    assert host.director.tables.root.get(0, "sync") == other
    host.director.tables.root.publish(0, "sync", 0)


def test_lost_announcements_are_counted(host: Host) -> None:
    host.director.change_setting("sync_threshold", 0)
    host.director.change_setting("sync_period", 1)
    service = host.new_key()
    host.serve(service, 1)
    with SyncFeed(host.director.tables, ring_bytes=4096) as feed:
        for flags in "S" + "A" * 100:
            host.run(tcp(flags, 6000, service.port))
        read = len(feed.read())
        assert read
        assert feed.lost == 100 - read
        assert host.reason("SYNC_LOST") == feed.lost


def test_all_connections_are_announced_on_request(host: Host, feed: SyncFeed) -> None:
    """Templates first; not those in states that are never announced."""
    service, calls, datagrams = persistent(host), serve_sip(host), host.new_key(Protocol.UDP, VIP6)
    host.serve(datagrams, 1, Method.TUNNEL)
    for word, sport in ("SA", 6000), ("S", 6001), ("SAF", 6002):
        play(host, feed, service, word, sport, "tc")
    for _ in range(2):
        host.run(udp(6003, datagrams.port, CLIENT6, VIP6))
    host.run(udp(6004, calls.port, payload=message("one@here")), "tc")
    found = [*feed.announce_all()]
    assert sorted(f"{each.client_port} {each.state}/{each.flags:x} {each.data.decode()}".strip() for each in found) == [
        "0 0/1183 one@here",
        "0 1/1100",
        "6000 1/0",
        "6002 7/100",
        "6003 0/182",
    ]
    assert [bool(each.flags & SyncFlag.TEMPLATE) for each in found] == [True] * 2 + [False] * 3
    assert {each.timeout_s for each in found} == {60, 300, 900}
    assert all(each.age_ms is not None and each.age_ms < 600_000 for each in found)
    host.director.change_setting("sync_persist_mode", 1)
    assert sorted(each.client_port for each in feed.announce_all()) == [0, 0, 6003]


def test_pages_without_connections_are_not_read(host: Host, feed: SyncFeed) -> None:
    service = host.new_key()
    host.serve(service, 1)
    play(host, feed, service, "SA", 6000, "tc")
    with mock.patch.object(LargeArray, "pages", autospec=True, side_effect=LargeArray.pages) as pages:
        assert [each.client_port for each in feed.announce_all()] == [6000]
    assert [len(call.args[1]) for call in pages.call_args_list] == [1, 1]  # for templates, and for connections


def test_a_reader_follows_to_another_table() -> None:
    with new_host() as host, SyncFeed(host.director.tables) as feed:
        service = host.new_key()
        host.serve(service, 1)
        for flags in "SAA":
            host.run(tcp(flags, 6000, service.port), "tc")
        host.director.change_setting("conn_max", 8192)
        host.close_programs()
        feed._renewed_s -= feed_module.LEASE_S
        assert summary(feed.read()) == "1/83"
        assert feed.replaced == 1
        assert [each.client_port for each in feed.announce_all()] == [6000]
        assert play(host, feed, service, "SAA", 6001, "tc") == ["1/83", ""]


def test_a_reader_ends_with_the_tables() -> None:
    with new_host() as host:
        feed = SyncFeed(host.director.tables)
        host.close_programs()
        load.take_down(host.director.state)
        feed._renewed_s -= feed_module.LEASE_S
        lost = feed._lost_before + 3
        with mock.patch.object(feed, "_counted_lost", return_value=lost):
            with pytest.raises(PylvsError, match="no tables in this network namespace"):
                feed.read()
            assert feed.lost == 3
        for _ in range(2):
            feed.close()


def test_the_whole_table_ends_with_the_tables() -> None:
    with new_host() as host, SyncFeed(host.director.tables) as feed:
        host.close_programs()
        load.take_down(host.director.state)
        with pytest.raises(PylvsError, match="no tables in this network namespace"):
            list(feed.announce_all())


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("backup_only", [0, 1])
def test_messages_of_the_sync_protocol_pass(host: Host, hook: str, backup_only: int) -> None:
    """Also where a service has their port."""
    host.director.add_service(VirtualService(ServiceKey(Protocol.UDP, ip_address("224.0.0.81"), 8848), "rr"))
    host.director.change_setting("backup_only", backup_only)
    sync = bytearray(udp(8848, 8848, target="224.0.0.81"))
    sync[:6] = bytes.fromhex("01005e000051")
    if hook == "tc":  # the kernel marks it as a multicast; BPF_PROG_TEST_RUN knows its link address
        assert host.run(bytes(sync), "tc").verdict == PASSED["tc"]
    else:
        done = host.run(bytes(sync), "xdp")
        assert (done.verdict, done.data) == (PASSED["xdp"], bytes(sync))
