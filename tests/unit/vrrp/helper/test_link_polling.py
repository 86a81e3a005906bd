"""Polled links: which way a driver supports, and what is reported."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import pytest

from pylvs.model.vrrp import LinkPolling, PolledLink, Track
from pylvs.vrrp.helper import link_polling
from pylvs.vrrp.helper.link_polling import POLL_S, LinkPoller
from pylvs.vrrp.helper.source import PROGRESS_S
from pylvs.vrrp.tracking import TrackedObject
from tests.unit.health.clock import FakeTimeLoop
from tests.unit.vrrp.helper.fake_thread import FakeThread

ETHTOOL = LinkPolling.ETHTOOL


class Driver:
    """Answers one way of polling; `up` is None for a device that does not exist."""

    def __init__(self, way: LinkPolling, up: bool | None) -> None:
        self.way, self.up = way, up
        self.polls = 0
        self.asked: list[LinkPolling] = []

    def __call__(self, end: socket.socket, device: str, polling: LinkPolling) -> bool:
        self.polls += 1
        if polling not in self.asked:
            self.asked.append(polling)
        if self.up is None or polling is not self.way:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return self.up


def reports(driver: Driver, play: Callable[[LinkPoller], list[Callable[[], None]]]) -> list[bool | None]:
    """Poll eth0; make each change of `play` after some more polls, and return what was reported."""
    found: list[TrackedObject] = []

    async def run() -> None:
        poller = LinkPoller(found.append, driver, wait_s=0)
        poller.configure([PolledLink("eth0")])
        changes = play(poller)
        for at in range(len(changes) + 1):
            before = driver.polls
            while driver.polls < before + 8:
                await asyncio.sleep(0)
            if at < len(changes):
                changes[at]()
        await poller.finish()

    asyncio.run(run())
    assert all(each.track == Track("eth0") and each.kind == "link" for each in found)
    return [each.up for each in found]


def test_the_first_state_and_each_change_are_reported() -> None:
    driver = Driver(LinkPolling.MII, up=True)
    states = [False, True]
    assert reports(driver, lambda _: [lambda: setattr(driver, "up", states.pop(0))] * 2) == [True, False, True]
    assert driver.asked == [LinkPolling.MII]


def test_a_driver_without_mii_is_asked_in_another_way() -> None:
    driver = Driver(LinkPolling.IOCTL, up=False)
    assert reports(driver, lambda _: []) == [False]
    assert driver.asked == [LinkPolling.MII, LinkPolling.ETHTOOL, LinkPolling.IOCTL]


def test_a_device_that_does_not_exist_has_no_state() -> None:
    driver = Driver(ETHTOOL, up=None)
    assert reports(driver, lambda _: [lambda: setattr(driver, "up", True)]) == [True]


def test_a_reload_reports_again() -> None:
    driver = Driver(ETHTOOL, up=True)

    def again(poller: LinkPoller) -> list[Callable[[], None]]:
        return [lambda: poller.configure([PolledLink("eth0", ETHTOOL)])]

    assert reports(driver, again) == [True, True]


def test_a_driver_that_hangs_delays_no_other_link_and_its_own_result_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[FakeThread] = []
    reported: list[tuple[str, bool | None]] = []
    states = {"eth0": True, "eth1": True}

    def start(name: str) -> FakeThread:
        threads.append(FakeThread())
        return threads[-1]

    async def begin() -> None:
        poller.configure([PolledLink("eth0"), PolledLink("eth1")])

    monkeypatch.setattr(link_polling, "DaemonThread", start)
    loop = FakeTimeLoop()
    poller = LinkPoller(lambda each: reported.append((each.track.name, each.up)), lambda _, name, __: states[name])
    loop.run_until_complete(begin())
    loop.pass_(POLL_S)
    assert reported == [("eth0", True), ("eth1", True)]
    threads[0].blocked = True
    states["eth1"] = False
    loop.pass_(2 * POLL_S + PROGRESS_S)
    assert (reported[2:], list(poller.late())) == ([("eth1", False)], [("link", "eth0")])
    threads[0].release()
    loop.pass_(POLL_S)
    assert (reported[3:], list(poller.late())) == ([("eth0", True)], [])
    loop.run_until_complete(poller.finish())
    loop.close()
