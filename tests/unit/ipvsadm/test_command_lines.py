"""Promises about all command lines and all tables: no traceback ever, and what was saved comes back."""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.ipvsadm.commands import Session
from pylvs.ipvsadm.options import OPTIONS
from pylvs.ipvsadm.parsing import Names
from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError
from pylvs.model.rows import ServiceRow
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Tunnel,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)
from tests.memory import MemoryDirector
from tests.unit.ipvsadm.replaying import call

SPELLINGS = [f"--{option.long}" for option in OPTIONS] + [f"-{option.short}" for option in OPTIONS if option.short]
VALUES = ("192.0.2.1:80", "[2001:db8::1]:80", "192.0.2.1", "web1", "rr", "sh", "sh-port", "60", "0", "-1", "64", "")
STATUSES = {0, 1, 2, 255}
any_text = st.text(st.characters(exclude_characters="\0"))
words = st.lists(
    st.one_of(st.sampled_from(SPELLINGS), st.sampled_from(VALUES), any_text, any_text.map(lambda text: f"-{text}"))
)

v4 = st.integers(1 << 24, (224 << 24) - 1).map(IPv4Address)
v6 = st.integers(0x2000 << 112, (0x4000 << 112) - 1).map(IPv6Address)
ports = st.integers(1, 65535)
protocols = st.sampled_from(Protocol)


@st.composite
def services(draw: st.DrawFn) -> VirtualService:
    """A service that ipvsadm can make, and whose rule can be read again."""
    by_mark = draw(st.booleans())
    family = draw(st.sampled_from([socket.AF_INET, socket.AF_INET6]))
    address: Address = draw(v4) if family == socket.AF_INET else draw(v6)
    if by_mark:
        key = ServiceKey.of_mark(draw(st.integers(1, 2**31 - 1)), family)  # higher ones are printed as negative
    else:
        key = ServiceKey(draw(protocols), address, draw(ports))
    flags = ServiceFlag(0)
    timeout, mask = 0, -1
    if draw(st.booleans()):
        flags |= ServiceFlag.PERSISTENT
        timeout = draw(st.integers(1, 2678400))
        masks = st.integers(0, 2**32 - 2) if family == socket.AF_INET else st.integers(1, 127)
        mask = draw(st.one_of(st.just(-1), masks))
    if by_mark or key.protocol is Protocol.UDP:
        flags |= draw(st.sampled_from([ServiceFlag(0), ServiceFlag.ONE_PACKET]))
    scheduler = draw(st.sampled_from([*SCHEDULERS, "none"]))
    flags |= draw(st.sampled_from([ServiceFlag(0), ServiceFlag.SCHED_1, ServiceFlag.SCHED_2]))
    if scheduler not in ("sh", "mh"):  # theirs has no name of its own
        flags |= draw(st.sampled_from([ServiceFlag(0), ServiceFlag.SCHED_3]))
    return VirtualService(key, scheduler, flags, timeout, mask, draw(st.sampled_from(["", "sip"])))


@st.composite
def destinations(draw: st.DrawFn, service: ServiceKey) -> Destination:
    """A destination that ipvsadm can give to a service; thresholds are never saved."""
    method = draw(st.sampled_from([Method.MASQ, Method.TUNNEL, Method.ROUTE]))
    own_family = v4 if service.family == socket.AF_INET else v6
    address = draw(st.one_of(v4, v6) if method is Method.TUNNEL else own_family)
    port = draw(st.integers(0, 65535)) if service.mark or method is Method.MASQ else service.port
    tunnel = Tunnel()
    if method is Method.TUNNEL:
        kind = draw(st.sampled_from(TunnelKind))
        choices = [TunnelFlag(0)]
        choices += [TunnelFlag.CSUM] if kind is not TunnelKind.IPIP else []
        choices += [TunnelFlag.REMCSUM] if kind is TunnelKind.GUE else []
        tunnel = Tunnel(kind, draw(ports) if kind is TunnelKind.GUE else 0, draw(st.sampled_from(choices)))
    return Destination(DestinationKey(address, port), method, draw(st.integers(0, 2**31 - 1)), tunnel=tunnel)


@st.composite
def tables(draw: st.DrawFn) -> MemoryDirector:
    """A table of a few services with a few destinations."""
    director = MemoryDirector()
    for service in draw(st.lists(services(), max_size=5, unique_by=lambda each: each.key)):
        director.add_service(service)
        wanted = st.lists(destinations(service.key), max_size=5, unique_by=lambda each: each.key)
        for destination in draw(wanted):
            director.add_destination(service.key, destination)
    return director


def content(director: MemoryDirector) -> dict[ServiceKey, tuple[VirtualService, frozenset[Destination]]]:
    """What a table holds, regardless of order."""
    return {row.service.key: (row.service, _destinations(row)) for row in director.services()}


def _destinations(row: ServiceRow) -> frozenset[Destination]:
    return frozenset(each.destination for each in row.destinations)


@given(words)
def test_any_words_end_with_a_status_and_not_with_a_traceback(argv: list[str]) -> None:
    assert call(MemoryDirector(), "ipvsadm", *argv).rc in STATUSES


@given(st.text())
def test_any_input_of_a_restore_ends_with_a_status(text: str) -> None:
    assert call(MemoryDirector(), "ipvsadm", "-R", stdin=text).rc in STATUSES
    assert call(MemoryDirector(), "ipvsadm-restore", stdin=text).rc in STATUSES


@given(words, tables())
def test_what_is_refused_changes_nothing(argv: list[str], director: MemoryDirector) -> None:
    before = content(director)
    if call(director, "ipvsadm", *argv).rc != 0:
        assert content(director) == before


@given(tables())
def test_what_is_saved_is_restored(director: MemoryDirector) -> None:
    saved = call(director, "ipvsadm", "-Sn")
    again = MemoryDirector()
    restored = call(again, "ipvsadm", "-R", stdin=saved.stdout)
    assert (restored.rc, restored.stderr) == (0, "")
    assert content(again) == content(director)
    assert call(again, "ipvsadm-save", "-n").stdout == saved.stdout


@given(tables())
def test_every_view_lists_every_service_and_destination(director: MemoryDirector) -> None:
    rows = len(director.services()) + sum(len(row.destinations) for row in director.services())
    for option, titles in (("-n", 3), ("--stats", 3), ("--rate", 3), ("--thresholds", 3), ("--tun-info", 3)):
        assert len(call(director, "ipvsadm", "-L", option).stdout.splitlines()) == titles + rows


def test_an_error_of_the_tables_is_one_line() -> None:
    class Full(MemoryDirector):
        def add_service(self, service: VirtualService) -> None:
            raise PylvsError("the table of services is full; it holds 4096")

    result = call(Full(), "ipvsadm", "-A", "-t", "192.0.2.1:80")
    assert (result.rc, result.stderr) == (255, "the table of services is full; it holds 4096\n")


class LockedDirector(MemoryDirector):
    """Knows whether it is locked."""

    locked = False

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        self.locked = True
        yield
        self.locked = False


class NoticingNames(Names):
    """Records which names are looked up, and whether the tables were locked."""

    def __init__(self, director: LockedDirector) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool]] = []
        self._director = director

    def _look_up(self, host: str) -> IPv4Address | None:
        self.seen.append((host, self._director.locked))
        return IPv4Address("192.0.2.1")


def test_a_restore_looks_up_each_name_once_and_before_it_locks_the_tables() -> None:
    """DNS may take long, and all other edits wait for the lock."""
    director = LockedDirector()
    names = NoticingNames(director)
    rules = "-A -t vip:80 -s rr\n-a -t vip:80 -r rip:80 -m\n-A -t vip:81 -s nothing\n-E -t vip:80 -s wlc\n"
    errors = io.StringIO()
    outcome = Session(director, io.StringIO(rules), io.StringIO(), errors, names).run(["-R"])
    assert names.seen == [("vip", False), ("rip", False)]
    assert (outcome.status, errors.getvalue()) == (0, "Scheduler or persistence engine not found\n")
    assert [row.service.scheduler for row in director.services()] == ["wlc"]
