"""interface_up_down_delays in simulated time."""

from __future__ import annotations

import pytest

from pylvs.model.vrrp import LinkDelay, PolledLink
from pylvs.netlink.monitor import LinkMessage
from pylvs.vrrp.link_delays import LinkDelays
from tests.unit.vrrp.fake_loop import FakeTimeLoop


class Devices:
    """eth0 with a delay, and what counts for it."""

    def __init__(self, down_s: float, up_s: float) -> None:
        self.loop = FakeTimeLoop()
        self.changes = 0
        self.links: dict[str, LinkMessage] = {}
        self.delays = LinkDelays(self.loop, self._changed)
        self.delays.configure([LinkDelay("eth0", down_s, up_s)])

    def _changed(self) -> None:
        self.changes += 1

    def set(self, running: bool | None) -> None:
        """Change the state of eth0; None removes it."""
        self.links = {} if running is None else {"eth0": LinkMessage(1, "eth0", running=running)}
        self.delays.update(self.links)

    def up(self) -> bool:
        """Return whether eth0 counts as up."""
        present = self.links.get("eth0")
        return present is not None and self.delays.is_up("eth0", present.running)


@pytest.fixture
def devices() -> Devices:
    made = Devices(2.0, 1.0)
    made.set(True)
    assert made.up()
    return made


def test_a_change_counts_after_its_delay(devices: Devices) -> None:
    devices.set(False)
    devices.loop.pass_(1.99)
    assert (devices.up(), devices.changes) == (True, 0)
    devices.loop.pass_(0.02)
    assert (devices.up(), devices.changes) == (False, 1)
    devices.set(True)
    devices.loop.pass_(0.99)
    assert not devices.up()
    devices.loop.pass_(0.02)
    assert (devices.up(), devices.changes) == (True, 2)


def test_a_short_interruption_does_not_count(devices: Devices) -> None:
    devices.set(False)
    devices.loop.pass_(1.5)
    devices.set(True)
    devices.loop.pass_(0.4)
    devices.set(False)
    devices.loop.pass_(1.9)
    assert (devices.up(), devices.changes) == (True, 0)


def test_further_messages_do_not_prolong_the_delay(devices: Devices) -> None:
    devices.set(False)
    devices.loop.pass_(1.5)
    devices.set(False)
    devices.loop.pass_(0.6)
    assert not devices.up()


def test_a_removed_device_is_down_at_once(devices: Devices) -> None:
    devices.set(None)
    assert not devices.up()
    devices.set(False)
    devices.set(True)
    assert devices.up(), "a device that has not been up yet has no delay"


def test_the_delay_that_a_reload_removes_ends_at_once(devices: Devices) -> None:
    devices.set(False)
    devices.delays.configure([])
    assert not devices.up()
    devices.loop.pass_(5)
    assert devices.changes == 0


def test_a_device_that_was_never_up_counts_as_up_at_once() -> None:
    devices = Devices(2.0, 1.0)
    devices.set(False)
    devices.set(True)
    assert devices.up()


def test_a_polled_link_is_up_only_if_polling_confirms_it() -> None:
    devices = Devices(0, 0)
    devices.delays.configure([], [PolledLink("eth0")])
    devices.set(True)
    assert devices.up(), "there is no result yet"
    devices.delays.set_beat("eth0", False)
    assert not devices.up()
    devices.delays.configure([])
    assert devices.up(), "it is not polled any more"


def test_the_result_of_polling_is_delayed_too(devices: Devices) -> None:
    devices.delays.set_beat("eth0", False)
    devices.delays.update(devices.links)
    devices.loop.pass_(1.9)
    assert devices.up()
    devices.loop.pass_(0.2)
    assert (devices.up(), devices.changes) == (False, 1)
