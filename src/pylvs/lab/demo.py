"""Guided tours: each makes a lab, runs and explains every step, and removes the lab."""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import IO, Any, Literal

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from pylvs.lab.capture import Frame, captured, changes
from pylvs.lab.files import CONFIGURATION
from pylvs.lab.hosts import COMMAND
from pylvs.lab.lab import Lab, build, power_off, power_on, take_down
from pylvs.lab.network import DIRECTOR, SERVER, command_lines, draw
from pylvs.lab.outage import watched
from pylvs.lab.processes import DeferredSignals, defer_signals
from pylvs.lab.topologies import BACKUP, design
from pylvs.model.errors import Unsupported
from pylvs.system.namespaces import inside_network

REMOVAL = os.environ.get("PYLVS_REMOVAL", "")  # from ./dev: how the caller removes what it installed
REQUESTS = 6
WIDTH_WITHOUT_TERMINAL = 96
SHOWN_BYTES = 64
BYTES_A_LINE = 16

MEANING = {
    "dr": (
        "Direct routing: the director chooses a real server, and sends the frame to its link address. The packet "
        "inside still has the VIP as its destination. Each real server has the VIP on lo, accepts the packet, and "
        "answers the client directly."
    ),
    "nat": (
        "NAT: the director replaces the VIP by a real server's address in requests, and the real server's address by "
        "the VIP in replies. Both directions pass the director, which is the gateway of the real servers. Only this "
        "method can change the port."
    ),
    "tun": (
        "Tunnelling: the director encapsulates the packet, and sends it to a real server, which may be in any network. "
        "The real server decapsulates it, has the VIP on lo, and answers the client directly."
    ),
}
NO_ARP = {
    4: (
        "Real servers have the VIP but must not announce it. With arp_ignore=1 they do not answer ARP for it, with "
        "arp_announce=2 they do not ask with it. Only the director answers, so it receives the clients' frames."
    ),
    6: (
        "Real servers have the VIP on lo. Neighbour discovery answers only for addresses of the receiving device. "
        "Only the director answers for the VIP, so it receives the clients' frames."
    ),
}
FIRST, SECOND = f"{DIRECTOR}1", f"{DIRECTOR}2"
PATIENCE_S = 60.0
CONNECTION_TIMEOUT_S = 20.0
KEPT = "kept"
REQUESTS_HA = 3
SKEW_S = (256 - BACKUP[1]) / 256
MEANING_HA = (
    "Two directors have the same configuration. One has the VIP: the MASTER. Each second it sends an advertisement to "
    "all hosts on the link (VRRP). The BACKUP receives them, and has the same table."
)
POWER_OFF = (
    f"{FIRST} loses its power and sends nothing more. {SECOND} waits for three advertisements that do not come, "
    f"and then, by its priority, another {SKEW_S:.2f} s (the skew). It takes the VIP, and announces it to all hosts "
    "(gratuitous ARP)."
)
CLEAN_STOP = f"{FIRST} stops and sends an advertisement with priority 0. {SECOND} waits for the skew alone."


class Guide:
    """Print explanations and commands, and run the commands."""

    def __init__(self, lab: Lab, console: Console, signals: DeferredSignals) -> None:
        self.lab = lab
        self.console = console
        self.signals = signals
        self._step = 0

    def step(self, title: str, text: str = "") -> None:
        """Start the next part of the tour."""
        self.signals.check()
        self._step += 1
        self.console.print()
        self.console.rule(Text(f"{self._step}. {title}", style="bold"), align="left")
        if text:
            self.console.print(Text(text, style="italic"))

    def print(self, text: str, style: str = "") -> None:
        """Print a text as it is; the terminal breaks its lines."""
        self.console.print(Text(text.rstrip("\n"), style=style), soft_wrap=True)

    def show(self, host: str, command: str) -> None:
        """Show a command."""
        self.signals.check()
        self.console.print(Text.assemble((f"{host}# ", "cyan"), (command, "bold")), soft_wrap=True)

    def run(self, host: str, command: str) -> str:
        """Show a command, run it, show its output. Raises Unsupported if it fails."""
        self.show(host, command)
        output = self.lab.sh(host, command)
        self.print(output)
        return output


def console(file: IO[str] | None = None) -> Console:
    """Return a console on stdout, or another stream; without colours and bold text where NO_COLOR is set."""
    # rich itself would print bold and italics all the same
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    found = Console(file=file, highlight=False, color_system=colours)
    return found if found.is_terminal else Console(file=file, highlight=False, width=WIDTH_WITHOUT_TERMINAL)


def tour(topology: str, version: int, overrides: Mapping[str, Any] | None = None) -> None:
    """Run a tour. Raises PylvsError if a step has another result than explained. Always removes the lab."""
    network = design(topology, version=version, overrides=overrides)
    output = console()
    with defer_signals() as signals:
        name = f"demo{os.getpid()}"
        lab = build(name, network)
        try:
            guide = Guide(lab, output, signals)
            if topology == "ha":
                _walk_ha(guide, (overrides or {}).get("peer", "pylvs"))
            else:
                _walk(guide, topology)
        finally:
            take_down(name)
    removal = f"; {REMOVAL} removes what ./dev has installed" if REMOVAL else ""
    output.print()
    output.print(f"The lab is removed{removal}. Create your own, which stays:", soft_wrap=True)
    output.print(
        Text(f"{COMMAND} lab up {topology}", style="bold green"), soft_wrap=True
    )  # the last line can be pasted


def _walk(guide: Guide, topology: str) -> None:
    lab, network = guide.lab, guide.lab.network
    client = network.role("client")[0].name
    guide.step("A small network", MEANING[topology])
    guide.print(draw(lab.name, network))

    guide.step("The director", "These commands configured it. No daemon runs.")
    guide.print(command_lines(network))
    guide.run(DIRECTOR, "ipvsadm -Ln")
    guide.run(DIRECTOR, "cat /proc/sys/net/ipv4/ip_forward")
    guide.run(DIRECTOR, "pylvs show")

    needs = "They need nothing but a route through the director." if topology == "nat" else NO_ARP[network.version]
    guide.step("The real servers", needs)
    server = network.role(SERVER)[0].name
    guide.run(server, "pylvs realserver status" if topology != "nat" else "ip route")

    guide.step("Requests", "The same address each time, and another real server answers.")
    answers = [guide.run(client, "curl -s --max-time 60 http://VIP/").strip() for _ in range(REQUESTS)]
    tally = Counter(answers)
    if len(tally) != len(network.role(SERVER)):
        raise Unsupported(f"the requests should have reached every real server, but: {dict(tally)}")

    guide.step("On the wire", "The first frame of one more request, as it reaches the director and as it leaves.")
    with captured(lab, network.host(DIRECTOR)) as frames:
        guide.run(client, "curl -s --max-time 60 http://VIP/")
        _show_frames(guide, frames(), exact=topology == "dr")

    guide.step("The counts", "Closed connections are inactive until they are forgotten, two minutes after the end.")
    guide.run(DIRECTOR, "ipvsadm -Ln")
    guide.step("The packets", "As in IPVS, these counts are taken every two seconds.")
    guide.run(DIRECTOR, "sleep 3; ipvsadm -Ln --stats")


def first_of_connection(frames: Sequence[Frame]) -> tuple[Frame, Frame]:
    """Return the client's SYN as it came to the director and as it left. Raises Unsupported if one is missing."""
    first = [frame for frame in frames if frame.flags == ["SYN"]]
    before = next((frame for frame in first if frame.to_host), None)
    after = next((frame for frame in first if not frame.to_host), None)
    if before is None or after is None:
        raise Unsupported("the director did not forward the first packet of the connection")
    return before, after


def _show_frames(guide: Guide, frames: Sequence[Frame], exact: bool) -> None:
    before, after = first_of_connection(frames)
    different = changes(before, after) if exact else []
    for title, frame in (("to the director", before), ("from the director", after)):
        text = Text("\n".join(frame.describe()))
        if exact:
            text.append("\n\n")
            text.append_text(_dump(frame, set(different)))
        guide.console.print(Panel(text, title=f"{title} ({frame.port})", title_align="left", expand=False))
    if exact:
        names = list(dict.fromkeys(after.field(offset) for offset in different))
        same = len(before.data) - len(different)
        summary = f"Changed: {', '.join(names)}. The other {same} of {len(before.data)} bytes are the same."
        guide.print(summary)
        guide.console.print(
            Text("The TTL is one less, as in IPVS: it ends loops of packets between directors.", style="italic")
        )


def _dump(frame: Frame, marked: set[int]) -> Text:
    """Return the first bytes in hexadecimal; [ ] and colour mark some of them."""
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


class LongConnections:
    """Long-lived HTTP connections from a lab's client to its VIP."""

    def __init__(self, lab: Lab, count: int = 3) -> None:
        """Open them, and send one request over each. Raises OSError."""
        network = lab.network
        with inside_network(lab.host("client").network):
            sockets = [
                socket.create_connection((network.entry, network.port), CONNECTION_TIMEOUT_S) for _ in range(count)
            ]
        self._connections = [http.client.HTTPConnection(network.entry, network.port) for _ in sockets]
        for connection, made in zip(self._connections, sockets, strict=True):
            connection.auto_open = 0  # do not open a lost connection again
            connection.sock = made
        self._servers = [_ask(each) for each in self._connections]

    def ask(self) -> list[str]:
        """Send a request over each; return "kept", or why it is lost."""
        return [_outcome(each, server) for each, server in zip(self._connections, self._servers, strict=True)]

    def ports(self) -> set[int]:
        """Return the client's ports."""
        return {each.sock.getsockname()[1] for each in self._connections if each.sock}

    def close(self) -> None:
        for each in self._connections:
            each.close()


def _ask(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/")
    return connection.getresponse().read()


def _outcome(connection: http.client.HTTPConnection, server: bytes) -> str:
    try:
        return KEPT if _ask(connection) == server else "lost: another server answers"
    except ConnectionResetError:
        return "lost: reset"
    except TimeoutError:
        return "lost: no answer"
    except (OSError, http.client.HTTPException) as error:
        return f"lost: {error!r}"


def _walk_ha(guide: Guide, peer: str) -> None:
    """Run the steps of a take-over. Raises PylvsError if one has another result than explained."""
    lab, network = guide.lab, guide.lab.network
    guide.step("Two directors", MEANING_HA)
    guide.print(draw(lab.name, network))

    guide.step("Their configuration", "The same keepalived.conf except for two words.")
    guide.run(FIRST, f"cat {CONFIGURATION}")
    guide.run(SECOND, f"grep -E 'state|priority' {CONFIGURATION}")
    guide.run(SECOND, f"service {peer} status")

    guide.step("Who holds the VIP")
    _wait_for_vip(guide, FIRST)
    _show_roles(guide, peer)
    for _ in range(REQUESTS_HA):
        guide.run("client", "curl -s --max-time 60 http://VIP/")

    guide.step("The master dies", POWER_OFF)
    with closing(LongConnections(lab)) as connections:
        with _watching(guide, SECOND):
            guide.show(FIRST, "(power off)")
            power_off(lab, FIRST)
        _show_roles(guide, peer, (SECOND,))
        if peer == "pylvs":
            guide.run(SECOND, "pylvs vrrp why")
        guide.run("client", "curl -s --max-time 60 http://VIP/")
        outcomes = Counter(connections.ask())
    summary = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    guide.print(f"Connections that were open: {summary}.")
    guide.print("The new master does not know them: their clients connect again. New ones are served.", "italic")

    guide.step("It comes back", f"{FIRST} has the higher priority, so it takes over again; {SECOND} gives way at once.")
    with _watching(guide, FIRST):
        guide.show(FIRST, "(power on)")
        power_on(lab, FIRST)
    _show_roles(guide, peer)

    guide.step("The master is stopped", CLEAN_STOP)
    with _watching(guide, SECOND):
        guide.run(FIRST, "service pylvs stop")
    guide.run("client", "curl -s --max-time 60 http://VIP/")


@contextmanager
def _watching(guide: Guide, next_master: str) -> Iterator[None]:
    """Print how long the client waited while the block gives the VIP to another director."""
    lab = guide.lab
    with watched(lab.host("client").inside(), lab.network.vip) as seen:
        begin = time.time()
        yield
        _wait_for_vip(guide, next_master)
        seen.answered()
    outage = seen.outage(begin)
    guide.print(f"The client, which asks every 2 ms, had no answer for {outage.seconds:.3f} s.", "bold yellow")


def _wait_for_vip(guide: Guide, host: str) -> None:
    """Wait until a director has the VIP. Raises Unsupported."""
    deadline = time.monotonic() + PATIENCE_S
    while not guide.lab.sh(host, f"ip -o addr show to {guide.lab.network.vip}"):
        guide.signals.check()
        if time.monotonic() > deadline:
            raise Unsupported(f"{host} does not hold the VIP after {PATIENCE_S:g} s")
        time.sleep(0.05)


def _show_roles(guide: Guide, peer: str, hosts: tuple[str, ...] = (FIRST, SECOND)) -> None:
    for host in hosts:
        if host == FIRST or peer == "pylvs":
            guide.run(host, "pylvs vrrp status")
        guide.run(host, f"ip -brief addr show {guide.lab.network.hosts[1].shared_vip_device}")
