"""Run random examples live in the real IPVS, and in the reference on the guest's clock; compare what leaves."""

from __future__ import annotations

import random
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from pylvs.model.addresses import endpoint
from pylvs.model.errors import PylvsError
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from pylvs.reference.packet import HEADER_BYTES, ICMP, ICMP6, checksum, parse
from pylvs.reference.path import Decision, Verdict
from pylvs.reference.tables import FTP
from tests import ledger
from tests.conformance.routes import OneRouteDirector
from tests.conformance.script import Guest, line
from tests.packet.fuzz.shrink import describe
from tests.packet.fuzz.steps import AddServer, AddService, DeleteServer, Edit, EditServer, SetStandby, Step
from tests.packet.fuzz.traffic import OWN, ROUTER, Traffic, framed, tcp
from tests.packet.fuzz.twin import comparable, the_network
from tests.packet.host import SERVERS, VIP4, VIP6, server4, server_mac

LONGEST_FRAME = 1514  # of the wire
SLACK_S = 3.0  # of timers
TIMER_S = 0.1  # how late a timer of the guest ends a connection
SERVER_MACS = frozenset(bytes.fromhex(server_mac(number).replace(":", "")) for number in range(1, SERVERS + 1))
LINK = {
    4: ip_address(VIP4).packed[:3],
    6: ip_address(VIP6).packed[:8],
}  # the prefixes of the director's link
SYN, ACK, FIN = 2, 16, 1
UNREACHABLE_HOST = (b"\x03\x01", b"\x01\x03")  # type and code of ICMP, of ICMPv6
BOOTS = 40  # limit of the search for a shorter sequence
AGAIN = 3  # how often a difference must reappear
BATCH = 100  # connections between edits

Counts = dict[tuple[str, str], tuple[int, ...]]  # weight, active, inactive
Group = tuple[bytes, ...]  # frames that are sent together: each from another client
Wired = Edit | bytes | Group


@dataclass
class Report:
    """The numbers of compared packets and scenarios, and the shortest sequences that differ."""

    scenarios: int = 0
    packets: int = 0
    differences: list[str] = field(default_factory=list)


def scripted(steps: Sequence[Wired]) -> list[list[Any]]:
    """Return the guest's steps."""
    found: list[list[Any]] = []
    for step in steps:
        if isinstance(step, bytes):
            found.append(["frame", step.hex()])
        elif isinstance(step, tuple):
            found.append(["frames", [frame.hex() for frame in step]])
        else:
            found.append(line(step))
    return found


def random_example(tables: list[Edit], seed: int, frames: int) -> list[Wired]:
    """Return tables, and traffic that fits on the wire.

    Options and what only the host's stack answers are left out. So are packets from port 0 and NAT for FTP, which
    enables netfilter's tracking (docs/differences.md).
    """
    traffic = Traffic(tables, seed, options=False)
    steps: list[Step] = [*tables, *traffic.steps(frames, edits=0.03)]
    return [
        _untracked(step)
        for step in steps
        if not isinstance(step, SetStandby) and (not isinstance(step, bytes) or _fits(step))
    ]


def _untracked(step: Edit | bytes) -> Edit | bytes:
    """Replace NAT of FTP by direct routing, with the service's port."""
    if not isinstance(step, AddServer | EditServer) or step.key.port != FTP or step.destination.method != Method.MASQ:
        return step
    key = replace(step.destination.key, port=FTP)
    return replace(step, destination=replace(step.destination, key=key, method=Method.ROUTE))


def _fits(frame: bytes) -> bool:
    packet = parse(frame)
    from_port_0 = packet is not None and packet.protocol in HEADER_BYTES and not packet.sport
    return 34 <= len(frame) <= LONGEST_FRAME and not from_port_0


def scheduler_example(scheduler: str, seed: int, connections: int) -> list[Wired]:
    """Return connections with a service of this scheduler, and edits of its servers and loads."""
    chance = random.Random(f"{scheduler} {seed}")
    key = ServiceKey(Protocol.TCP, ip_address(VIP4), 80)
    flags = ServiceFlag(0)
    if scheduler in ("sh", "mh"):
        flags = chance.choice(
            (flags, ServiceFlag.SCHED_1, ServiceFlag.SCHED_2, ServiceFlag.SCHED_1 | ServiceFlag.SCHED_2)
        )
    steps: list[Wired] = [AddService(VirtualService(key, scheduler, flags))]
    there: dict[int, Destination] = {}

    def server(number: int) -> Destination:
        weight = chance.choice((0, 1, 1, 2, 3, 4, 7, 50))
        upper = chance.choice((0, 0, 0, 40, 300))
        return Destination(DestinationKey(ip_address(server4(number)), 80), Method.ROUTE, weight, upper)

    for number in chance.sample(range(1, SERVERS + 1), chance.randint(2, SERVERS)):
        there[number] = server(number)
        steps.append(AddServer(key, there[number]))
    opened = 0
    while opened < connections:
        batch = []
        for _ in range(min(BATCH, connections - opened)):
            batch.append(_client(opened))
            opened += 1
        steps.append(tuple(_segment(client, port, SYN) for client, port in batch))
        for flag in ACK, FIN | ACK:
            some = chance.sample(batch, chance.randrange(len(batch)))
            if some:
                steps.append(tuple(_segment(client, port, flag) for client, port in some))
        steps += _edits(key, there, server, chance)
    return steps


def _edits(key: ServiceKey, there: dict[int, Destination], server: Any, chance: random.Random) -> Iterator[Edit]:
    kind = chance.random()
    absent = [number for number in range(1, SERVERS + 1) if number not in there]
    if kind < 0.3 and there:
        number = chance.choice(sorted(there))
        there[number] = server(number)
        yield EditServer(key, there[number])
    elif kind < 0.4 and len(there) > 1:
        number = chance.choice(sorted(there))
        yield DeleteServer(key, there.pop(number).key)
    elif kind < 0.5 and absent:
        number = chance.choice(absent)
        there[number] = server(number)
        yield AddServer(key, there[number])


def _client(number: int) -> tuple[bytes, int]:
    mixed = number * 2654435761 & 0xFFFFFFFF
    return bytes((198, 18, mixed >> 8 & 0xFF, 1 + (mixed & 0x7F))), 1024 + number % 60000


def _segment(client: bytes, port: int, flags: int) -> bytes:
    target = ip_address(VIP4).packed
    segment = tcp(client, target, port, 80, flags, b"", random.Random(1))
    head = bytes((0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0)) + client + target
    return framed(head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + segment)


def difference(steps: Sequence[Wired], made: dict[str, Any]) -> tuple[int, str] | None:
    """Return the first step at which guest and reference differ, and how; len(steps): the tables at the end."""
    network = the_network()
    director = OneRouteDirector(network)
    for number, (step, (at, out)) in enumerate(zip(steps, made["steps"], strict=True)):
        director.advance(max(at - director.now, 0))
        got = [bytes.fromhex(frame) for frame in out if frame != "refused"]
        if isinstance(step, tuple):
            wrong = _batch(director, step, got)
        elif isinstance(step, bytes):
            wrong = _one(director.receive(step), step, got, network.local)
        else:
            wrong = _edit(director, step, "refused" in out)
        if wrong:
            return number, f"after {at:.2f} s: {wrong}"
    director.advance(max(made["at"] - director.now, 0))
    wrong = _tables(director, made)
    return (len(steps), wrong) if wrong else None


def _edit(director: OneRouteDirector, step: Edit, refused: bool) -> str:
    try:
        step.apply(director)
    except PylvsError as error:
        return "" if refused else f"IPVS does it, the reference refuses: {error}"
    return "IPVS refuses it, the reference does it" if refused else ""


def _batch(director: OneRouteDirector, frames: Group, got: list[bytes]) -> str:
    """Compare which server got each client's frame, by link address; compare refusals by what they quote."""
    where = {}
    for frame in got:
        quoted = frame[14:34][9] == 1
        ends = (
            frame[14 + 28 + 12 : 14 + 28 + 16] + frame[14 + 28 + 20 : 14 + 28 + 22]
            if quoted
            else frame[26:30] + frame[34:36]
        )
        where[ends] = "refused" if quoted else frame[:6].hex(":")
    for number, frame in enumerate(frames):
        decision = director.receive(frame)
        expected = "no host"
        if decision.verdict is Verdict.SENT:
            sent = decision.sent[0][1]
            expected = "refused" if sent[23] == 1 else sent[:6].hex(":")
        actual = where.get(frame[26:30] + frame[34:36], "no host")
        if decision.verdict is not Verdict.STACK and actual != expected:
            return f"frame {number} of the batch went to {actual} by IPVS, expected {expected} ({decision.reason})"
    return ""


def _one(decision: Decision, frame: bytes, got: list[bytes], local: frozenset[bytes]) -> str:
    if decision.verdict is Verdict.STACK:
        ends = slice(26, 34) if frame[12:14] == b"\x08\x00" else slice(22, 54)
        half = (ends.stop - ends.start) // 2
        routed = frame[ends][half:] not in local
        astray = [out for out in got if out[:6] in SERVER_MACS and out[ends][:half] == frame[ends][:half]]
        return (
            "" if routed or not astray else f"IPVS forwards what the reference leaves to the stack ({decision.reason})"
        )
    wanted = [out for _, out in decision.sent]
    got = [_unlabelled(out, local) for out in got if not is_late(out, frame, local)]
    seen = [_routed(comparable(out, want, local), want) for out, want in zip(got, wanted, strict=False)]
    if len(got) == len(wanted) and seen == wanted:
        return ""
    if not got and all(map(_is_to_a_neighbour_not_known, wanted)):
        return ""  # the guest has no such neighbour either
    lines = [
        f"IPVS sends {len(got)} frames:",
        *(out.hex() for out in seen or got),
        f"the reference {len(wanted)} ({decision.reason}):",
    ]
    return "\n  ".join([*lines, *(out.hex() for out in wanted)])


def _routed(out: bytes, wanted: bytes) -> bytes:
    """Return whether a frame is for a neighbour that only the guest has.

    The network of the reference has only the servers.
    """
    return wanted[:6] + out[6:] if _is_to_a_neighbour_not_known(wanted) and out[12:14] == wanted[12:14] else out


def _is_to_a_neighbour_not_known(wanted: bytes) -> bool:
    """Return whether the reference routes a packet whose address is on the link."""
    six = wanted[12:14] == b"\x86\xdd"
    target, link = (wanted[38:54], LINK[6]) if six else (wanted[30:34], LINK[4])
    return wanted[:6] == ROUTER and target.startswith(link)


def is_late(out: bytes, frame: bytes, local: frozenset[bytes]) -> bool:
    """Return whether it is the stack's delayed error about an unknown neighbour.

    The stack sends it from its own address, or from the virtual one of the packet that it quotes. That is an earlier
    packet than `frame`.
    """
    if out[12:14] == b"\x08\x00":
        is_icmp, source, error, quoted, ends = out[23] == ICMP, out[26:30], out[34:36], out[42:], slice(12, 24)
    else:
        is_icmp, source, error, quoted, ends = out[20] == ICMP6, out[22:38], out[54:56], out[62:], slice(8, 44)
    about_another = error in UNREACHABLE_HOST and source in local and quoted[ends] != frame[14:][ends]
    return is_icmp and (source in OWN.values() or about_another)


def _unlabelled(out: bytes, local: frozenset[bytes]) -> bytes:
    """Remove the random flow label of ICMPv6 errors."""
    if out[12:14] == b"\x86\xdd" and out[20] == ICMP6 and out[22:38] in local:
        return out[:14] + bytes((out[14], out[15] & 0xF0, 0, 0)) + out[18:]
    return out


def _tables(director: OneRouteDirector, made: dict[str, Any]) -> str:
    most = _counts(director)
    expected = {
        (
            each.state,
            endpoint(each.client, each.client_port),
            endpoint(each.virtual, each.virtual_port),
            endpoint(each.destination, each.destination_port),
        ): each.expires_s
        for each in director.connections()
    }
    director.advance(max(made["read"] + TIMER_S - director.now, 0))
    least = _counts(director)  # the guest reads them during this time
    service, theirs = "", {}
    slack_s = SLACK_S + made["read"] - made["at"]
    for words in (row.split() for row in made["rows"]):
        if words[0] == "->":
            theirs[service, words[1]] = tuple(map(int, words[3:6]))
        else:
            service = " ".join(words[:2])
    wrong = [name for name in most.keys() | theirs.keys() if not _is_between(least, theirs, most, name)]
    if wrong:
        return f"IPVS lists {_rows(theirs, wrong)}, the reference {_rows(least, wrong)} to {_rows(most, wrong)}"
    listed = {
        (row["state"], row["client"], row["virtual"], row["dest"]): row["expire_s"] for row in made["connections"]
    }
    for row in made["connections"]:
        alone = row["state"], row["client"], row["virtual"], row["dest"]
        if alone not in expected and _is_reset_after_its_end(row, theirs):
            listed.pop(alone, None)
    different = [
        name for name in expected.keys() ^ listed.keys() if max(expected.get(name, 0), listed.get(name, 0)) > slack_s
    ]
    if different:
        one = sorted(different)[0]
        return f"{len(different)} connections differ: {one} {'in IPVS' if one in listed else 'in the reference'} alone"
    late = [name for name in expected if name in listed and abs(expected[name] - listed[name]) > slack_s]
    return f"{late[0]} ends in {listed[late[0]]} s, expected {expected[late[0]]} s" if late else ""


def _counts(director: OneRouteDirector) -> Counts:
    """Return weight, active and inactive connections of each server of each service."""
    return {
        (str(row.service.key), str(each.destination.key)): (each.destination.weight, each.active, each.inactive)
        for row in director.services()
        for each in row.destinations
    }


def _is_between(least: Counts, theirs: Counts, most: Counts, name: tuple[str, str]) -> bool:
    """Return whether a row is the reference's, with counts of some moment while connections ended."""
    if name not in theirs or name not in most:
        return False
    (weight, *low), (their_weight, *counts), (_, *high) = least[name], theirs[name], most[name]
    return weight == their_weight and all(a <= b <= c for a, b, c in zip(low, counts, high, strict=True))


def _rows(counts: Counts, names: Iterable[tuple[str, str]]) -> Counts:
    return {name: counts[name] for name in sorted(names) if name in counts}


def _is_reset_after_its_end(row: dict[str, Any], servers: Container[tuple[str, str]]) -> bool:
    """Return whether a listed connection may be one that ended after its server was deleted (docs/differences.md).

    With `expire_nodest_conn` any packet ends it; with `conn_reuse_mode`, a SYN to a closed one of a deleted service.
    IPVS lets it end a tick later. Before, the stack may reset the client. That reset is a reply of direct routing or a
    tunnel, and starts the timer of the state again: TIME_WAIT stays, other states become CLOSE.
    """
    deleted = (f"{row['proto']} {row['virtual']}", row["dest"]) not in servers
    return deleted and row["state"] in ("CLOSE", "TIME_WAIT")


def compare(guest: Guest, examples: Sequence[Sequence[Wired]], report: Report) -> list[dict[str, Any]]:
    """Play all in one guest, and shorten what differs; return the results of the guest."""
    begin = time.monotonic()
    played = guest.play([scripted(steps) for steps in examples])
    took = time.monotonic() - begin
    for number, steps in enumerate(examples):
        report.scenarios += 1
        report.packets += sum(len(step) if isinstance(step, tuple) else isinstance(step, bytes) for step in steps)
        found = difference(steps, played[number])
        # On a busy machine a frame may come after the end of its step. A real difference reappears.
        for _ in range(AGAIN):
            if found is None:
                break
            first, begin = found[1], time.monotonic()
            played[number] = guest.play([scripted(steps)])[0]  # the attempt that counts is the one to return
            found = difference(steps, played[number])
            ledger.record(f"conformance, scenario {report.scenarios}", first, took, time.monotonic() - begin)
        if found is not None:
            print(f"a difference {found[1]}\nlooking for the shortest sequence that shows it", flush=True)
            report.differences.append(_shortened(guest, list(steps), found))
    return played


def _shortened(guest: Guest, steps: list[Wired], found: tuple[int, str]) -> str:
    """Remove steps that are not needed, with many attempts in one boot."""
    kept, words = steps[: found[0] + 1], found[1]
    size = max(len(kept) // 2, 1)
    enough = guest.boots + BOOTS
    while guest.boots < enough:
        tries = [kept[:at] + kept[at + size :] for at in range(0, len(kept), size)]
        tries = [fewer for fewer in tries if fewer]
        better = None
        for fewer, made in zip(tries, guest.play([scripted(each) for each in tries]), strict=True) if tries else ():
            again = difference(fewer, made)
            if again is not None:
                better, words = fewer[: again[0] + 1], again[1]
                break
        if better is not None:
            kept = better
            size = min(size, max(len(kept) // 2, 1))
        elif size == 1:
            break
        else:
            size = max(size // 2, 1)
    flat: list[Step] = []
    for step in kept:
        flat += step if isinstance(step, tuple) else [step]
    return f"after\n{describe(flat)}\n{words}"
