"""Which devices count as up: those that the kernel reports and polling confirms, if that lasts.

Polling is linkbeat_use_polling, and interface_up_down_delays is how long a change must last.

As in keepalived, a device must have been up before its changes are delayed, and the removal of a device counts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import LinkDelay, PolledLink
from pylvs.vrrp.loop import Loop, Timer
from pylvs.vrrp.netlink_monitor import Link


@dataclass(slots=True)
class _Device:
    """What counts for a device, and the timer of a change that must last."""

    up: bool
    seen_up: bool
    timer: Timer | None = None

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class LinkDelays:
    """The devices with a delay, or with a polled link; `on_change` is called when a delayed change counts."""

    def __init__(self, loop: Loop, on_change: Callable[[], None]) -> None:
        self._loop = loop
        self._on_change = on_change
        self._delays: dict[str, LinkDelay] = {}
        self._devices: dict[str, _Device] = {}
        self._beats: dict[str, bool] = {}  # results of polling

    def configure(self, delays: Iterable[LinkDelay], polled: Iterable[PolledLink] = ()) -> None:
        """Replace the delays and the polled links. A pending change of a device without a delay counts now."""
        self._delays = {each.device: each for each in delays}
        names = {each.device for each in polled}
        self._beats = {name: up for name, up in self._beats.items() if name in names}
        for name in [each for each in self._devices if each not in self._delays]:
            self._devices.pop(name).cancel()

    def set_beat(self, name: str, up: bool) -> None:
        """Set the result of polling; call `update` then."""
        self._beats[name] = up

    def _runs(self, name: str, running: bool) -> bool:
        return running and self._beats.get(name, True)

    def update(self, links: Mapping[str, Link]) -> None:
        """Compare with the present state of the links, and start or cancel timers."""
        for name, delay in self._delays.items():
            link = links.get(name)
            if link is None:
                if name in self._devices:
                    self._devices.pop(name).cancel()
                continue
            runs = self._runs(name, link.running)
            device = self._devices.setdefault(name, _Device(runs, runs))
            if device.up == runs:
                device.cancel()
                continue
            wait_s = delay.up_s if runs else delay.down_s
            if not device.seen_up or not wait_s:
                self._set(device, runs)
            elif device.timer is None:
                call = partial(self._counts, device, runs)
                device.timer = self._loop.at(self._loop.now + wait_s, call)

    def is_up(self, name: str, running: bool) -> bool:
        """Return whether a device counts as up; `running` is the kernel's state."""
        device = self._devices.get(name)
        return self._runs(name, running) if device is None else device.up

    def _set(self, device: _Device, up: bool) -> None:
        device.cancel()
        device.up = up
        device.seen_up = device.seen_up or up

    def _counts(self, device: _Device, up: bool) -> None:
        self._set(device, up)
        self._on_change()
