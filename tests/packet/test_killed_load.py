"""A kill at any step of a change of programs leaves the old or the new ones in force, and the next edit completes it.

The steps are those of an upgrade, of a resize, and of attaching and detaching a device. A child process does them and
kills itself before one of its calls that change something. Then real frames cross the host: by DR back through d0, by
NAT to the servers behind e0.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import pytest

from pylvs.bpf import kernel, libbpf, maps
from pylvs.bpf.libbpf import BpfObject
from pylvs.dataplane import load
from pylvs.dataplane.devices import attach, attachments, lo
from pylvs.dataplane.devices.modes import Mode
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import ON_DEMAND, XDP, Build, State, own_build
from pylvs.dataplane.upgrade import upgrade
from pylvs.model.service import Destination, DestinationKey, Method, VirtualService
from pylvs.netlink.codec import Netlink
from pylvs.system import syscalls
from tests.packet.frames import CLIENT4, build, ether, network, tcp
from tests.packet.host import VIP4, Host, ip, key, new_host, server4, server_mac
from tests.packet.wire import Wire, wire
from tests.waiting import until, until_up

BY_DR, BY_NAT, EDITED = key(80), key(81), key(82)
NAT_SERVER, NAT_MAC, E0_MAC = "10.88.0.11", "02:00:00:00:02:0b", "02:00:00:00:00:02"
SMALL, LARGE = 1024, 2048  # connections
pytestmark = pytest.mark.timeout(1200)  # each loads the programs many times
NEEDED = ("new", "connect", "reply", "fwd_slow", "schedule_rr")  # tail-called programs of the test's packets
FIRST_LATE = 50_000  # ports of connections that open during a change
RTM_BASE, RTM_GET = 16, 2  # each kind of rtnetlink object has four messages


class FewPrograms(BpfObject):
    """The object without the programs that no packet of this test reaches: the verifier takes most of a load's time."""

    NEEDED: tuple[str, ...] = NEEDED

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._used = [name for name in super().programs() if self._is_used(name)]
        for name in set(super().programs()) - set(self._used):
            self.skip_program(name)

    def _is_used(self, name: str) -> bool:
        if name in ON_DEMAND:  # a migration pins them
            return True
        hook, _, called = name.partition("_")
        return hook not in ("xdp", "tc") or called in self.NEEDED

    def programs(self) -> list[str]:
        return self._used


class Traffic:
    """Connections by DR and NAT that are open, and new ones."""

    def __init__(self, clients: Wire, servers: Wire) -> None:
        self.clients = clients
        self.servers = servers
        self.ports = itertools.count(10_000)
        self.old = next(self.ports)

    def crossed(self, flags: str, sport: int) -> tuple[bool, bool]:
        """Send a packet of a client to each service; return whether each reached its server."""
        for service in BY_DR, BY_NAT:
            self.clients.send(tcp(flags, sport, service.port))
        ends = sport.to_bytes(2, "big") + BY_DR.port.to_bytes(2, "big"), sport.to_bytes(2, "big")
        by_dr = [
            frame for frame in self.clients.came() if frame[:6] == packed(server_mac(1)) and frame[34:38] == ends[0]
        ]
        by_nat = [frame for frame in self.servers.came() if frame[:6] == packed(NAT_MAC) and frame[34:36] == ends[1]]
        assert len(by_dr) < 2
        assert len(by_nat) < 2
        return bool(by_dr), bool(by_nat)

    def answered(self, flags: str, sport: int) -> bool:
        """Send a packet of the NAT server to the client; return whether it reached it from the service's address."""
        self.servers.send(reply(flags, sport))
        wanted = ip_address(VIP4).packed + ip_address(CLIENT4).packed, BY_NAT.port.to_bytes(2, "big")
        return any((frame[26:34], frame[34:36]) == wanted for frame in self.clients.came())

    def open(self, sport: int = 0) -> int:
        """Open connections by both methods and return the client's port; by default one that no other call had."""
        sport = sport or next(self.ports)
        assert self.crossed("S", sport) == (True, True), "the SYN of a new connection"
        assert self.answered("SA", sport), "the answer to a new connection"
        assert self.crossed("A", sport) == (True, True), "the third packet of a new connection"
        return sport

    def check(self, sport: int = 0) -> None:
        """Assert that new connections are forwarded, and open ones, by default those of the beginning."""
        sport = sport or self.old
        old = (*self.crossed("A", sport), self.answered("A", sport))
        assert old == (True,) * 3, f"an open connection (DR, NAT, answer): {old}"
        self.open()


def packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def reply(flags: str, dport: int) -> bytes:
    """Return a frame of the NAT server to a client."""
    from scapy.layers.inet import TCP

    header = TCP(sport=BY_NAT.port, dport=dport, flags=flags)
    return build(ether(target=E0_MAC, source=NAT_MAC) / network(NAT_SERVER, CLIENT4) / header)


# --- killing ---


class Killer:
    """Kills this process before its n-th step.

    Each kill costs a load of the object, so equal ones are left out. Of a row of equal calls only the first two count:
    they are loops, of which each turn pins or removes one more map. A note is a symbolic link that is then renamed: the
    state between is tested twice.
    """

    def __init__(self, number: int) -> None:
        self.left = number
        self.latest: tuple[str, int] = "", 0
        self.notes = 0

    def step(self, name: str) -> None:
        written = (self.latest[0], name) == ("symlink", "rename")
        self.notes += written
        self.latest = name, self.latest[1] + 1 if self.latest[0] == name else 1
        if self.latest[1] > 2 or (written and self.notes > 2):
            return
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1

    def before(self, owner: object, name: str, is_step: Callable[..., bool] = lambda *_: True) -> Any:
        """Return the patch that counts the calls of a function."""
        call = getattr(owner, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            if is_step(*arguments):
                self.step(name)
            return call(*arguments, **more)

        return mock.patch.object(owner, name, counted)

    def patches(self) -> list[Any]:
        return [
            *(self.before(os, name) for name in ("unlink", "rename", "symlink", "link", "mkdir", "rmdir")),
            self.before(libbpf, "pin"),
            self.before(syscalls, "exchange"),
            self.before(kernel, "run_program", lambda _, data, *more: True),
            self.before(Netlink, "request", lambda _, kind, *more: (kind - RTM_BASE) % 4 != RTM_GET),
            self.before(BpfObject, "load"),
            *(self.before(maps.HashMap, name) for name in ("put", "remove")),
            *(self.before(maps.ArrayMap, name) for name in ("put", "remove")),
            *(self.before(maps.MmapArray, name) for name in ("store", "store_half", "publish")),
            self.before(lo, "_set_sysctl"),
        ]


def killed(number: int, work: Callable[[], object]) -> bool:
    """Do it in another process, which is killed before its step of this number; return whether it was."""
    child = os.fork()
    if not child:
        _work(number, work)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed"
    return False


def _work(number: int, work: Callable[[], object]) -> NoReturn:
    status = 1
    try:
        with ExitStack() as patched:
            for patch in Killer(number).patches():
                patched.enter_context(patch)
            work()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


# --- the host ---


def add_nat_link() -> None:
    """Add the device e0, which leads to the NAT server."""
    ip("link", "add", "e0", "address", E0_MAC, "type", "veth", "peer", "name", "e1")
    for device in "e0", "e1":
        ip("link", "set", device, "up")
    until_up("e0")
    ip("addr", "add", "10.88.0.1/24", "dev", "e0")
    ip("neigh", "add", NAT_SERVER, "lladdr", NAT_MAC, "nud", "permanent", "dev", "e0")


@contextmanager
def serving_host() -> Iterator[Host]:
    """Make a host that forwards by DR to d0 and by NAT to e0."""
    with mock.patch.object(load, "BpfObject", FewPrograms), new_host(connections=SMALL) as made:
        add_nat_link()
        director = made.director
        with director.batch():
            attachments.release(director.tables, "e1")
            attachments.request(director.tables, "e0", "generic")
        for service, server, method in (BY_DR, server4(1), Method.ROUTE), (BY_NAT, NAT_SERVER, Method.MASQ):
            director.add_service(VirtualService(service, "rr"))
            director.add_destination(service, Destination(DestinationKey(ip_address(server), service.port), method))
        director.add_service(VirtualService(EDITED, "rr"))
        made.expiry.close()  # its descriptor of a program
        yield made


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with serving_host() as made:
        yield made


@contextmanager
def open_traffic() -> Iterator[Traffic]:
    """Open both links, and connections."""
    with wire() as clients, wire("e0", "e1") as servers:
        made = Traffic(clients, servers)
        made.old = made.open()
        made.check()
        yield made


@pytest.fixture
def traffic(host: Host) -> Iterator[Traffic]:
    with open_traffic() as made:
        yield made


def edit() -> None:
    """Do what `ipvsadm -a` does, and undo it."""
    director, server = BpfDirector(State.open()), DestinationKey(ip_address(server4(2)), EDITED.port)
    director.add_destination(EDITED, Destination(server))
    assert not [each for each in director.device_problems() if not each.by_hand]
    director.delete_destination(EDITED, server)


def program_ids() -> Iterator[int]:
    """Yield the ids of all programs of the machine."""
    following, number = libbpf.library()._handle, ctypes.c_uint32(0)
    next_id = ctypes.CDLL(None, handle=following).bpf_prog_get_next_id
    while not next_id(number, ctypes.byref(number)):
        yield number.value


def programs_of(host: Host) -> list[str]:
    """Return the names of all loaded programs that use this host's tables."""
    with maps.Map.open(host.director.tables.path("roots")) as roots:
        table = roots.info.id
    found = []
    for number in program_ids():
        with suppress(Exception):  # it is gone
            described = kernel.describe_program(number)
            if table in described.map_ids:
                found.append(described.name)
    return sorted(found)


def names_of(host: Host) -> list[str]:
    """Return everything below the state's directory."""
    return sorted(
        os.path.relpath(os.path.join(where, name), host.director.state.path)
        for where, directories, files in os.walk(host.director.state.path)
        for name in (*directories, *files)
    )


def what_is_held(host: Host) -> tuple[list[str], list[str]]:
    """Return pins and notes, and the programs that the kernel holds."""
    return names_of(host), programs_of(host)


def difference(one: list[str], other: list[str]) -> str:
    return ", ".join(map(str, (Counter(one) - Counter(other)).items()))


class Nothing:
    """What is held at the beginning: nothing more may be left behind."""

    def __init__(self, host: Host) -> None:
        edit()
        self.host = host
        until(lambda: max(Counter(programs_of(host)).values()) == 1, "the end of the programs of a former load")
        self.before = what_is_held(host)

    def check(self) -> None:
        """Assert that no more is held, and that the devices run the pinned programs."""
        until(lambda: what_is_held(self.host) == self.before, self._more)
        attached = {each.device: each for each in attach.attached(self.host.director.state)}
        assert attached.keys() == {"d0", "e0", "lo"}
        pinned = attach.entry_ids(self.host.director.state)
        for each in attached.values():
            assert {each.xdp, each.ingress} <= {0, *pinned.values()}, f"{each} does not run the pinned programs"

    def _more(self) -> str:
        now = what_is_held(self.host)
        return "; ".join(
            f"more: {difference(one, other)}, less: {difference(other, one)}"
            for one, other in zip(now, self.before, strict=True)
        )


def upgraded(number: int) -> Callable[[], None]:
    """Return an edit by a newer build of pylvs."""

    def work() -> None:
        newer = Build(own_build().tables, f"{number:016x}", "99.9")
        with ExitStack() as patched:
            for module in "state", "load":
                patched.enter_context(mock.patch(f"pylvs.dataplane.{module}.own_build", return_value=newer))
            BpfDirector(State.open()).set_timeouts(BpfDirector(State.open()).timeouts())

    return work


def killed_at_every_step(works: Iterable[Callable[[], object]], after: Callable[[], object]) -> None:
    """Do each work in another process, the n-th one killed before its n-th step, until one is done before that."""
    for number, work in enumerate(works):
        if not killed(number, work):
            assert number > 5, "steps of the work"
            return
        after()


def test_an_upgrade(host: Host, traffic: Traffic) -> None:
    nothing = Nothing(host)

    def after() -> None:
        traffic.check()
        edit()
        traffic.check()
        nothing.check()

    killed_at_every_step(map(upgraded, itertools.count()), after)
    traffic.check()
    nothing.check()


def resizes() -> Iterator[Callable[[], object]]:
    while True:
        director = BpfDirector(State.open())
        size = LARGE if director.settings()["conn_max"] == SMALL else SMALL
        yield functools.partial(director.change_setting, "conn_max", size, drop=True)


def resizes_amid(traffic: Traffic, opened: Path) -> Iterator[Callable[[], object]]:
    """Yield resizes in each of which connections open after the copy, just before packets use the new table.

    Their port is written to a file, as a process that was killed cannot return it.
    """
    finish = upgrade.finish
    for number, resize in enumerate(resizes()):

        def open_and_finish(*arguments: Any, sport: int = FIRST_LATE + number) -> None:
            traffic.open(sport)
            opened.write_text(str(sport))
            finish(*arguments)

        def work(resize: Callable[[], object] = resize, instead: Callable[..., None] = open_and_finish) -> None:
            with mock.patch.object(upgrade, "finish", instead):
                resize()

        yield work


def test_a_resize(host: Host, traffic: Traffic, tmp_path: Path) -> None:
    host.director.change_setting("conn_max", SMALL)  # notes that an operator set it
    nothing, opened, late = Nothing(host), tmp_path / "opened", 0

    def after() -> None:
        nonlocal late
        traffic.check()
        edit()
        traffic.check()
        nothing.check()
        if opened.exists():
            late += 1
            traffic.check(int(opened.read_text()))
            opened.unlink()
        counted = [BpfDirector(State.open()).service(service).destinations for service in (BY_DR, BY_NAT)]
        there = sum(1 for _ in BpfDirector(State.open()).connections())
        assert sum(row.active + row.inactive for rows in counted for row in rows) == there, "the counts of servers"

    killed_at_every_step(resizes_amid(traffic, opened), after)
    assert late > 2, "kills after the copy"
    after()


# --- devices ---


def request(mode: Mode) -> None:
    """Attach d0, as `pylvs attach` does."""
    director = BpfDirector(State.open())
    with director.batch():
        attachments.request(director.tables, "d0", mode)


def release() -> None:
    """Detach d0, as `pylvs detach` does."""
    director = BpfDirector(State.open())
    with director.batch():
        attachments.release(director.tables, "d0")


def mode_of_d0(host: Host) -> str:
    """Return how d0 is attached; empty if it is not, and then nothing of pylvs may be left there."""
    mode = next((each.mode for each in attach.attached(host.director.state) if each.device == "d0"), "")
    qdiscs = subprocess.run(["tc", "qdisc", "show", "dev", "d0"], check=True, capture_output=True, text=True).stdout
    assert ("clsact" in qdiscs) == bool(mode)
    assert any(name == f"device-director-{host.ifindex}" for name in host.director.state.notes()) == bool(mode)
    return mode


def test_a_change_of_mode(host: Host, traffic: Traffic) -> None:
    nothing = Nothing(host)

    def changes() -> Iterator[Callable[[], None]]:
        while True:
            yield functools.partial(request, "tc" if mode_of_d0(host) == "generic" else "generic")

    def after() -> None:
        traffic.check()
        edit()
        traffic.check()
        nothing.check()

    killed_at_every_step(changes(), after)
    after()


def test_detaching_and_attaching(host: Host, traffic: Traffic) -> None:
    def changes() -> Iterator[Callable[[], None]]:
        while True:
            yield release if wanted else functools.partial(request, "generic")

    def after() -> None:
        edit()
        assert mode_of_d0(host) in ("", "generic")
        if mode_of_d0(host):
            traffic.check()
        if bool(mode_of_d0(host)) != wanted:
            (functools.partial(request, "generic") if wanted else release)()

    request("generic")
    for wanted in True, False:  # noqa: B007 - `changes` and `after` use it
        killed_at_every_step(changes(), after)
    assert mode_of_d0(host) == "generic"
    traffic.check()


def test_the_first_device_with_xdp() -> None:
    with mock.patch.object(load, "BpfObject", FewPrograms), new_host(connections=SMALL, mode="tc") as host:
        host.serve(EDITED, 1)
        host.expiry.close()
        edit()
        before = what_is_held(host)

        def after() -> None:
            edit()
            if not os.path.exists(host.director.state.loaded_path(XDP)):
                until(lambda: what_is_held(host) == before, lambda: difference(what_is_held(host)[1], before[1]))

        killed_at_every_step(itertools.repeat(functools.partial(request, "generic")), after)
        edit()
        assert mode_of_d0(host) == "generic"
