"""What ip(8) and tc(8) print of devices beyond the kernel's usual messages: offloads and queueing disciplines."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from pylvs.model.dataclass import dataclass

_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_LIMIT_S = 3.0
_FEW = 100  # packets that say nothing
_MUCH = 0.1  # of the packets
LARGEST = 65536  # bytes that the kernel merges without BIG TCP


@dataclass(frozen=True, slots=True)
class Loss:
    """A queueing discipline that loses packets."""

    kind: str
    text: str


class LinkSettings:
    """The queueing disciplines and the details of all devices."""

    def __init__(self, links: Sequence[Mapping[str, Any]], queues: Sequence[Mapping[str, Any]]) -> None:
        self._links = {each.get("ifname", ""): each for each in links}
        self._queues = queues

    def losses(self, device: str) -> Iterator[Loss]:
        """Yield the disciplines of a device that lose packets on purpose, or at least a tenth."""
        for queue in self._queues:
            if queue.get("dev") != device or queue.get("kind") in ("clsact", "ingress"):
                continue
            options = queue.get("options", {})
            for name, key in (("loss-random", "loss"), ("corrupt", "corrupt"), ("loss-gemodel", "p")):
                if share := options.get(name, {}).get(key, 0):
                    yield Loss(str(queue["kind"]), f"{name.partition('-')[0]} {share:.0%}")
            sent, dropped = queue.get("packets", 0), queue.get("drops", 0)
            if queue.get("kind") != "netem" and dropped > _FEW and dropped > _MUCH * (sent + dropped):
                yield Loss(str(queue["kind"]), f"drops: {dropped}, sent: {sent}")

    def has_ingress(self, device: str) -> bool:
        """Return whether a device has an ingress qdisc, which excludes clsact."""
        return any(each.get("dev") == device and each.get("kind") == "ingress" for each in self._queues)

    def is_without_arp(self, device: str) -> bool:
        """Return whether ARP is off for a device."""
        return "NOARP" in self._links.get(device, {}).get("flags", ())

    def merges(self, device: str) -> int:
        """Return the longest packet that the kernel merges on a device, in bytes; 0 if that is not known."""
        found = self._links.get(device, {})
        return max(int(found.get(name, 0)) for name in ("gro_max_size", "gro_ipv4_max_size"))


@cache
def link_settings() -> LinkSettings:
    """Return the settings of this network namespace, read at the first call."""
    return LinkSettings(_printed("ip", "-j", "-d", "link", "show"), _printed("tc", "-s", "-j", "qdisc", "show"))


def _printed(command: str, *arguments: str) -> Sequence[Mapping[str, Any]]:
    path = shutil.which(command, path=_PATH)
    if path is None:
        return ()
    with suppress(subprocess.TimeoutExpired, ValueError):
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=_LIMIT_S, check=False)
        found = json.loads(done.stdout or "[]")
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else ()
    return ()
