"""A guided tour: a lab is made, every step really runs and is explained, and the lab is removed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from pylvs.lab import demo_ha, drawing
from pylvs.lab.capture import Capture, Frame, changes
from pylvs.lab.guide import Guide
from pylvs.lab.interrupts import held
from pylvs.lab.lab import build, take_down
from pylvs.lab.network import DIRECTOR, SERVER
from pylvs.lab.topologies import design
from pylvs.model.errors import Unsupported

REQUESTS = 6
WIDTH_WITHOUT_TERMINAL = 96
SHOWN_BYTES = 64
BYTES_A_LINE = 16

MEANING = {
    "dr": (
        "Direct routing: the director only chooses. It gives the frame a real server's link address and sends it on; "
        "the packet inside still goes to the VIP. Each real server has the VIP on lo, takes the packet for its own, "
        "and answers the client itself."
    ),
    "nat": (
        "NAT: the director writes a real server's address into the packet, and its own back into the answer. So both "
        "directions pass it: it is the real servers' gateway, and the only method that can change the port."
    ),
    "tun": (
        "Tunnelling: the director puts the packet, as it is, into another one addressed to a real server, which may be "
        "anywhere. The real server unwraps it, finds the VIP on its lo, and answers the client itself."
    ),
}
QUIET = {
    4: (
        "Real servers hold the VIP but must not say so: arp_ignore=1 keeps them from answering ARP for it, "
        "arp_announce=2 from asking with it. Only the director answers, so clients' frames go there."
    ),
    6: (
        "Real servers hold the VIP on lo. Neighbour discovery answers only for addresses of the device that was asked, "
        "so only the director answers for it, and clients' frames go there."
    ),
}


def tour(topology: str, version: int, overrides: Mapping[str, Any] | None = None) -> None:
    """The whole tour. Raises PylvsError if something does not do what is told; the lab is removed in any case."""
    network = design(topology, version=version, overrides=overrides)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)
    with held() as signals:
        name = f"demo{os.getpid()}"
        lab = build(name, network)
        try:
            guide = Guide(lab, console, signals)
            if topology == "ha":
                demo_ha.walk(guide, (overrides or {}).get("peer", "pylvs"))
            else:
                _walk(guide, topology)
        finally:
            take_down(name)
    console.print()
    console.print(Text(f"The lab is gone again. Yours: pylvs lab up {topology}", style="bold green"))


def _walk(guide: Guide, topology: str) -> None:
    lab, network = guide.lab, guide.lab.network
    client = network.role("client")[0].name
    guide.step("A small network", MEANING[topology])
    guide.console.print(Text(drawing.picture(lab.name, network).rstrip()), soft_wrap=True)

    guide.step("The director", "These commands made it one; no daemon runs.")
    guide.console.print(Text(drawing.commands(network).rstrip()), soft_wrap=True)
    guide.run(DIRECTOR, "ipvsadm -Ln")
    guide.run(DIRECTOR, "cat /proc/sys/net/ipv4/ip_forward")
    guide.run(DIRECTOR, "pylvs show")

    needs = "They need nothing but a route through the director." if topology == "nat" else QUIET[network.version]
    guide.step("The real servers", needs)
    server = network.role(SERVER)[0].name
    guide.run(server, "pylvs realserver status" if topology != "nat" else "ip route")

    guide.step("Requests", "The same address each time, and another real server answers.")
    answers = [guide.run(client, "curl -s --max-time 5 http://VIP/").strip() for _ in range(REQUESTS)]
    tally = Counter(answers)
    if len(tally) != len(network.role(SERVER)):
        raise Unsupported(f"the requests should have reached every real server, but: {dict(tally)}")

    guide.step("On the wire", "The first frame of one more request, as it reaches the director and as it leaves.")
    director = network.host(DIRECTOR)
    assert director is not None
    with Capture(lab, director) as capture:
        guide.run(client, "curl -s --max-time 5 http://VIP/")
        _show_frames(guide.console, capture.frames(), exact=topology == "dr")

    guide.step("The counts", "Closed connections are inactive until they are forgotten, two minutes after the end.")
    guide.run(DIRECTOR, "ipvsadm -Ln")
    guide.run(DIRECTOR, "ipvsadm -Ln --stats")


def first_of_connection(frames: Sequence[Frame]) -> tuple[Frame, Frame]:
    """The client's SYN as it came to the director and as it left. Raises Unsupported if one of them was not seen."""
    first = [frame for frame in frames if frame.flags == ["SYN"]]
    before = next((frame for frame in first if frame.to_host), None)
    after = next((frame for frame in first if not frame.to_host), None)
    if before is None or after is None:
        raise Unsupported("the director did not forward the first packet of the connection")
    return before, after


def _show_frames(console: Console, frames: Sequence[Frame], exact: bool) -> None:
    before, after = first_of_connection(frames)
    different = changes(before, after) if exact else []
    for title, frame in (("to the director", before), ("from the director", after)):
        text = Text("\n".join(frame.describe()))
        if exact:
            text.append("\n\n")
            text.append_text(_dump(frame, set(different)))
        console.print(Panel(text, title=f"{title} ({frame.port})", title_align="left", expand=False))
    if exact:
        names = list(dict.fromkeys(after.field(offset) for offset in different))
        same = len(before.data) - len(different)
        told = f"Changed: {', '.join(names)}. The other {same} of {len(before.data)} bytes are the same."
        console.print(Text(told), soft_wrap=True)
        console.print(
            Text("The TTL is one less, as in IPVS: it ends loops of packets between directors.", style="italic")
        )


def _dump(frame: Frame, marked: set[int]) -> Text:
    """The first bytes in hexadecimal, some of them marked; [ ] for those who see no colours."""
    text = Text()
    shown = frame.data[:SHOWN_BYTES]
    for start in range(0, len(shown), BYTES_A_LINE):
        text.append(f"{start:04x} ", style="dim")
        for at in range(start, min(start + BYTES_A_LINE, len(shown))):
            if at in marked:
                text.append(f"[{shown[at]:02x}]", style="bold red")
            else:
                text.append(f" {shown[at]:02x} ")
        text.append("\n")
    text.rstrip()
    return text
