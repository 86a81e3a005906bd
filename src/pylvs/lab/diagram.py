"""Draw a lab: every switch with its hosts, their addresses and MACs."""

from __future__ import annotations

from collections.abc import Iterator

from pylvs.lab.network import DIRECTOR, SERVER, Host, Interface, Network, address_of

DEVICE_WIDTH = 6


def draw(name: str, network: Network) -> str:
    """Return text of at most 80 to 100 columns."""
    return "\n".join(_lines(name, network)) + "\n"


def _lines(name: str, network: Network) -> Iterator[str]:
    yield f"lab {name}: {network.title}"
    yield f"  {network.path}"
    width = max(len(address) for host in network.hosts for address, _ in _rows(network, host)) + 1
    for link in network.links:
        yield ""
        yield f"  ║ {link.name}  {link.about}"
        plugged = [(host, card) for host in network.hosts for card in host.interfaces if card.link == link.name]
        for host, card in plugged:
            yield from _card(network, host, card, width)
    yield ""
    if network.entry != network.vip:
        yield f"  the router translates {network.entry} to the VIP {network.vip} and back"
    yield f"  clients ask for http://VIP/ (VIP is {network.entry}, as /etc/hosts of each client says)"


def _rows(network: Network, host: Host) -> list[tuple[str, str]]:
    """Return all (address, note) pairs of a host."""
    return [row for card in host.interfaces for row in _addresses(network, host, card)]


def _addresses(network: Network, host: Host, card: Interface) -> list[tuple[str, str]]:
    rows = list(zip(card.addresses, card.notes, strict=False))
    if host.role == DIRECTOR and host.vip_device == card.device:
        rows.append((f"{network.vip}/{network.vip_prefix}", "VIP"))
    if host.shared_vip_device == card.device:
        rows.append((f"{network.vip}/{network.vip_prefix}", "VIP while it is MASTER"))
    return rows or [("no address yet", "")]


def _card(network: Network, host: Host, card: Interface, width: int) -> Iterator[str]:
    (address, note), *more = _addresses(network, host, card)
    yield f"  ╟─ {host.name:<9} {card.device:<{DEVICE_WIDTH}} {address:<{width}} {card.mac}  {note}".rstrip()
    for address, note in more:
        yield f"  ║{'':<{12 + DEVICE_WIDTH + 1}} {address:<{width}} {'':<17}  {note}".rstrip()
    if host.role == SERVER and any(word.startswith("pylvs realserver") for word in host.commands):
        text = "VIP, no ARP for it" if network.version == 4 else "VIP"
        if any("--tunnel" in word for word in host.commands):
            text += ", decapsulates"
        bits = 32 if network.version == 4 else 128
        yield f"  ║{'':<12}{'lo':<{DEVICE_WIDTH}} {network.vip + f'/{bits}':<{width}} {'':<17}  {text}".rstrip()


def commands(network: Network) -> str:
    """Return the commands that configured the hosts, as HOST# COMMAND."""
    lines = []
    for host in network.hosts:
        if host.vip_device:
            lines.append(f"{host.name}# ip addr add {network.vip}/{network.vip_prefix} dev {host.vip_device}")
        lines += [f"{host.name}# {command}" for command in host.commands]
    return "".join(f"  {line}\n" for line in lines)


def address_list(network: Network) -> str:
    """Return one line for `pylvs lab list`."""
    servers = len(network.role(SERVER))
    dips = [address_of(card.addresses[0]) for host in network.role(DIRECTOR) if (card := host.interfaces[0]).addresses]
    dip = " and ".join(dips) or "none yet"
    return f"{network.topology:<17} VIP {network.entry}  DIP {dip}  {servers} real server{'s' if servers != 1 else ''}"
