"""What a daemon announces: which state each address has, and when the host's devices change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pylvs.daemon.host.announcing import announced_by, decide
from pylvs.daemon.host.leave import Leave
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.overrides import StateWriter
from pylvs.daemon.supervisor import Supervisor
from pylvs.model.addresses import Address
from pylvs.model.errors import InvalidOperation
from pylvs.model.routing import Announcement, Left, State
from pylvs.model.service import ServiceKey
from pylvs.model.wanted import WantedService
from tests.unit.daemon import commands
from tests.unit.daemon.daemons import VIP, FakeHost, address, configuration, server, service, until


class Devices:
    """The addresses on the devices of each state, and all changes in their order."""

    def __init__(self) -> None:
        self.on: dict[State, set[Address]] = {State.ANNOUNCED: set(), State.LEAVING: set()}
        self.local: set[Address] = set()
        self.changes: list[tuple[str, State]] = []
        self.leases: list[int] = []
        self.cleared = False
        self.error = ""  # of each address that is put on a device

    def prepare(self) -> str:
        return ""

    def keep_here(self, found: Sequence[Address]) -> Iterable[str]:
        self.local |= set(found)
        return ()

    def give_up(self, found: Sequence[Address]) -> Iterable[str]:
        self.local -= set(found)
        return ()

    def put(self, found: Sequence[Address], state: State, lease_s: int) -> dict[Address, str]:
        if self.error:
            return dict.fromkeys(found, self.error)
        if set(found) - self.on[state]:
            self.changes.append(("put", state))
        self.on[state] |= set(found)
        self.leases += [lease_s for _ in found]
        return {}

    def take(self, found: Sequence[Address], state: State) -> Iterable[str]:
        if set(found) & self.on[state]:
            self.changes.append(("take", state))
        self.on[state] -= set(found)
        return ()

    def clear(self) -> None:
        self.cleared = True

    def state(self) -> State:
        """Return the state of the only address."""
        found = [state for state, addresses in self.on.items() if VIP in addresses]
        return found[0] if found else State.WITHDRAWN


def announcing(*servers: Any, **more: Any) -> WantedService:
    return replace(service(*servers), announce=True, **more)


@pytest.fixture
def devices() -> Devices:
    return Devices()


@pytest.fixture
def host(tmp_path: Path, devices: Devices) -> Iterator[FakeHost]:
    made = FakeHost(tmp_path / "state")
    made.announced = devices
    made.write(announcing(server(1), server(2)), announce_leave_s=0)
    yield made
    made.end_processes()


async def reaches(devices: Devices, state: State) -> None:
    await until(lambda: devices.state() is state, f"{devices.state()} instead of {state}")


# --- the decision ---


@pytest.mark.parametrize(
    ("unserved", "unforwarded", "best", "state", "reason"),
    [
        ("", "", State.ANNOUNCED, State.ANNOUNCED, "why"),
        ("", "", State.LEAVING, State.LEAVING, "why"),
        ("", "", State.WITHDRAWN, State.WITHDRAWN, "why"),
        ("it has no quorum", "", State.ANNOUNCED, State.WITHDRAWN, "web: it has no quorum"),
        ("it has no quorum", "", State.LEAVING, State.WITHDRAWN, "web: it has no quorum"),
        ("", "unknown", State.ANNOUNCED, State.WITHDRAWN, "unknown"),
        ("", "unknown", State.LEAVING, State.WITHDRAWN, "unknown"),
        ("it has no quorum", "unknown", State.ANNOUNCED, State.WITHDRAWN, "unknown; web: it has no quorum"),
    ],
)
def test_the_state_of_an_address(unserved: str, unforwarded: str, best: State, state: State, reason: str) -> None:
    found = decide({VIP: ["web"]}, lambda _: unserved, unforwarded, best, "why")
    assert found == [Announcement(VIP, state, reason)]


def test_an_address_needs_all_services_that_announce_it() -> None:
    (found,) = decide(
        {VIP: ["web", "tls"]}, {"web": "", "tls": "it has no quorum"}.__getitem__, "", State.ANNOUNCED, ""
    )
    assert (found.state, found.reason) == (State.WITHDRAWN, "tls: it has no quorum")


def test_only_services_with_announce_and_an_address_count() -> None:
    plain = service(server(1))
    marked = replace(announcing(server(1)), name="fwmark 7", keys=(ServiceKey.of_mark(7),))
    other = replace(announcing(server(1)), name="other", keys=(replace(plain.keys[0], port=443),))
    assert announced_by(configuration(plain, marked)) == {}
    both = announced_by(configuration(announcing(server(1)), other))
    assert both == {VIP: [plain.name, "other"]}


# --- the daemon ---


def played(host: FakeHost, scenario: Any) -> None:
    async def play() -> None:
        async with host.daemon() as daemon:
            await scenario(daemon)

    asyncio.run(play())


def test_a_service_that_serves_is_announced_and_withdrawn_at_the_stop(host: FakeHost, devices: Devices) -> None:
    async def scenario(daemon: Supervisor) -> None:
        await reaches(devices, State.ANNOUNCED)
        (found,) = daemon.announcer.announcements()
        assert found == Announcement(VIP, State.ANNOUNCED)
        assert set(devices.leases) == {10}

    played(host, scenario)
    assert devices.state() is State.WITHDRAWN
    assert devices.changes == [
        ("put", State.ANNOUNCED),
        ("put", State.LEAVING),
        ("take", State.ANNOUNCED),
        ("take", State.LEAVING),
    ], "always on one device, until the end"
    assert devices.cleared
    assert not devices.local


def test_without_quorum_it_is_withdrawn_and_stays_local(host: FakeHost, devices: Devices) -> None:
    async def scenario(daemon: Supervisor) -> None:
        await reaches(devices, State.ANNOUNCED)
        for number in 1, 2:
            daemon.engine.disable(address(number))
        await reaches(devices, State.WITHDRAWN)
        assert devices.local == {VIP}
        (found,) = daemon.announcer.announcements()
        assert found.reason.endswith("it has no quorum")
        daemon.engine.enable(address(1))
        await reaches(devices, State.ANNOUNCED)
        events = [each["state"] for each in daemon.events.recent() if each["event"] == "announcement"]
        assert events == ["announced", "withdrawn", "announced"]

    played(host, scenario)


def test_a_drained_service_is_withdrawn(host: FakeHost, devices: Devices) -> None:
    async def scenario(daemon: Supervisor) -> None:
        await reaches(devices, State.ANNOUNCED)
        for number in 1, 2:
            daemon.engine.drain(address(number))
        await reaches(devices, State.WITHDRAWN)

    played(host, scenario)


def test_an_unknown_packet_path_withdraws(host: FakeHost, devices: Devices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pylvs.daemon.liveness.TICK_S", 0.02)
    monkeypatch.setattr("pylvs.daemon.virtual_routers.forwarding.POLL_S", 0.02)

    async def scenario(daemon: Supervisor) -> None:
        await reaches(devices, State.ANNOUNCED)
        work = [1]
        daemon.liveness.watch("a part", lambda: work[0], 0.05)
        await reaches(devices, State.WITHDRAWN)
        (found,) = daemon.announcer.announcements()
        assert "a part has made no progress" in found.reason

    played(host, scenario)


def test_a_reload_without_the_word_withdraws_at_once(host: FakeHost, devices: Devices) -> None:
    async def scenario(daemon: Supervisor) -> None:
        await reaches(devices, State.ANNOUNCED)
        host.write(service(server(1), server(2)))
        await daemon.reload()
        assert devices.state() is State.WITHDRAWN
        assert not devices.local
        assert daemon.announcer.announcements() == []

    played(host, scenario)


def test_an_address_that_the_kernel_refuses_is_withdrawn_and_a_problem(host: FakeHost, devices: Devices) -> None:
    devices.error = "192.0.2.1/32 could not be put on pylvs-up: Operation not permitted"

    async def scenario(daemon: Supervisor) -> None:
        await until(lambda: [each.text for each in daemon.announcer.problems()] == [devices.error], "the problem")
        (found,) = daemon.announcer.announcements()
        assert found == Announcement(VIP, State.WITHDRAWN, devices.error)
        devices.error = ""
        daemon.engine.drain(address(1))
        await reaches(devices, State.ANNOUNCED)
        await until(lambda: not [*daemon.announcer.problems()], "the end of the problem")

    played(host, scenario)


def test_the_stop_waits_with_lower_preference_until_it_is_hurried(host: FakeHost, devices: Devices) -> None:
    host.write(announcing(server(1)), announce_leave_s=600)

    async def scenario(daemon: Supervisor) -> None:
        await reaches(devices, State.ANNOUNCED)
        daemon.stop()
        await reaches(devices, State.LEAVING)
        daemon.stop()

    played(host, scenario)
    assert devices.state() is State.WITHDRAWN


def test_a_stop_that_keeps_the_table_keeps_the_addresses_for_a_lease(host: FakeHost, devices: Devices) -> None:
    async def scenario(daemon: Supervisor) -> None:
        await reaches(devices, State.ANNOUNCED)
        daemon.stop(keep=True)

    played(host, scenario)
    assert devices.state() is State.ANNOUNCED
    assert devices.local == {VIP}


# --- a planned leave ---


async def ask(host: FakeHost, *words: Any) -> Any:
    return await asyncio.to_thread(commands.ask, host, *words)


def test_a_leave_lowers_the_preference_then_withdraws_until_join(host: FakeHost, devices: Devices) -> None:
    host.write(announcing(server(1)), announce_leave_s=600)

    async def scenario(daemon: Supervisor) -> None:
        await reaches(devices, State.ANNOUNCED)
        assert (await ask(host, "GET", "/v1/status"))["leave"] is None
        reply = await ask(host, "POST", "/v1/director/leave")
        assert reply["not_kept"] == ""
        assert reply["leave"]["until"] - reply["leave"]["since"] == pytest.approx(600)
        await reaches(devices, State.LEAVING)
        status = await ask(host, "GET", "/v1/status")
        assert status["leave"] == reply["leave"] == {**reply["leave"], "withdrawn": False}
        assert "this director has left: pylvs director join" in status["differs"]
        again = await ask(host, "POST", "/v1/director/leave", {"now": True})
        assert again["leave"]["since"] == reply["leave"]["since"]
        await reaches(devices, State.WITHDRAWN)
        (found,) = daemon.announcer.announcements()
        assert (found.state, found.reason) == (State.WITHDRAWN, "pylvs director leave")
        assert (await ask(host, "GET", "/v1/status"))["leave"]["withdrawn"]
        assert devices.local == {VIP}
        assert daemon.engine.snapshot()[0].has_quorum
        assert (await ask(host, "POST", "/v1/director/join"))["leave"] is None
        await reaches(devices, State.ANNOUNCED)
        events = [each["state"] for each in daemon.events.recent() if each["event"] == "announcement"]
        assert events == ["announced", "leaving", "withdrawn", "announced"]
        daemon.stop()
        daemon.stop()  # without the wait

    played(host, scenario)


def test_a_leave_withdraws_by_itself(host: FakeHost, devices: Devices) -> None:
    host.write(announcing(server(1)), announce_leave_s=1)

    async def scenario(daemon: Supervisor) -> None:
        await reaches(devices, State.ANNOUNCED)
        await ask(host, "POST", "/v1/director/leave")
        await reaches(devices, State.WITHDRAWN)

    played(host, scenario)
    changes = devices.changes[1:]
    assert changes == [("put", State.LEAVING), ("take", State.ANNOUNCED), ("take", State.LEAVING)]


def test_a_leave_survives_a_reload_and_a_restart(host: FakeHost, devices: Devices) -> None:
    async def leaves(daemon: Supervisor) -> None:
        await reaches(devices, State.ANNOUNCED)
        await ask(host, "POST", "/v1/director/leave")
        await reaches(devices, State.WITHDRAWN)
        await daemon.reload()
        devices.changes.clear()

    async def stays(daemon: Supervisor) -> None:
        await until(lambda: bool(daemon.announcer.announcements()), "the first decision")
        assert devices.state() is State.WITHDRAWN
        await ask(host, "POST", "/v1/director/join")
        await reaches(devices, State.ANNOUNCED)

    played(host, leaves)
    played(host, stays)
    assert devices.changes[0] == ("put", State.ANNOUNCED), "neither the stop nor the start announced it"
    devices.changes.clear()

    async def joined(daemon: Supervisor) -> None:
        await reaches(devices, State.ANNOUNCED)

    played(host, joined)


def test_without_a_service_that_announces_there_is_nothing_to_leave(host: FakeHost) -> None:
    host.write(service(server(1)))

    async def scenario(daemon: Supervisor) -> None:
        with pytest.raises(InvalidOperation, match="nothing to leave"):
            await daemon.announcer.leave(now=False)
        assert daemon.announcer.left() is None

    played(host, scenario)


class Clocks:
    """Unix time and a steady clock."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_000_000.0, 50.0

    def open(self, state: StateDirectory) -> Leave:
        return Leave(state, StateWriter(state), lambda: self.wall, lambda: self.steady)


async def saved(leave: Leave) -> None:
    assert await leave.saved() == ""


def test_the_wait_of_a_leave_continues_after_a_restart_if_unix_time_jumps(tmp_path: Path) -> None:
    state, clocks = StateDirectory(tmp_path / "state"), Clocks()
    state.acquire()

    async def play() -> None:
        first = clocks.open(state)
        first.begin(30)
        await saved(first)
        clocks.steady += 10
        clocks.wall += 10_000
        assert first.wait_s == 20
        for wall_s, left_s in ((12, 18), (40, 0), (-500, 30)):
            clocks.wall = 1_000_000 + wall_s
            next_one = clocks.open(state)
            next_one.read(wait_s=30)
            assert next_one.left == Left(1_000_000, 1_000_030)
            assert next_one.wait_s == left_s
        next_one.end()
        await saved(next_one)
        last = clocks.open(state)
        last.read(wait_s=30)
        assert (last.left, last.wait_s) == (None, 0)

    asyncio.run(play())


def test_a_second_command_shortens_the_wait_and_never_extends_it(tmp_path: Path) -> None:
    state, clocks = StateDirectory(tmp_path / "state"), Clocks()
    state.acquire()

    async def play() -> None:
        leave = clocks.open(state)
        leave.begin(30)
        clocks.steady += 10
        clocks.wall += 10
        leave.begin(30)
        assert (leave.wait_s, leave.left) == (20, Left(1_000_000, 1_000_030))
        leave.begin(0)
        assert (leave.wait_s, leave.left) == (0, Left(1_000_000, 1_000_010))
        await saved(leave)

    asyncio.run(play())
