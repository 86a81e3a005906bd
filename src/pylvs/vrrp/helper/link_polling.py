"""Poll the state of links (linkbeat_use_polling): by MII registers, ETHTOOL_GLINK, or the flags of the device.

A driver may wait for its hardware here, so the router process does not poll. Formats: linux/mii.h, ethtool.h, if.h.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import struct
from collections.abc import Callable, Iterable, Iterator

from pylvs.model.vrrp import LinkPolling, PolledLink, Track
from pylvs.system.logs import get_logger
from pylvs.system.threads import DaemonThread
from pylvs.vrrp.helper.source import PROGRESS_S, Source
from pylvs.vrrp.tracking import Key, TrackedObject

POLL_S = 1.0
SIOCGIFFLAGS, SIOCETHTOOL, SIOCGMIIPHY, SIOCGMIIREG = 0x8913, 0x8946, 0x8947, 0x8948
ETHTOOL_GLINK = 0x0A
MII_STATUS, LINK_UP = 0x01, 0x0004  # MII_BMSR, BMSR_LSTATUS
IFF_UP, IFF_RUNNING = 0x1, 0x40
IFREQ_OCTETS, NAME_OCTETS = 40, 16
WAYS = (LinkPolling.MII, LinkPolling.ETHTOOL, LinkPolling.IOCTL)  # in the order of preference


def is_up(end: socket.socket, device: str, polling: LinkPolling) -> bool:
    """Return the state of a link; raises OSError where the driver does not support this way."""
    match polling:
        case LinkPolling.MII:
            return _mii(end, device)
        case LinkPolling.ETHTOOL:
            return _ethtool(end, device)
        case LinkPolling.IOCTL:
            (flags,) = struct.unpack_from("=H", _ioctl(end, SIOCGIFFLAGS, device, b""), NAME_OCTETS)
            return bool(flags & IFF_UP and flags & IFF_RUNNING)


def _mii(end: socket.socket, device: str) -> bool:
    """Read the status register of the device's PHY twice: the first read clears a latched failure."""
    (phy,) = struct.unpack_from("=H", _ioctl(end, SIOCGMIIPHY, device, b""), NAME_OCTETS)
    request = struct.pack("=HHHH", phy, MII_STATUS, 0, 0)
    _ioctl(end, SIOCGMIIREG, device, request)
    answer = _ioctl(end, SIOCGMIIREG, device, request)
    return bool(struct.unpack_from("=HHHH", answer, NAME_OCTETS)[3] & LINK_UP)


def _ethtool(end: socket.socket, device: str) -> bool:
    value = array.array("I", [ETHTOOL_GLINK, 0])
    address, _ = value.buffer_info()
    _ioctl(
        end,
        SIOCETHTOOL,
        device,
        struct.pack("=Q", address) if struct.calcsize("P") == 8 else struct.pack("=I", address),
    )
    return bool(value[1])


def _ioctl(end: socket.socket, request: int, device: str, data: bytes) -> bytes:
    name = device.encode().ljust(NAME_OCTETS, b"\0")
    return fcntl.ioctl(end, request, (name + data).ljust(IFREQ_OCTETS, b"\0"))


Probe = Callable[[socket.socket, str, LinkPolling], bool]


class LinkPoller:
    """Poll all links of a configuration each second; `report` receives the first state and each change."""

    def __init__(self, report: Callable[[TrackedObject], None], probe: Probe = is_up, wait_s: float = POLL_S) -> None:
        self._report = report
        self._probe = probe
        self._wait_s = wait_s
        self._watches: dict[str, LinkWatch] = {}

    def configure(self, links: Iterable[PolledLink]) -> None:
        """Replace the links; all states are reported again."""
        wanted = {each.device: each for each in links}
        for device in [each for each in self._watches if each not in wanted]:
            self._watches.pop(device).cancel()
        for device, link in wanted.items():
            if device in self._watches:
                self._watches[device].configure(link)
            else:
                self._watches[device] = LinkWatch(link, self._report, self._probe, self._wait_s)

    def late(self) -> Iterator[Key]:
        """Yield the links without a current result."""
        return (("link", device) for device, watch in self._watches.items() if watch.source.late)

    async def finish(self) -> None:
        """Stop polling."""
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*(watch.source.finish() for watch in self._watches.values()))
        self._watches.clear()


class LinkWatch:
    """One link, with a thread of its own: a driver that hangs delays no other link."""

    def __init__(self, link: PolledLink, report: Callable[[TrackedObject], None], probe: Probe, wait_s: float) -> None:
        self._link = link
        self._report, self._probe, self._wait_s = report, probe, wait_s
        self._way: LinkPolling | None = None  # that the driver supports
        self._known: bool | None = None
        self._thread = DaemonThread("pylvs-link")
        self._log = get_logger()
        self.source = Source(f"polling of the link {link.device}", self._poll)

    def configure(self, link: PolledLink) -> None:
        """Poll as configured now, and report the state again."""
        self._link, self._way, self._known = link, None, None

    def cancel(self) -> None:
        """Stop polling."""
        self.source.cancel()
        self._thread.shutdown()

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            while True:
                link = self._link
                up = await loop.run_in_executor(self._thread, self._state, end, link)
                was_late = self.source.advance(self._wait_s + PROGRESS_S)
                if link is self._link:
                    up = self._known if up is None else up
                    if up is not None and (was_late or up is not self._known):
                        self._known = up
                        self._report(TrackedObject("link", Track(link.device), up))
                await asyncio.sleep(self._wait_s)

    def _state(self, end: socket.socket, link: PolledLink) -> bool | None:
        """Return the state of a link; None where no way works, as for a device that does not exist."""
        known = self._way
        for way in (known,) if known else (link.polling, *(each for each in WAYS if each is not link.polling)):
            try:
                up = self._probe(end, link.device, way)
            except OSError:
                continue
            if known is None:
                self._way = way
                if way is not link.polling:
                    self._log.info(
                        f"the link of {link.device} is polled by {way.value}: its driver lacks {link.polling.value}"
                    )
            return up
        self._way = None
        return None
