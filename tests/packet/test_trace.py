"""A session of `pylvs trace` records the way of real frames through the loaded programs, and changes nothing of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.bpf import abi, kernel
from pylvs.bpf.maps import ArrayMap
from pylvs.dataplane import load
from pylvs.dataplane.state import ON_DEMAND
from pylvs.dataplane.upgrade import upgrade
from pylvs.model.errors import Busy, InvalidOperation, OutOfRange
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Tunnel,
    TunnelKind,
    VirtualService,
)
from pylvs.trace import variants
from pylvs.trace.filters import compile_filter
from pylvs.trace.packet import TracedPacket
from pylvs.trace.session import Session, TraceEnded, open_session, packet_of
from tests import trace_once
from tests.packet.frames import CLIENT4, CLIENT6, tcp, udp
from tests.packet.fuzz.run import FRAMES, Result, _run_examples
from tests.packet.fuzz.twin import new_twin
from tests.packet.host import (
    DROPPED,
    HOOKS,
    OWN4,
    PASSED,
    SENT,
    TC_DROP,
    TC_PASS,
    TC_REDIRECT,
    VIP4,
    VIP6,
    XDP_PASS,
    Host,
    new_host,
    server4,
    server6,
)
from tests.packet.runner import Runner
from tests.packet.test_fragments import fragments
from tests.packet.test_hash_fallback import CAPACITY, fill
from tests.waiting import until

EXAMPLES, SEED = 20, 20261120  # of random frames
WAIT_S = 30.0  # until a record must have come
FRAMES_OF_TESTS = compile_filter("not ether multicast")  # the kernel of a host sends multicasts of IPv6 by itself
FAR = "10.77.0.60"  # on the link, without a neighbour entry
VERDICTS: dict[str, dict[str, tuple[int, ...]]] = {
    "forwarded": SENT,
    "passed": {hook: (PASSED[hook],) for hook in HOOKS},
    "to_tc": {"xdp": (XDP_PASS,)},
}
VERDICTS |= {name: {hook: (DROPPED[hook],) for hook in HOOKS} for name in ("dropped", "held")}


@pytest.fixture(scope="module")
def session(shared: Host) -> Iterator[Session]:
    for hook in (*HOOKS, "tc_egress"):
        shared.program(hook)
    with open_session(FRAMES_OF_TESTS, rate=1_000_000, snap=256) as made:
        yield made


def traced(host: Host, session: Session, frame: bytes, hook: str = "xdp") -> TracedPacket:
    """Run a frame, and return its record, compared with what happened."""
    while session.read() is not None:
        pass
    done = host.run(frame, hook)
    while (packet := session.read(WAIT_S)) is not None and packet.before != frame[:256]:
        pass  # what the namespace sends by itself
    assert packet is not None, f"no record of a frame at {hook} with verdict {done.verdict}"
    assert (packet.hook, packet.device, packet.length, packet.before) == (hook, "d0", len(frame), frame[:256])
    if hook in HOOKS and packet.verdict != "rejected":
        assert done.verdict in VERDICTS[packet.verdict][hook], packet
    if packet.verdict == "forwarded" and hook in HOOKS:
        assert (packet.sent_length, packet.after[12:]) == (len(done.data), done.data[12:256])
        assert packet.output == "d0"
    return packet


def serve(
    host: Host,
    method: Method = Method.ROUTE,
    protocol: Protocol = Protocol.TCP,
    scheduler: str = "rr",
    vip: str = VIP4,
    flags: ServiceFlag = ServiceFlag(0),
    servers: int = 1,
    tunnel: Tunnel = Tunnel(),
) -> ServiceKey:
    service = host.new_key(protocol, vip)
    host.director.add_service(VirtualService(service, scheduler, flags, 300 if flags & ServiceFlag.PERSISTENT else 0))
    for number in range(1, servers + 1):
        address = ip_address(server4(number) if ":" not in vip else server6(number))
        host.director.add_destination(
            service, Destination(DestinationKey(address, service.port), method, tunnel=tunnel)
        )
    return service


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    ("method", "tunnel", "name"),
    [
        (Method.ROUTE, Tunnel(), "direct"),
        (Method.MASQ, Tunnel(), "nat"),
        (Method.TUNNEL, Tunnel(), "tunnel"),
        (Method.TUNNEL, Tunnel(TunnelKind.GRE), "tunnel"),
    ],
)
@pytest.mark.parametrize(("client", "vip"), [(CLIENT4, VIP4), (CLIENT6, VIP6)])
def test_a_connection_is_traced_from_its_first_packet_on(
    director_host: Host, session: Session, hook: str, method: Method, tunnel: Tunnel, name: str, client: str, vip: str
) -> None:
    service = serve(director_host, method, vip=vip, tunnel=tunnel)
    server = server4(1) if vip == VIP4 else server6(1)
    ends = {"sport": 4000, "dport": service.port, "source": client, "target": vip}
    first = traced(director_host, session, tcp("S", **ends), hook)
    text = f"{server}:{service.port}" if vip == VIP4 else f"[{server}]:{service.port}"
    assert (first.verdict, first.service, first.server, first.method) == ("forwarded", str(service), text, name)
    assert (first.choice, first.scheduler, first.load, first.candidates) == ("scheduler", "rr", None, 1)
    assert (first.state, first.created) == ("SYN_RECV", True)
    assert first.after[:6] != first.before[:6]
    then = traced(director_host, session, tcp("A", **ends), hook)
    assert (then.verdict, then.service, then.server, then.method) == ("forwarded", str(service), text, name)
    assert (then.choice, then.scheduler, then.state, then.created) == (
        "existing_connection",
        None,
        "ESTABLISHED",
        False,
    )


@pytest.mark.parametrize("hook", HOOKS)
def test_a_reply_of_nat_is_traced_with_what_was_translated(director_host: Host, session: Session, hook: str) -> None:
    service = serve(director_host, Method.MASQ)
    traced(director_host, session, tcp("S", sport=4000, dport=service.port), hook)
    reply = tcp("SA", sport=service.port, dport=4000, source=server4(1), target=CLIENT4)
    packet = traced(director_host, session, reply, hook)
    assert (packet.verdict, packet.choice, packet.service) == ("forwarded", "reply", str(service))
    assert (packet.server, packet.method, packet.state) == (f"{server4(1)}:{service.port}", "nat", "SYN_RECV")
    assert packet.after[26:30] == ip_address(VIP4).packed


def test_a_reply_of_this_host_leaves_by_its_device(director_host: Host, session: Session) -> None:
    service = director_host.new_key()
    director_host.director.add_service(VirtualService(service, "rr"))
    server = Destination(DestinationKey(ip_address(OWN4), service.port), Method.MASQ)
    director_host.director.add_destination(service, server)
    first = traced(director_host, session, tcp("S", sport=4000, dport=service.port), "tc")
    assert (first.verdict, first.reason, first.after[30:34]) == ("passed", "server_local", ip_address(OWN4).packed)
    reply = tcp("SA", sport=service.port, dport=4000, source=OWN4, target=CLIENT4)
    packet = traced(director_host, session, reply, "tc_egress")
    assert (packet.verdict, packet.choice, packet.output) == ("forwarded", "reply", "d0")
    assert packet.after[26:30] == ip_address(VIP4).packed
    assert packet.reason is None
    packet = traced(director_host, session, tcp("SA", sport=1, dport=4000, source=OWN4, target=CLIENT4), "tc_egress")
    assert (packet.verdict, packet.reason) == ("passed", "no_reply_flow")


def test_xdp_records_a_reply_that_a_router_would_not_forward(director_host: Host, session: Session) -> None:
    service = serve(director_host)
    traced(director_host, session, tcp("S", sport=4000, dport=service.port))
    reply = tcp("SA", sport=service.port, dport=4000, source=VIP4, target=CLIENT4, ttl=1)
    packet = traced(director_host, session, reply)
    assert (packet.verdict, packet.reason) == ("passed", "reply_unsent")


@pytest.mark.parametrize("length", [16, 60])
def test_xdp_leaves_a_frame_with_a_tag_to_its_device(director_host: Host, session: Session, length: int) -> None:
    frame = tcp("S")
    tagged = (frame[:12] + b"\x81\x00\x00\x07" + frame[12:])[:length].ljust(length, b"\0")
    packet = traced(director_host, session, tagged)
    assert (packet.verdict, packet.reason) == ("passed", "tagged")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    ("scheduler", "loads"),
    [("wlc", (0, 256)), ("lc", (0, 256)), ("sed", (1, 2)), ("nq", (1, 2)), ("ovf", (0, 0)), ("rr", (None, None))],
)
def test_a_record_has_the_lowest_load_of_the_comparison(
    director_host: Host, session: Session, hook: str, scheduler: str, loads: tuple[int | None, ...]
) -> None:
    """Of two servers with three connections, the scheduler chooses that with one for the next one."""
    service = serve(director_host, scheduler=scheduler, servers=2)
    packets = []
    for sport in range(4000, 4004):
        packets.append(traced(director_host, session, tcp("S", sport=sport, dport=service.port), hook))
        assert packets[-1].scheduler == scheduler
        assert packets[-1].candidates == 2
        traced(director_host, session, tcp("A", sport=sport, dport=service.port), hook)
    assert packets[0].load == loads[0]
    if scheduler != "ovf":
        assert packets[3].load == loads[1]
    director_host.director.add_destination(
        service, Destination(DestinationKey(ip_address(server4(3)), service.port), Method.ROUTE, 0)
    )
    more = traced(director_host, session, tcp("S", sport=5000, dport=service.port), hook)
    assert more.candidates == 2  # the third one has weight 0


@pytest.mark.parametrize("hook", HOOKS)
def test_a_record_names_the_template(director_host: Host, session: Session, hook: str) -> None:
    service = serve(director_host, flags=ServiceFlag.PERSISTENT, servers=2)
    first, second = (
        traced(director_host, session, tcp("S", sport=sport, dport=service.port), hook) for sport in (4000, 4001)
    )
    assert (first.choice, second.choice) == ("scheduler", "template")
    assert first.server == second.server


@pytest.mark.parametrize("hook", HOOKS)
def test_a_packet_of_no_service_passes_unmodified(director_host: Host, session: Session, hook: str) -> None:
    serve(director_host)
    packet = traced(director_host, session, tcp("S", sport=4000, dport=9), hook)
    assert (packet.verdict, packet.service, packet.server, packet.choice) == ("passed", None, None, None)
    assert (packet.after, packet.output, packet.reason, packet.state) == (b"", None, "no_service", None)


def test_xdp_passes_a_packet_that_it_cannot_send_to_tc(director_host: Host, session: Session) -> None:
    service = director_host.new_key()
    director_host.director.add_service(VirtualService(service, "rr"))
    director_host.director.add_destination(
        service, Destination(DestinationKey(ip_address(FAR), service.port), Method.ROUTE)
    )
    frame = tcp("S", sport=4000, dport=service.port)
    at_xdp, at_tc = traced(director_host, session, frame), traced(director_host, session, frame, "tc")
    assert (at_xdp.verdict, at_xdp.server, at_xdp.created) == ("to_tc", f"{FAR}:{service.port}", True)
    assert (at_tc.verdict, at_tc.server, at_tc.choice) == ("forwarded", at_xdp.server, "existing_connection")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_record_of_a_drop_has_its_reason(director_host: Host, session: Session, hook: str) -> None:
    service = serve(director_host)
    frame = tcp("S", sport=4000, dport=service.port)
    traced(director_host, session, frame, hook)
    director_host.director.delete_destination(service, DestinationKey(ip_address(server4(1)), service.port))
    packet = traced(director_host, session, tcp("A", sport=4000, dport=service.port), hook)
    assert (packet.verdict, packet.reason, packet.after) == ("dropped", "unavailable", b"")


def test_a_record_of_an_icmp_error_has_its_reason(director_host: Host, session: Session) -> None:
    service = serve(director_host)
    late = traced(director_host, session, tcp("S", sport=4000, dport=service.port, ttl=1), "tc")
    assert (late.verdict, late.reason, late.output) == ("rejected", "ttl", "d0")
    assert late.after[34:35] == b"\x0b"  # time exceeded
    director_host.director.delete_destination(service, DestinationKey(ip_address(server4(1)), service.port))
    none = traced(director_host, session, tcp("S", sport=4001, dport=service.port), "tc")
    assert (none.verdict, none.reason, none.service) == ("rejected", "no_destination", str(service))


def test_a_traced_error_takes_from_the_limits_of_all(director_host: Host, session: Session) -> None:
    """Else a session would double what one receiver gets."""
    service = serve(director_host)
    with ArrayMap.open(director_host.director.tables.path("peer_windows")) as windows:

        def counted() -> list[bytes | None]:
            return [windows.get(at) for at in range(windows.max_entries)]

        before = counted()
        late = traced(director_host, session, tcp("S", sport=4000, dport=service.port, ttl=1), "tc")
        assert late.verdict == "rejected"
        assert counted() != before


def test_fragments_are_held_until_the_last_one_is_forwarded(director_host: Host, session: Session) -> None:
    service = serve(director_host, protocol=Protocol.UDP)
    first, last = fragments(4, 4000, 96, 64, service.port)
    held = traced(director_host, session, first, "tc")
    assert (held.verdict, held.reason) == ("held", "fragment_queued")
    assert director_host.run(last, "tc").verdict == TC_REDIRECT
    while (packet := session.read(WAIT_S)) is not None and packet.before != last:
        pass
    assert packet is not None
    assert (packet.verdict, packet.reason, packet.choice) == ("forwarded", "fragmented", "scheduler")


def test_a_record_names_the_hash_fallback_of_a_full_table() -> None:
    with new_host(connections=CAPACITY, expires=False, recycled=True) as host:
        service = serve(host, servers=3)
        fill(host)
        host.program("xdp")
        with open_session(FRAMES_OF_TESTS) as session:
            frame = tcp("S", sport=4000, dport=service.port)
            first = traced(host, session, frame)
            assert (first.verdict, first.choice, first.reason) == ("forwarded", "hash_fallback", "table_full_stateless")
            assert (first.state, first.created) == (None, False)
            again = traced(host, session, frame)
            assert (again.choice in ("stateless", "hash_fallback"), again.server) == (True, first.server)


def test_a_frame_from_the_wire_is_traced_once(director_host: Host, session: Session) -> None:
    service = serve(director_host)
    frame = tcp("S", sport=4000, dport=service.port).ljust(60, b"\0")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("d1", 0))
        wire.send(frame)
    while (packet := session.read(WAIT_S)) is not None and packet.service is None:
        pass  # what the namespace sends by itself
    assert packet is not None
    assert (packet.hook, packet.verdict, packet.before, packet.server) == (
        "xdp",
        "forwarded",
        frame,
        f"{server4(1)}:{service.port}",
    )


@pytest.mark.parametrize("hook", HOOKS)
def test_other_packets_than_those_of_the_filter_take_their_usual_way(hook: str) -> None:
    with new_host(expires=False, recycled=True) as host:
        service = serve(host)
        frames = [tcp(flags, sport=4000, dport=service.port) for flags in ("S", "A", "A")]
        host.program("xdp")
        with open_session(compile_filter("udp port 53")) as session:
            sent = [host.forwarded(frame, hook) for frame in frames]
            assert session.read() is None
            assert session.counts().matched == 0
            assert host.run(udp(sport=4000, dport=53), hook).verdict == PASSED[hook]
            packet = session.read(WAIT_S)
            assert packet is not None
            assert packet.verdict == "passed"
        assert [host.forwarded(frame, hook) for frame in frames] == sent
        assert host.reason("MISSED_TAIL_CALL") == 0


def test_the_rate_limit_and_samples_are_counted() -> None:
    with new_host(expires=False, recycled=True) as host:
        service = serve(host)
        host.program("xdp")
        frame = tcp("S", sport=4000, dport=service.port)
        sent = host.forwarded(frame)
        with open_session(FRAMES_OF_TESTS, rate=8, snap=60) as session:
            for _ in range(200):
                assert host.forwarded(frame) == sent
            counts = session.counts()
            assert (counts.matched, counts.lost) == (200, 0)
            assert counts.limited + counts.recorded == 200
            assert counts.recorded >= 1
            packet = session.read(WAIT_S)
            assert packet is not None
            assert len(packet.before) == 54
        with open_session(FRAMES_OF_TESTS, sample=1 << 30) as session:
            for _ in range(50):
                assert host.forwarded(frame) == sent
            counts = session.counts()
            assert (counts.matched, counts.limited) == (50, 0)
            assert counts.recorded <= 1  # by one chance in twenty million


def test_a_full_ring_loses_records_and_no_packets() -> None:
    with new_host(expires=False, recycled=True) as host:
        service = serve(host)
        host.program("xdp")
        frame = tcp("S", sport=4000, dport=service.port)
        with open_session(FRAMES_OF_TESTS, rate=1000) as session:
            while not session.counts().lost:
                host.forwarded(frame)
                session._renew()
            counts = session.counts()
            assert counts.recorded + counts.lost + counts.limited == counts.matched
            assert session.read(WAIT_S) is not None


def test_a_session_is_the_only_one() -> None:
    with new_host(expires=False, recycled=True) as host:
        serve(host)
        host.program("xdp")
        found = rf"another trace is running \(process {os.getpid()}\)"
        with open_session():
            with pytest.raises(Busy, match=found), open_session():
                pass
            with mock.patch.object(variants, "refuse_another"), pytest.raises(Busy, match=found), open_session():
                pass  # it came between the first test and the lock


def test_a_session_needs_tables_and_valid_numbers() -> None:
    with new_host(recycled=True) as host:
        with pytest.raises(OutOfRange, match=r"snap: 257 is out of range 1\.\.256"), open_session(snap=257):
            pass
        with pytest.raises(OutOfRange, match=r"sample: 0 is out of range"), open_session(sample=0):
            pass
        host.director.state.remove()
        with pytest.raises(InvalidOperation, match=r"nothing to trace: .*ipvsadm -A"), open_session():
            pass


KILLED = """
import os, signal, sys
from pylvs.trace.session import open_session
with open_session() as session:
    print("open", flush=True)
    sys.stdin.read()
"""


def tracers(host: Host) -> list[int]:
    """Return the programs by which the entry program of XDP calls a session."""
    numbers = kernel.program_info(host.program("xdp")).map_ids
    for number in numbers:
        with ArrayMap(kernel.map_by_id(number)) as array:
            if array.name == "tracers_xdp":
                return [int.from_bytes(array.get(at) or b"", "little") for at in range(array.max_entries)]
    raise AssertionError("the entry program has no way to a session")


def test_a_killed_session_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with new_host(expires=False) as host:
        service = serve(host)
        frame = tcp("S", sport=4000, dport=service.port)
        sent = host.forwarded(frame)
        with subprocess.Popen(
            [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as tracer:
            assert tracer.stdout is not None
            assert tracer.stdout.readline() == "open\n"
            root = host.director.tables.root
            assert root.get(0, "trace")
            assert tracers(host)[0]
            assert host.forwarded(frame) == sent
            tracer.send_signal(signal.SIGKILL)
        until(lambda: not any(tracers(host)), "the kernel has emptied the array of the session")
        assert root.get(0, "trace")  # no process has renewed or reset it
        assert host.forwarded(frame) == sent
        root.publish(0, "trace", 1)  # long ago
        host.expiry.run(host.director)
        assert not root.get(0, "trace")
        assert host.reason("MISSED_TAIL_CALL") == 0


def test_a_session_that_hangs_is_turned_off_and_continues_later() -> None:
    with new_host(expires=False) as host:
        service = serve(host)
        frame = tcp("S", sport=4000, dport=service.port)
        root = host.director.tables.root
        with open_session(FRAMES_OF_TESTS) as session:
            host.expiry.run(host.director)
            assert root.get(0, "trace")
            root.publish(0, "trace", 1)  # as if the lease had ended
            host.expiry.run(host.director)
            assert not root.get(0, "trace")
            host.forwarded(frame)
            assert session.counts().matched == 0
            session._renewed = 0.5  # a second ago, and longer
            assert session.read() is None
            assert session.counts().pauses == 1
            assert traced(host, session, frame).verdict == "forwarded"
        assert not root.get(0, "trace")


@pytest.mark.parametrize("change", ["swap", "resize", "entry", "down"])
def test_a_session_ends_when_the_programs_are_replaced(change: str) -> None:
    with new_host(expires=False, mode="tc" if change == "entry" else "generic") as host:
        service = serve(host)
        frame = tcp("S", sport=4000, dport=service.port)
        with open_session(FRAMES_OF_TESTS) as session:
            if change == "swap":
                with host.director.batch():
                    upgrade.swap_programs(host.director.tables)
            elif change == "resize":
                host.director.change_setting("conn_max", 8192)
            elif change == "entry":
                host.program("xdp")
            else:
                host.director.state.remove()
            session._renewed = 0.5
            why = r"the tables .* removed" if change == "down" else "run pylvs trace again"
            with pytest.raises(TraceEnded, match=why):
                session.read(WAIT_S)
            if change in ("swap", "resize"):
                host.close_programs()
                assert host.forwarded(frame, "tc")  # by programs that know nothing of the session
                assert session.counts().matched == 0
        if change != "down":
            assert not host.director.tables.root.get(0, "trace")


def test_each_program_of_a_director_has_a_copy() -> None:
    with new_host(expires=False, recycled=True) as host:
        for name in "xdp", "tc_egress", "tc_bare":
            host.program(name)
        with host.director.batch():
            for name in ON_DEMAND:
                load.provide(host.director.state, name)
        trace_once.play(host)


def test_programs_of_devices_have_no_maps_of_a_session() -> None:
    with new_host(expires=False, recycled=True) as host:
        numbers = kernel.program_info(host.program("xdp")).map_ids
        names = set()
        for number in numbers:
            with ArrayMap(kernel.map_by_id(number)) as array:
                names.add(array.name)
        assert "tracers_xdp" in names
        assert not names & {name[:15] for name in abi.TRACED}
        assert not [name for name in host.director.state.pins() if "trace" in name]


class TracedRunner:
    """A program that each frame enters by a session; its record must agree with what happened."""

    def __init__(self, run: Runner, hook: str, session: Session) -> None:
        self._run, self._hook, self._session = run, hook, session
        self.records: Counter[str] = Counter()

    def __call__(self, frame: bytes) -> tuple[int, bytes]:
        verdict, out = self._run(frame)
        records = [packet for packet in iter(self._session.read, None) if packet.before == frame[:256]]
        assert len(records) <= 1, "two records of one frame"
        if not records:  # TC passes frames that are not for this host without a look
            assert (self._hook, verdict) == ("tc", TC_PASS)
            return verdict, out
        packet = records[0]
        assert packet.hook == self._hook
        self.records[packet.verdict] += 1
        allowed = {"rejected": (TC_REDIRECT, TC_DROP, TC_PASS), "forwarded": (*SENT[self._hook], DROPPED["tc"])}
        expected = allowed.get(packet.verdict) or VERDICTS[packet.verdict][self._hook]
        assert verdict in expected, packet
        if packet.verdict == "forwarded" and verdict != TC_DROP:
            assert packet.after[12:] == out[12:256]
        return verdict, out


def test_random_frames_get_the_same_from_the_traced_copy_and_the_reference() -> None:
    """Verdicts, bytes, counts and connections are those of the reference, as without a session (test_fuzz.py)."""
    result = Result()
    with new_twin() as twin, open_session(FRAMES_OF_TESTS, rate=1_000_000, snap=256) as session:
        runners = TracedRunner(twin._xdp, "xdp", session), TracedRunner(twin._tc, "tc", session)
        with mock.patch.multiple(twin, _xdp=runners[0], _tc=runners[1]):
            _run_examples(twin, EXAMPLES, SEED, result)
    assert not result.difference, result.difference
    assert result.frames >= EXAMPLES * FRAMES
    seen = runners[0].records + runners[1].records
    assert {"forwarded", "passed", "dropped", "to_tc", "rejected"} <= seen.keys(), seen


@given(st.binary(max_size=1400))
def test_no_record_breaks_the_reader(data: bytes) -> None:
    size = abi.struct("trace_record").size
    packet = packet_of(data, 1)
    assert packet is None or len(data) == size
    forged = packet_of((data * (size // max(len(data), 1) + 1))[:size].ljust(size, b"\xff"), 2)
    assert forged is not None
    assert len(forged.before) <= abi.constant("TRACE_SNAP")
