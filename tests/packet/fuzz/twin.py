"""Run the same edits and frames through the loaded program and the reference, and compare the results."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from typing import NamedTuple
from unittest import mock

from pylvs.bpf.maps import HashMap
from pylvs.dataplane import load
from pylvs.dataplane.vip_roles import Standby
from pylvs.model.errors import PylvsError
from pylvs.reference.director import ReferenceDirector
from pylvs.reference.forwarding import CHECKSUM_AT, Network, NextHop
from pylvs.reference.packet import ICMP, ICMP6, UDP, checksum, ones_complement_sum, parse, pseudo_header
from pylvs.reference.path import A_FRAGMENT, SOURCE_ROUTED, Decision, Verdict
from tests.maps import clear
from tests.packet.fuzz.steps import SetStandby, Step
from tests.packet.host import (
    HOOKS,
    MAC,
    OWN4,
    OWN6,
    ROUTER4,
    ROUTER6,
    ROUTER_MAC,
    SERVERS,
    TC_DROP,
    TC_PASS,
    TC_REDIRECT,
    VIP4,
    VIP6,
    XDP_DROP,
    XDP_PASS,
    XDP_REDIRECT,
    XDP_TX,
    Host,
    count_packets,
    current_counters,
    new_host,
    server4,
    server6,
    server_mac,
)
from tests.packet.runner import Runner
from tests.packet.table import only_templates, wipe

CONNECTIONS = 1 << 16
DESTINATIONS = 1 << 15
MARGIN = 4096  # free slots at which the tables are made again
SLACK_S = 2  # of timers, besides the duration of the example
FRAGMENT = 44
OWN_PROTOCOLS = {1, 4, 41, 47}  # of IPv4 packets that the director makes, with random identifications


TUNNEL_SOURCES = {ip_address(OWN4).packed, ip_address(OWN6).packed}


class Difference(AssertionError):
    """The two had different results of a step."""


class Done(NamedTuple):
    """The result of the program: a verdict, and frames out or the frame that the stack gets."""

    verdict: Verdict
    sent: tuple[bytes, ...] = ()
    frame: bytes = b""


def _packed(address: str) -> bytes:
    return ip_address(address).packed


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def the_network() -> Network:
    """Return the test host as the reference sees it."""

    def hop(mac: str) -> NextHop:
        return NextHop("d0", _mac(mac), _mac(MAC), 1500, _packed(OWN4), _packed(OWN6))

    hops = {_packed(ROUTER4): hop(ROUTER_MAC), _packed(ROUTER6): hop(ROUTER_MAC)}
    for number in range(1, SERVERS + 1):
        hops |= dict.fromkeys((_packed(server4(number)), _packed(server6(number))), hop(server_mac(number)))
    local = frozenset(map(_packed, (OWN4, OWN6, VIP4, VIP6)))
    return Network(frozenset({_mac(MAC)}), local, hops, hop(ROUTER_MAC), hop(ROUTER_MAC))


class Twin:
    """Both directors, with empty tables."""

    def __init__(self, host: Host) -> None:
        self.host = host
        tables = host.director.tables
        tables.root.set(0, "settings.icmp_per_second", 0)
        self._names = HashMap.open(tables.path("names"))
        self._xdp, self._tc = (Runner(host.program(hook), hook, host.ifindex) for hook in HOOKS)
        self.roles = Standby()
        self._peer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._peer.bind(("d1", 0))
        self._peer.setblocking(False)
        self.network = the_network()
        self.reference = ReferenceDirector(self.network)
        self.hook = "xdp"
        self.neighbour_sent = 0
        self._began = time.monotonic()

    def close(self) -> None:
        self._peer.close()
        self.roles.close()
        self._names.close()

    @property
    def worn_out(self) -> bool:
        """Return whether the program's tables must be made again before another example."""
        tables = self.host.director.tables
        top = tables.book.get(0, "destination_top")
        return bool(self.host.pool("used") > CONNECTIONS - MARGIN or top > DESTINATIONS - MARGIN)

    @property
    def age_s(self) -> float:
        """Return the seconds since the example began."""
        return time.monotonic() - self._began

    def reset(self, hook: str) -> None:
        """Begin an example: no services, no connections, default settings."""
        director = self.host.director
        self.hook = hook
        self._began = time.monotonic()
        self.reference = ReferenceDirector(self.network)
        self.roles.set_standby(frozenset())
        director.change_setting("expire_nodest_conn", 0)
        director.flush()
        clear(self._names)
        tables = director.tables
        wipe(tables)
        tables.book.set(0, "deleted", 0xFFFFFFFF)
        director.set_timeouts(self.reference.timeouts())
        for name, value in self.reference.settings().items():
            if name != "conn_max":
                tables.root.set(0, f"settings.{name}", value)

    # --- a step ---

    def take(self, step: Step) -> None:
        """Run a step in both. Raises Difference."""
        if isinstance(step, bytes):
            self._receive(step)
            return
        refusals = []
        if isinstance(step, SetStandby):
            for each in self.roles, self.reference:
                step.apply(each)
            return
        count_packets(self.host.director.tables)  # those before an edit that starts counters at 0
        for director in self.host.director, self.reference:
            try:
                step.apply(director)
                refusals.append("")
            except PylvsError as error:
                refusals.append(type(error).__name__)
        if refusals[0] != refusals[1]:
            raise Difference(f"the program's director: {refusals[0] or 'done'}; the reference: {refusals[1] or 'done'}")

    def _receive(self, frame: bytes) -> None:
        expected = self.reference.receive(frame)
        if expected.reason == A_FRAGMENT:
            return  # other tests cover fragments
        done = self._run(frame)
        if _as_done(expected) == done:
            return
        if expected.reason == SOURCE_ROUTED and done.verdict is Verdict.DROP:
            return  # the stack would drop it, too
        if expected.verdict is not done.verdict:
            raise Difference(f"verdict {done.verdict.value}, expected {_words(expected)}")
        if done.verdict is Verdict.STACK:
            raise Difference(f"left to the stack as\n  {done.frame.hex()}\nexpected\n  {expected.frame.hex()}")
        wanted = [out for _, out in expected.sent]
        got = [self._comparable(out, frame, want) for out, want in zip(done.sent, wanted, strict=False)]
        same_but_sums = list(map(_unsummed, got)) == list(map(_unsummed, wanted))
        if got != wanted and same_but_sums and is_unfinished(frame):
            return
        if len(done.sent) != len(wanted) or got != wanted:
            raise Difference(
                "sent\n  "
                + "\n  ".join(out.hex() for out in got or done.sent)
                + f"\nexpected ({expected.reason})\n  "
                + "\n  ".join(out.hex() for out in wanted)
            )

    def _run(self, frame: bytes) -> Done:
        if self.hook == "xdp":
            verdict, out = self._xdp(frame)
            if verdict in (XDP_TX, XDP_REDIRECT):
                return Done(Verdict.SENT, (out,))
            if verdict == XDP_DROP:
                return Done(Verdict.DROP)
            if verdict != XDP_PASS or out != frame:
                raise Difference(f"XDP verdict {verdict}, frame {'kept' if out == frame else 'changed'}: {out.hex()}")
        verdict, out = self._tc(frame)
        if verdict == TC_REDIRECT:
            return Done(Verdict.SENT, (*self._pieces(), out))
        if verdict == TC_PASS:
            return Done(Verdict.STACK, frame=out)
        if verdict != TC_DROP:
            raise Difference(f"TC verdict {verdict}")
        pieces = self._pieces()
        return Done(Verdict.SENT, pieces) if pieces else Done(Verdict.DROP)

    def _pieces(self) -> tuple[bytes, ...]:
        """Return the clones that were sent, in their order on the wire."""
        pieces: list[bytes] = []
        while True:
            try:
                frame, (_, _, kind, *_) = self._peer.recvfrom(65535)
            except BlockingIOError:
                return tuple(pieces)
            if kind != socket.PACKET_OUTGOING and frame[:6] != b"\xff" * 6 and not frame[0] & 1:
                pieces.append(frame)

    def _comparable(self, out: bytes, frame: bytes, expected: bytes) -> bytes:
        """Complete a frame that left through the kernel's neighbour code, which has no link addresses yet."""
        if out[:12] == frame[:12]:
            self.neighbour_sent += 1
            out = expected[:12] + out[12:]
        return comparable(out, expected, self.network.local)

    # --- the end of an example ---

    def end_killed_templates(self) -> None:
        """Run the expiry timer without connections, which may be due on a busy machine."""
        with only_templates(self.host.director.tables):
            self.host.expiry.run(self.host.director)

    def compare_tables(self) -> None:
        """Compare counts, counters and connections. Raises Difference."""
        theirs = {row.service.key: row for row in self.host.director.services()}
        for row in self.reference.services():
            other = theirs.pop(row.service.key, None)
            if other is None or [_counted(each) for each in other.destinations] != [
                _counted(each) for each in row.destinations
            ]:
                shown = "nothing" if other is None else [str(_counted(each)) for each in other.destinations]
                wanted = [str(_counted(each)) for each in row.destinations]
                raise Difference(f"{row.service.key}: listed {shown}, expected {wanted}")
        if theirs:
            raise Difference(f"listed, but not expected: {', '.join(map(str, theirs))}")
        got = {_named(each): each.expires_s for each in self.host.director.connections()}
        wanted_rows = {_named(each): each.expires_s for each in self.reference.connections()}
        if different := got.keys() ^ wanted_rows.keys():
            one = sorted(different, key=str)[0]
            where = "the program's table alone" if one in got else "the reference alone"
            raise Difference(f"{len(different)} connections differ; in {where}: {one}")
        slack = SLACK_S + self.age_s
        for name, seconds in wanted_rows.items():
            if not seconds - slack <= got[name] <= seconds + 1:
                raise Difference(f"{name} ends in {got[name]} s, expected {seconds} s")


def comparable(out: bytes, expected: bytes, local: frozenset[bytes]) -> bytes:
    """Return the frame with the random numbers of the expected frame."""
    out = _without_entropy(out, expected)
    if out[12:14] == b"\x08\x00" and out[23] in OWN_PROTOCOLS and out[26:30] in local:
        head = out[14:18] + expected[18:20] + out[20:24] + b"\0\0" + out[26:34]
        if out[18:20] != b"\0\0" and not out[20] & 0x40:
            right = checksum(out[14:34]) == 0
            return out[:14] + head[:10] + (checksum(head).to_bytes(2, "big") if right else b"??") + out[26:]
    elif out[12:14] == b"\x86\xdd" and out[20] == FRAGMENT:
        return out[:58] + expected[58:62] + out[62:]
    return out


def is_unfinished(frame: bytes) -> bool:
    """Return whether the checksum equals the pseudo header's sum, so that the program completes it.

    The kernel knows which checksums are incomplete, a program does not. An error's own checksum covers the quotation.
    """
    packet = parse(frame)
    if packet is None or packet.protocol not in CHECKSUM_AT:
        return False
    at = packet.l4 + CHECKSUM_AT[packet.protocol]
    pseudo = pseudo_header(packet.saddr, packet.daddr, packet.protocol, packet.length - packet.l4)
    return packet.ip[at : at + 2] == ones_complement_sum(pseudo).to_bytes(2, "big")


def _unsummed(out: bytes) -> bytes:
    """Return an ICMP frame without its checksum."""
    if out[12:14] == b"\x08\x00":
        return out[:36] + out[38:] if out[23] == ICMP else out
    return out[:56] + out[58:] if out[20] == ICMP6 else out


def _without_entropy(out: bytes, expected: bytes) -> bytes:
    """Return a GUE frame with the expected source port, and its checksum if it was right."""
    six = out[12:14] == b"\x86\xdd"
    source, target = (out[22:38], out[38:54]) if six else (out[26:30], out[30:34])
    at, protocol, pieces = (54, out[20], 0) if six else (34, out[23], int.from_bytes(out[20:22], "big") & 0x3FFF)
    if protocol == FRAGMENT and six:
        at, protocol, pieces = 62, out[54], int.from_bytes(out[56:58], "big")
    if protocol != UDP or source not in TUNNEL_SOURCES:
        return out
    segment, check = out[at:], out[at + 6 : at + 8]
    if not pieces and any(check) and checksum(pseudo_header(source, target, UDP, len(segment)) + segment):
        return out
    if not six and out[18:20] != b"\0\0" and not out[20] & 0x40 and checksum(out[14:34]) == 0:
        out = out[:18] + expected[18:20] + out[20:24] + expected[24:26] + out[26:]
    if pieces & ~7 if six else pieces & 0x1FFF:
        return out
    if any(check):
        check = expected[at + 6 : at + 8]
    return out[:at] + expected[at : at + 2] + out[at + 2 : at + 6] + check + out[at + 8 :]


def _as_done(decision: Decision) -> Done:
    return Done(decision.verdict, tuple(out for _, out in decision.sent), decision.frame)


def _words(decision: Decision) -> str:
    frames = "".join(f"\n  {out.hex()}" for _, out in decision.sent)
    return f"{decision.verdict.value} ({decision.reason}){frames}"


def _counted(row: object) -> tuple[object, ...]:
    from pylvs.model.rows import DestinationRow

    assert isinstance(row, DestinationRow)
    return (str(row.destination.key), row.destination, row.active, row.inactive, row.persistent, row.counters)


def _named(connection: object) -> tuple[object, ...]:
    from pylvs.model.director import Connection

    assert isinstance(connection, Connection)
    it = connection
    return (
        it.protocol,
        it.state,
        str(it.client),
        it.client_port,
        str(it.virtual),
        it.virtual_port,
        str(it.destination),
        it.destination_port,
    )


@contextmanager
def new_twin() -> Iterator[Twin]:
    """Make a twin with a new host."""
    with (
        mock.patch.object(load, "destination_limit", return_value=DESTINATIONS),
        new_host(CONNECTIONS, expires=False) as host,
        current_counters(),
    ):
        twin = Twin(host)
        try:
            yield twin
        finally:
            twin.close()


def play(twin: Twin, hook: str, steps: Sequence[Step]) -> tuple[int, str] | None:
    """Run all steps from empty tables.

    Return None, or the step at which the two differ and how; len(steps) means the end. The reference's clock stands
    still, so no connection of the program may end by the clock. The expiry timer runs only to end templates whose last
    connection was killed.
    """
    twin.reset(hook)
    for number, step in enumerate(steps):
        try:
            twin.take(step)
        except Difference as difference:
            return number, str(difference)
    try:
        twin.compare_tables()
    except Difference:
        twin.end_killed_templates()
        try:
            twin.compare_tables()
        except Difference as difference:
            return len(steps), str(difference)
    return None
