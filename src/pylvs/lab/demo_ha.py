"""The tour of two directors: the master dies in front of the reader, comes back, and is stopped as one should."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.text import Text

from pylvs.lab import drawing, power
from pylvs.lab.connections import staying
from pylvs.lab.files import CONFIGURATION
from pylvs.lab.guide import Guide
from pylvs.lab.network import DIRECTOR
from pylvs.lab.pause import watched
from pylvs.lab.topologies.ha import BACKUP
from pylvs.model.errors import Unsupported

FIRST, SECOND = f"{DIRECTOR}1", f"{DIRECTOR}2"
PATIENCE_S = 60.0
REQUESTS = 3
SKEW_S = (256 - BACKUP[1]) / 256
MEANING = (
    "Two directors have the same configuration, and one holds the VIP: the MASTER. It says so every second, to "
    "everybody on the link (VRRP). The BACKUP listens, and has the same table ready."
)
DEATH = (
    f"{FIRST} loses its power: no word from it any more. {SECOND} waits for three advertisements that do not come, "
    f"and then, by its priority, another {SKEW_S:.2f} s (the skew). It takes the VIP, and says so to everybody "
    "(gratuitous ARP)."
)
FAREWELL = f"Stopped, {FIRST} says that it goes: an advertisement with priority 0. {SECOND} only waits for the skew."


def walk(guide: Guide, peer: str) -> None:
    """All steps. Raises PylvsError if something does not come out as told."""
    lab, network = guide.lab, guide.lab.network
    guide.step("Two directors", MEANING)
    guide.console.print(Text(drawing.picture(lab.name, network).rstrip()), soft_wrap=True)

    guide.step("Their configuration", "The same keepalived.conf but for two words.")
    guide.run(FIRST, f"cat {CONFIGURATION}")
    guide.run(SECOND, f"grep -E 'state|priority' {CONFIGURATION}")
    guide.run(SECOND, f"service {peer} status")

    guide.step("Who holds the VIP")
    _await(guide, FIRST)
    _who(guide, peer)
    for _ in range(REQUESTS):
        guide.run("client", "curl -s --max-time 5 http://VIP/")

    guide.step("The master dies", DEATH)
    with staying(lab) as connections:
        with _watching(guide, SECOND):
            guide.say(FIRST, "(power off)")
            power.off(lab, FIRST)
        _who(guide, peer, (SECOND,))
        if peer == "pylvs":
            guide.run(SECOND, "pylvs vrrp why")
        guide.run("client", "curl -s --max-time 5 http://VIP/")
        fates = Counter(connections.ask())
    told = ", ".join(f"{count} {fate}" for fate, count in fates.items())
    guide.console.print(Text(f"Connections that were open: {told}."), soft_wrap=True)
    guide.console.print(
        Text("The new master does not know them: their clients connect again. New ones are served.", style="italic"),
        soft_wrap=True,
    )

    guide.step("It comes back", f"{FIRST} has the higher priority, so it takes over again; {SECOND} gives way at once.")
    with _watching(guide, FIRST):
        guide.say(FIRST, "(power on)")
        power.on(lab, FIRST)
    _who(guide, peer)

    guide.step("The master is stopped", FAREWELL)
    with _watching(guide, SECOND):
        guide.run(FIRST, "service pylvs stop")
    guide.run("client", "curl -s --max-time 5 http://VIP/")


@contextmanager
def _watching(guide: Guide, next_master: str) -> Iterator[None]:
    """What happens here gives the VIP to another director; how long the client waited is printed."""
    lab = guide.lab
    with watched(lab.place("client").inside(), lab.network.vip) as seen:
        begin = time.time()
        yield
        _await(guide, next_master)
        seen.answered()
    pause = seen.pause(begin)
    guide.console.print(
        Text(f"The client, which asks every 2 ms, had no answer for {pause.seconds:.3f} s.", style="bold yellow"),
        soft_wrap=True,
    )


def _await(guide: Guide, host: str) -> None:
    """Until a director holds the VIP, and the other does not say so. Raises Unsupported."""
    deadline = time.monotonic() + PATIENCE_S
    while not guide.lab.sh(host, f"ip -o addr show to {guide.lab.network.vip}"):
        guide.signals.check()
        if time.monotonic() > deadline:
            raise Unsupported(f"{host} does not hold the VIP after {PATIENCE_S:g} s")
        time.sleep(0.05)


def _who(guide: Guide, peer: str, hosts: tuple[str, ...] = (FIRST, SECOND)) -> None:
    for host in hosts:
        if host == FIRST or peer == "pylvs":
            guide.run(host, "pylvs vrrp status")
        guide.run(host, f"ip -brief addr show {guide.lab.network.hosts[1].shared_vip_device}")
