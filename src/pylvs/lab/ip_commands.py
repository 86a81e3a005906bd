"""Commands for `ip -batch` and shells that make the namespaces of a network."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface

from pylvs.lab.hosts import LabHost
from pylvs.lab.network import NETWORK_HOST, Host, Network


def namespaces(lab: str, network: Network) -> list[str]:
    """Return commands for ip that make all network namespaces."""
    return [f"netns add {LabHost(lab, name).network.name}" for name in (NETWORK_HOST, *(h.name for h in network.hosts))]


def wires(lab: str, network: Network) -> list[str]:
    """Return commands for ip in the lab's own namespace: bridges, and a veth pair for each interface."""
    lines = []
    for link in network.links:
        lines.append(f"link add {link.name} type bridge forward_delay 0 mcast_snooping 0")
        lines.append(f"link set {link.name} up")
    for host in network.hosts:
        for number, card in enumerate(host.interfaces):
            port = port_name(host, number)
            peer = f"peer name {card.device} address {card.mac} netns {LabHost(lab, host.name).network.name}"
            lines.append(f"link add {port} type veth {peer}")
            lines.append(f"link set {port} master {card.link} up")
    return lines


def port_name(host: Host, number: int) -> str:
    """Return the name of the bridge's end of a link."""
    return f"{host.name}-{number}"


def quiet_switches() -> str:
    """Return a script for the lab's own namespace that disables IPv6 on bridges."""
    return "cd /proc/sys/net/ipv6/conf 2>/dev/null || exit 0; echo 1 >all/disable_ipv6; echo 1 >default/disable_ipv6\n"


def addresses(network: Network, host: Host) -> Iterator[str]:
    """Return commands for ip in a host: addresses and routes."""
    yield "link set lo up"
    for card in host.interfaces:
        if card.addresses:
            yield f"link set {card.device} up"
        yield from (_add(address, card.device) for address in card.addresses)
    if host.vip_device:
        yield _add(f"{network.vip}/{network.vip_prefix}", host.vip_device)
    if host.gateway:
        yield f"route add default via {host.gateway}"
    yield from (f"route add {route}" for route in host.routes)


def _add(address: str, device: str) -> str:
    is_ipv6 = ip_interface(address).version == 6
    return f"addr add {address} dev {device}" + (" nodad" if is_ipv6 else "")


def until(command: str) -> str:
    """Return a shell command that waits until another one succeeds."""
    return f"until {command} >/dev/null 2>&1; do sleep 0.1; done"
