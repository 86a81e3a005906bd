"""Floods of advertisements change no state, fill no log, and are not answered by a flood; most stay in the kernel.

pylvs and another router run several virtual routers: one of them is the master of each. A client sends what needs
no password, also in the name of either router. keepalived does not receive it: as a master, it advertises no
more in such a flood, and it believes an interval of zero.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vrrp import VRRP, VRRPv3
from scapy.packet import Packet

from pylvs.vrrp.flood_guard import MOST_FOREIGN, MOST_IN_SLICE, MOST_UNVERIFIED, MOST_VOID, SLICE_S, UNVERIFIED_S
from pylvs.vrrp.protocol.adverts import PROTOCOL
from tests import ledger
from tests.interop import keepalived
from tests.interop.vrrp import test_hostile as hostile
from tests.interop.vrrp.observer import AH, Captured, Observer
from tests.interop.vrrp.routers import KEEPALIVED, PYLVS, Pylvs, Router, router
from tests.interop.vrrp.segment import Segment, address, mac
from tests.interop.vrrp.test_hostile import BOTH_WORDS, HIGHEST, PASS, instances, lines, network, status, until

A_SECOND = 20_000
FEWEST = 60_000  # frames of a flood
SPOKEN = 5  # advertisements of each master that a flood lasts at least
DOWN_S = 3.6  # without an advertisement, after which a backup takes over
FLOODS_SENT = 3  # attempts to send a flood without a pause of a master
LOGGED_S = 60.0  # after which the same log line may appear again
SETTLED = 40  # log lines of pylvs that are always allowed
UNKNOWN = [f"10.66.0.{number}" for number in range(40, 60)]
SOURCES = (address("client"), address("a"), address("b"), *UNKNOWN)
SOURCES_V6 = ("fe80::66:3", "fe80::66:0:1", "fe80::66:0:2")


# Virtual routers: VRID, what else is in their configuration, an address, and pylvs's priority; the other one has 100.
PASS_BACKUP, AH_BACKUP, V3_BACKUP, V6_BACKUP, FAULT, PASS_MASTER, V3_MASTER = range(51, 58)
FAULTY = "    track_interface {\n        eth1\n    }"
ROUTERS: dict[int, tuple[str, str, int]] = {
    PASS_BACKUP: (PASS, "10.66.0.101", 90),
    AH_BACKUP: (hostile.AH, "10.66.0.102", 90),
    V3_BACKUP: ("    version 3", "10.66.0.103", 90),
    V6_BACKUP: ("    version 3", "fe80::66:104/64 dev eth0", 90),
    FAULT: (PASS, "10.66.0.105", 110),
    PASS_MASTER: (PASS, "10.66.0.106", 110),
    V3_MASTER: ("    version 3", "10.66.0.107", 110),
}
EXPECTED = dict.fromkeys((PASS_MASTER, V3_MASTER), "MASTER") | {FAULT: "FAULT"}  # of pylvs; BACKUP otherwise
FOREIGN = 99
V2, V3 = (PASS_BACKUP, FAULT, PASS_MASTER), (V3_BACKUP, V3_MASTER)


def configuration(host: str) -> str:
    """Return all instances of a host."""
    parts = []
    for vrid, (more, vip, priority) in ROUTERS.items():
        faulty = FAULTY if host == "a" and vrid == FAULT else ""
        fields = {"name": f"R{vrid}", "vrid": vrid, "vip": vip, "more": f"{more}\n{faulty}"}
        parts.append(hostile.INSTANCE % {**fields, "priority": priority if host == "a" else 100})
    return hostile.HEAD + "".join(parts)


def v2(vrid: int, **fields: Any) -> bytes:
    """Return version 2 with these fields, otherwise right."""
    first, second = BOTH_WORDS
    right = {
        "vrid": vrid,
        "priority": HIGHEST,
        "authtype": 1,
        "adv": 1,
        "addrlist": [ROUTERS.get(vrid, ROUTERS[PASS_BACKUP])[1]],
    }
    return bytes(VRRP(**{**right, "auth1": first, "auth2": second, **fields}))


def v3(vrid: int, source: str, **fields: Any) -> bytes:
    """Return version 3 with these fields, otherwise right."""
    right = {"vrid": vrid, "priority": HIGHEST, "adv": 100, "addrlist": [ROUTERS[vrid][1].partition("/")[0]]}
    packet = below(source) / VRRPv3(**{**right, **fields})  # whose checksum covers a pseudo-header
    return bytes(packet)[40 if ":" in source else 20 :]


def below(source: str, ttl: int = 255, protocol: int = PROTOCOL) -> Packet:
    """Return an IP header."""
    if ":" in source:
        return IPv6(src=source, dst="ff02::12", hlim=ttl, nh=protocol)
    return IP(src=source, dst="224.0.0.18", ttl=ttl, proto=protocol)


def frame(source: str, payload: bytes, ttl: int = 255, protocol: int = PROTOCOL) -> bytes:
    """Return a frame from the client."""
    group = "33:33:00:00:00:12" if ":" in source else "01:00:5e:00:00:12"
    return bytes(Ether(src=mac("client"), dst=group) / below(source, ttl, protocol) / payload)


def wrong_digest(source: str) -> bytes:
    """Return an advertisement with AH that is right but for its digest, with a sequence number that is next to come."""
    octets = bytes(int(each) for each in source.split("."))
    header = struct.pack("!BBH4sI12s", PROTOCOL, 4, 0, octets, 0xFFFFFFF0, b"no digest...")
    payload = v2(AH_BACKUP, authtype=2, auth1=0, auth2=0, priority=100)
    return frame(source, header + payload, protocol=AH)


def both(make: Callable[[int, str, bytes], bytes]) -> list[bytes]:
    """Return frames for each virtual router without AH, from each source; `make` changes the right payload."""
    frames_v2 = [make(vrid, source, v2(vrid)) for vrid in V2 for source in SOURCES]
    frames_v3 = [make(vrid, source, v3(vrid, source)) for vrid in V3 for source in SOURCES]
    return frames_v2 + frames_v3 + [make(V6_BACKUP, source, v3(V6_BACKUP, source)) for source in SOURCES_V6]


def of_v2(**fields: Any) -> list[bytes]:
    """Return frames of version 2 with these fields, from each source."""
    return [frame(source, v2(vrid, **fields)) for vrid in V2 for source in SOURCES]


def swapped(vrid: int, source: str) -> bytes:
    """Return an advertisement of the version that the virtual router does not have."""
    return frame(source, v3(vrid, source) if vrid in V2 else v2(vrid, authtype=0, auth1=0, auth2=0))


INVALID: dict[str, list[bytes]] = {
    "wrong checksum": both(lambda _, source, right: frame(source, right[:6] + b"\xde\xad" + right[8:])),
    "wrong TTL": both(lambda _, source, right: frame(source, right, ttl=64)),
    "another version": [swapped(vrid, source) for vrid in (*V2, *V3) for source in SOURCES],
    "not an advertisement": both(lambda _, source, right: frame(source, bytes([right[0] + 1]) + right[1:])),
    "truncated": both(lambda _, source, right: frame(source, right[:7])),
    "longer than its addresses": both(lambda _, source, right: frame(source, right + bytes(4))),
    "nothing": both(lambda _, source, right: frame(source, b"")),
    "another interval": of_v2(adv=9) + [frame(each, v3(vrid, each, adv=0)) for vrid in V3 for each in SOURCES],
    "no password": of_v2(authtype=0, auth1=0, auth2=0),
    "wrong password": of_v2(auth2=1),
    "a foreign VRID": [frame(source, v2(FOREIGN)) for source in SOURCES],
    "without AH": [frame(source, v2(AH_BACKUP)) for source in SOURCES],
    "wrong digest": [wrong_digest(source) for source in SOURCES],
}
LOWER = {"of lower priority": [frame(each, v2(vrid, priority=1)) for vrid in V2 for each in UNKNOWN]}
EVERYTHING = {"everything": [each for frames in INVALID.values() for each in frames]}
NIGHTLY = pytest.mark.nightly("the gate sends all kinds of invalid advertisements at once")
NEEDED = pytest.mark.skipif(bool(keepalived.why_not()), reason=keepalived.why_not())


@NEEDED
@pytest.mark.parametrize("other", [KEEPALIVED, PYLVS])
def test_a_flood_of_all_kinds_of_invalid_advertisements_changes_nothing(other: str, tmp_path: Path) -> None:
    flooded(other, "everything", tmp_path)


@NEEDED
def test_a_flood_of_lower_priorities_changes_nothing(tmp_path: Path) -> None:
    """They are valid, so they are believed: a master answers twice in an interval."""
    flooded(KEEPALIVED, "of lower priority", tmp_path)


@NIGHTLY
@NEEDED
@pytest.mark.parametrize(("other", "rate"), [(KEEPALIVED, 1_000), (KEEPALIVED, A_SECOND), (PYLVS, A_SECOND)])
@pytest.mark.parametrize("kind", INVALID)
def test_a_flood_of_one_kind_changes_nothing(kind: str, other: str, rate: int, tmp_path: Path) -> None:
    flooded(other, kind, tmp_path, rate)


def flooded(other: str, kind: str, folder: Path, rate: int = A_SECOND) -> None:
    """Send a flood, and check what it changes.

    If the machine makes a master pause, the backup takes over rightly, and the flood is sent again.
    """
    frames = {**INVALID, **LOWER, **EVERYTHING}[kind]
    if other == KEEPALIVED:
        frames = [bytes.fromhex(mac("a").replace(":", "")) + each[6:] for each in frames]
    for attempt in range(FLOODS_SENT):
        begin = time.monotonic()
        pause_s = pause_in_a_flood(other, frames, folder / str(attempt), rate, digests=kind == "wrong digest")
        if not pause_s:
            return
        ledger.record(f"flood: {kind}", f"a master paused for {pause_s:.2f} s", time.monotonic() - begin)
    pytest.fail(f"a master paused in each of {FLOODS_SENT} floods")


def pause_in_a_flood(other: str, frames: Sequence[bytes], folder: Path, rate: int, digests: bool) -> float:
    """Send a flood; if a master paused for so long that it lost its role, return how long."""
    with network() as (link, wire), Observer(link) as observer:
        link.ip("a", "link set eth1 down")
        beside = started(link, other, "b", folder)
        running = started(link, PYLVS, "a", folder)
        assert isinstance(running, Pylvs)
        try:
            until(running, lambda: states(running) == expected(), "every router has its state")
            until(running, lambda: not masters(observer, time.time() - DOWN_S)[1], "and is the only master")
            before, read_before, begin, start = counters(running), read(running), time.time(), time.monotonic()
            with flood(wire, frames, rate) as sent:
                until(running, lambda: spoken(observer, begin) >= SPOKEN, "the masters go on")
            seconds = time.monotonic() - start
            read_now = read(running) - read_before
            until(running, lambda: spoken(observer, begin) >= SPOKEN + 2, "the masters go on after the flood")
            found, rivals = masters(observer, begin)
            changed = {vrid: each for vrid, each in counters(running).items() if each != before[vrid]}
            print(f"{sent.total()} sent in {seconds:.1f} s, {read_now} read; {changed}; rivals: {rivals}")
            if changed or rivals:
                for vrid in {*changed, *rivals}:
                    if (pause_s := longest_pause(found[vrid], begin)) > DOWN_S:
                        return pause_s
            assert (changed, rivals) == ({}, {}), "\n".join(running.log())
            assert states(running) == expected()
            assert digests or read_now <= most_read(seconds), "the kernel drops the rest"
            assert len(observer.advertisements("a", begin, PASS_MASTER)) <= 2 * (time.time() - begin) + 2
            flaws = [flaw for each in instances(running).values() for flaw in each["counters"]["dropped"]]
            repeated = 1 + (time.monotonic() - start) // LOGGED_S
            for flaw in set(flaws):
                assert len(lines(running, f"is dropped: {flaw}")) <= repeated * len(ROUTERS), flaw
            return 0.0
        finally:
            beside.end()
            running.end()


def started(link: Segment, program: str, host: str, folder: Path) -> Router:
    """Run a program with all instances."""
    made = router(program, link, host, folder / host)
    made.configuration.write_text(configuration(host))
    made.start()
    until(made, made.listens if program == KEEPALIVED else lambda: bool(states(made)), f"{program} runs")
    return made


def states(running: Router) -> dict[int, str]:
    """Return the states of all virtual routers of pylvs."""
    assert isinstance(running, Pylvs)
    return {each["vrid"]: each["state"] for each in instances(running).values()}


def expected() -> dict[int, str]:
    """Return the states of pylvs's virtual routers."""
    return {vrid: EXPECTED.get(vrid, "BACKUP") for vrid in ROUTERS}


def counters(running: Pylvs) -> dict[int, list[int]]:
    """Return how often each virtual router entered each state."""
    names = ("became_master", "became_backup", "became_fault")
    return {each["vrid"]: [each["counters"][name] for name in names] for each in instances(running).values()}


def master_of(vrid: int) -> str:
    """Return the host that is the master of a VRID."""
    return "a" if EXPECTED.get(vrid) == "MASTER" else "b"


def masters(observer: Observer, since: float) -> tuple[dict[int, list[Captured]], dict[int, list[Captured]]]:
    """Return the advertisements of each VRID's master, and those of the other host that claim the role."""
    right: dict[int, list[Captured]] = {}
    wrong: dict[int, list[Captured]] = {}
    for vrid in ROUTERS:
        host = master_of(vrid)
        right[vrid] = observer.advertisements(host, since, vrid)
        if rivals := [each for each in observer.advertisements("ab".replace(host, ""), since, vrid) if each.priority]:
            wrong[vrid] = rivals
    return right, wrong


def spoken(observer: Observer, since: float) -> int:
    """Return how many advertisements of each VRID were sent at least."""
    return min(len(each) for each in masters(observer, since)[0].values())


def longest_pause(sent: Sequence[Captured], begin: float) -> float:
    """Return the longest time in seconds without an advertisement."""
    times = [begin, *(each.at for each in sent), time.time()]
    return max(after - before for before, after in pairwise(times))


def read(running: Pylvs) -> int:
    """Return how many advertisements the process has read so far."""
    found = status(running)
    counters = [one["counters"] for one in found["instances"]]
    known = sum(one["received"] + sum(one["dropped"].values()) for one in counters)
    return int(known + sum(one["count"] for one in found["unknown_vrids"]))


def most_read(seconds: float) -> float:
    """Return how many advertisements the process may read: of three sockets, and those of the masters.

    The kernel verifies no digest, so of AH a slice brings more.
    """
    unverified = (seconds / UNVERIFIED_S + 2) * (MOST_UNVERIFIED + MOST_FOREIGN) * 3
    lower = (seconds / SLICE_S + 2) * MOST_IN_SLICE * len(V2)
    digests = A_SECOND * seconds * len(INVALID["wrong digest"]) / len(EVERYTHING["everything"])
    return unverified + lower + min(digests, seconds / SLICE_S * MOST_VOID) + 2 * seconds * len(ROUTERS)


@contextmanager
def flood(wire: Callable[[bytes], None], frames: Sequence[bytes], rate: int) -> Iterator[Counter[str]]:
    """Send frames in turn until the block ends, but at least some, and not more than `rate` a second; count them."""
    sent: Counter[str] = Counter()
    over = threading.Event()
    fewest = FEWEST * rate // A_SECOND

    def send() -> None:
        begin, following = time.monotonic(), cycle(frames)
        while not over.is_set() or sent.total() < fewest:
            for _ in range(int((time.monotonic() - begin) * rate) - sent.total()):
                wire(next(following))
                sent["frames"] += 1
            time.sleep(0.001)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield sent
    finally:
        over.set()
        sender.join()
