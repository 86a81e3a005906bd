"""Malformed and foreign packets are dropped by reason, counted, logged at most once, and cause no transition."""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vrrp import VRRP, VRRPv3
from scapy.packet import Packet

from pylvs.model.errors import PylvsError
from pylvs.system.namespaces import inside_network
from pylvs.vrrp.client import Client
from tests.interop import keepalived
from tests.interop.vrrp.observer import Captured, Observer
from tests.interop.vrrp.routers import KEEPALIVED, PATIENCE_S, PYLVS, Pylvs, Router, router
from tests.interop.vrrp.segment import Segment, address, mac, segment

HEAD = "global_defs {\n    router_id hostile\n}\n"
INSTANCE = """\
vrrp_instance %(name)s {
    state BACKUP
    interface eth0
    virtual_router_id %(vrid)d
    priority %(priority)d
    advert_int 1
%(more)s
    virtual_ipaddress {
        %(vip)s
    }
}
"""
PASS, AH = (
    f"    authentication {{\n        auth_type {kind}\n        auth_pass evobot\n    }}" for kind in ("PASS", "AH")
)
VIPS = {51: "10.66.0.100", 52: "10.66.0.101", 53: "10.66.0.102", 54: "fe80::66:100/64 dev eth0"}
NAMES = {51: "V2", 52: "SEALED", 53: "V3", 54: "V6"}
MORE = {51: PASS, 52: AH, 53: "    version 3", 54: "    version 3"}
HIGHEST = 254  # of all advertisements here: accepted, it would end the mastership
BOTH_WORDS = struct.unpack("!II", b"evobot\0\0")


def configuration(priority: int, *vrids: int) -> str:
    """Return some of the instances."""
    parts = [
        INSTANCE % {"name": NAMES[vrid], "vrid": vrid, "priority": priority, "more": MORE[vrid], "vip": VIPS[vrid]}
        for vrid in vrids
    ]
    return HEAD + "".join(parts)


def carried(packet: Packet | bytes, ttl: int = 255, protocol: int = 112, destination: str = "224.0.0.18") -> bytes:
    """Return a frame from the client over IPv4."""
    link = Ether(src=mac("client"), dst="01:00:5e:00:00:12")
    return bytes(link / IP(src=address("client"), dst=destination, ttl=ttl, proto=protocol) / packet)


def carried6(packet: Packet | bytes, hops: int = 255) -> bytes:
    """Return a frame from the client over IPv6."""
    link = Ether(src=mac("client"), dst="33:33:00:00:00:12")
    return bytes(link / IPv6(src="fe80::66:3", dst="ff02::12", hlim=hops, nh=112) / packet)


def two(**fields: Any) -> Packet:
    """Return version 2 with these fields, otherwise right."""
    first, second = BOTH_WORDS
    right = {"vrid": 51, "priority": HIGHEST, "authtype": 1, "adv": 1, "addrlist": [VIPS[51]]}
    return VRRP(**{**right, "auth1": first, "auth2": second, **fields})


def three(vrid: int = 53, **fields: Any) -> Packet:
    """Return version 3 with these fields, otherwise right."""
    status = [VIPS[vrid].partition("/")[0]]
    return VRRPv3(**{"vrid": vrid, "priority": HIGHEST, "adv": 100, "addrlist": status, **fields})


# The packet, its virtual router, and the reason that counts it.
FLAWS: Sequence[tuple[bytes, str, str]] = (
    (carried(bytes(two())[:6]), "V2", "truncated"),
    (carried(bytes(two())[:14]), "V2", "truncated"),
    (carried(bytes(two()) + bytes(4)), "V2", "longer than its addresses"),
    (carried(two(chksum=0xDEAD)), "V2", "wrong checksum"),
    (carried(two(), ttl=254), "V2", "wrong TTL"),
    (carried(two(), ttl=1), "V2", "wrong TTL"),
    (carried(two(version=4)), "V2", "another version"),
    (carried(three(51)), "V2", "another version"),
    (carried(two(type=3)), "V2", "not an advertisement"),
    (carried(two(authtype=0, auth1=0, auth2=0)), "V2", "another kind of authentication"),
    (carried(two(authtype=7)), "V2", "another kind of authentication"),
    (carried(two(auth2=1)), "V2", "wrong password"),
    (carried(two(adv=9)), "V2", "another advertisement interval"),
    (carried(bytes(two(vrid=52)), protocol=51), "", ""),  # without authentication, so its instance is unknown
    (carried(bytes(three(chksum=1))[:9]), "V3", "truncated"),
    (carried(three(chksum=0xDEAD)), "V3", "wrong checksum"),
    (carried(three(), ttl=64), "V3", "wrong TTL"),
    (carried(two(vrid=53)), "V3", "another version"),
    (carried(three(adv=0)), "V3", "another advertisement interval"),
    (carried6(three(54), hops=254), "V6", "wrong TTL"),
    (carried6(three(54, chksum=0xDEAD)), "V6", "wrong checksum"),
    (carried6(bytes(three(54, chksum=1))[:20]), "V6", "truncated"),
)


@contextmanager
def network() -> Iterator[tuple[Segment, Callable[[bytes], None]]]:
    """Yield a segment, and a function that sends frames from its client; that has a link-local address, too."""
    with segment() as where:
        where.ip("client", "addr add fe80::66:3/64 dev eth0 nodad")
        with inside_network(where.path("client")):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            raw.bind(("eth0", 0))
        with raw:
            yield where, raw.sendall


@pytest.fixture
def made() -> Iterator[tuple[Segment, Callable[[bytes], None]]]:
    with network() as both:
        yield both


@pytest.fixture
def link(made: tuple[Segment, Callable[[bytes], None]]) -> Segment:
    return made[0]


@pytest.fixture
def wire(made: tuple[Segment, Callable[[bytes], None]]) -> Callable[[bytes], None]:
    return made[1]


def started(where: Segment, folder: Path, text: str) -> Pylvs:
    """Run pylvs on host a, as master of everything in the configuration."""
    made = router(PYLVS, where, "a", folder / "a")
    assert isinstance(made, Pylvs)
    made.configuration.write_text(text)
    made.start()
    until(made, lambda: {each["state"] for each in instances(made).values()} == {"MASTER"}, "master of all")
    return made


def status(running: Pylvs) -> dict[str, Any]:
    """Return what `pylvs vrrp status --json` prints."""
    try:
        with Client(running.state / "vrrp", PATIENCE_S) as client:
            return dict(client.ask("status"))
    except PylvsError:  # it does not run yet
        return {"instances": [], "unknown_vrids": []}


def instances(running: Pylvs) -> dict[str, dict[str, Any]]:
    """Return the instances by their names."""
    return {each["name"]: each for each in status(running)["instances"]}


def dropped(running: Pylvs) -> Counter[tuple[str, str]]:
    """Return the counts by virtual router and reason."""
    found = instances(running).items()
    return Counter({(name, flaw): n for name, each in found for flaw, n in each["counters"]["dropped"].items()})


def lines(running: Router, flaw: str) -> list[str]:
    """Return the log lines of one kind."""
    return [line for line in running.log() if flaw in line]


def logged(running: Router, flaws: Iterable[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Return how many log lines each of these virtual routers and reasons has; the log comes after the counters."""
    return Counter(
        {(name, flaw): n for name, flaw in flaws if (n := sum(f"{name}:" in each for each in lines(running, flaw)))}
    )


def until(running: Router, holds: Callable[[], bool], what: str) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "\n".join([f"still not: {what}", *running.log()])
        time.sleep(0.1)


def test_every_flaw_has_a_name_and_none_ends_a_mastership(
    link: Segment, wire: Callable[[bytes], None], tmp_path: Path
) -> None:
    running = started(link, tmp_path, configuration(100, 51, 52, 53, 54))
    try:
        for _ in range(3):
            for frame, _, _ in FLAWS:
                wire(frame)
        for _ in range(5):
            wire(carried(two(vrid=99)))
        expected = Counter((name, flaw) for _, name, flaw in FLAWS for _ in range(3) if name)
        until(running, lambda: dropped(running) == expected, f"counted: {expected}; {dropped(running)}")
        assert not lines(running, "virtual router 99")  # without log_unknown_vrids
        unknown = {(each["device"], each["vrid"]): each["count"] for each in status(running)["unknown_vrids"]}
        assert unknown["eth0", 99] == 5
        for name, each in instances(running).items():
            assert (each["state"], each["counters"]["became_master"]) == ("MASTER", 1), name
        until(running, lambda: logged(running, expected).keys() == expected.keys(), "each flaw is logged")
        assert set(logged(running, expected).values()) == {1}, "and once"
        # Without a flaw, each of them changes the state.
        until(running, lambda: lost_mastership(running, wire), "right ones count")
    finally:
        running.end()


def lost_mastership(running: Pylvs, wire: Callable[[bytes], None]) -> bool:
    """Return whether advertisements without a flaw make a backup of each of their instances.

    They are sent repeatedly, because a backup without advertisements becomes master again after 3.6 s.
    """
    for frame in (carried(two()), carried(three()), carried6(three(54))):
        wire(frame)
    return [each["state"] for each in instances(running).values()] == ["BACKUP", "MASTER", "BACKUP", "BACKUP"]


@pytest.mark.skipif(bool(keepalived.why_not()), reason=keepalived.why_not())
def test_replayed_advertisements_are_dropped(link: Segment, wire: Callable[[bytes], None], tmp_path: Path) -> None:
    """Replay keepalived's own authenticated advertisements of a higher priority after its end."""
    running = started(link, tmp_path, configuration(100, 52))
    other = router(KEEPALIVED, link, "b", tmp_path / "b")
    other.configuration.write_text(configuration(HIGHEST, 52))
    try:
        with Observer(link) as observer:
            other.start()
            until(running, lambda: instances(running)["SEALED"]["state"] == "BACKUP", "keepalived is the master")
            until(running, lambda: len(observer.advertisements("b")) >= 3, "keepalived continues")
            other.kill()
            captured = observer.advertisements("b")
        until(running, lambda: instances(running)["SEALED"]["state"] == "MASTER", "master again")
        before = instances(running)["SEALED"]["counters"]
        assert before["dropped"] == {}
        for each in captured:
            wire(each.frame)
        for each in captured:
            wire(tampered(each))
        names = {"a sequence number that was there before": len(captured), "wrong digest": len(captured)}
        until(running, lambda: instances(running)["SEALED"]["counters"]["dropped"] == names, str(names))
        now = instances(running)["SEALED"]
        assert (now["state"], now["counters"]["became_master"]) == ("MASTER", before["became_master"])
        until(running, lambda: all(lines(running, name) for name in names), "both are logged")
        assert [len(lines(running, name)) for name in names] == [1, 1]
    finally:
        other.end()
        running.end()


def test_unknown_routers_are_logged_if_configured(link: Segment, wire: Callable[[bytes], None], tmp_path: Path) -> None:
    text = configuration(100, 51).replace("router_id hostile", "router_id hostile\n    log_unknown_vrids")
    running = started(link, tmp_path, text)
    try:
        for _ in range(5):
            wire(carried(two(vrid=99)))
        words = f"eth0: {address('client')} advertises virtual router 99, which is not configured here"
        until(running, lambda: bool(lines(running, words)), words)
        until(running, lambda: status(running)["unknown_vrids"][0]["count"] == 5, "all are counted")
        assert len(lines(running, "virtual router 99")) == 1
    finally:
        running.end()


def tampered(captured: Captured) -> bytes:
    """Return an authenticated frame with a newer sequence number and the old digest."""
    frame = bytearray(captured.frame)
    at = 14 + 20 + 8
    frame[at : at + 4] = b"\xff\xff\xff\xf0"
    return bytes(frame)
