"""The commands that turn a network on paper into namespaces: for `ip -batch`, and a shell script for each host."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface

from pylvs.host.namespaces import NAMED
from pylvs.lab.files import BIG_FILE_BYTES, WEB_STATE, files_of
from pylvs.lab.network import NETWORK_HOST, SERVER, Host, Network
from pylvs.lab.places import PINS, Place

OWN_FOLDERS = ("/etc", "/usr/sbin", "/usr/local", "/var")  # what a host may write without anybody else seeing it
END_OF_FILE = "end-of-this-file"


def namespaces(lab: str, network: Network) -> list[str]:
    """For ip: all network namespaces."""
    return [f"netns add {Place(lab, name).network.name}" for name in (NETWORK_HOST, *(h.name for h in network.hosts))]


def wires(lab: str, network: Network) -> list[str]:
    """For ip in the lab's own namespace: the bridges, and a cable from each to every card that is plugged in."""
    lines = []
    for link in network.links:
        lines.append(f"link add {link.name} type bridge forward_delay 0 mcast_snooping 0")
        lines.append(f"link set {link.name} up")
    for host in network.hosts:
        for number, card in enumerate(host.interfaces):
            port = port_name(host, number)
            peer = f"peer name {card.device} address {card.mac} netns {Place(lab, host.name).network.name}"
            lines.append(f"link add {port} type veth {peer}")
            lines.append(f"link set {port} master {card.link} up")
    return lines


def port_name(host: Host, number: int) -> str:
    """The bridge's end of a cable."""
    return f"{host.name}-{number}"


def quiet_switches() -> str:
    """A script for the lab's own namespace: bridges speak no IPv6 themselves."""
    return "cd /proc/sys/net/ipv6/conf 2>/dev/null || exit 0; echo 1 >all/disable_ipv6; echo 1 >default/disable_ipv6\n"


def host_script(lab: str, network: Network, host: Host) -> str:
    """What a host does first, in its new mount and UTS namespace."""
    return "\n".join(
        [
            "set -e",
            f"hostname {host.name}",
            *_mounts(Place(lab, host.name)),
            *_files(lab, network, host),
            *_sysctls(host),
            f"ip -batch - <<'{END_OF_FILE}'",
            *_addresses(network, host),
            END_OF_FILE,
            *_web_server(host),
            "",
        ]
    )


def _mounts(place: Place) -> Iterator[str]:
    # Other hosts' namespaces are nobody's business here, and a copy of their mounts would keep them alive.
    for folder in (NAMED, PINS):
        yield f"while umount -l {folder} 2>/dev/null; do :; done"
    yield "mount -t sysfs sysfs /sys"
    yield f"mount -t tmpfs -o mode=755 pylvs-lab {place.disk}"
    for path in OWN_FOLDERS:
        name = f"{place.disk}/{path.strip('/').replace('/', '-')}"
        yield f"mkdir {name} {name}/new {name}/work"
        yield f"mount -t overlay -o lowerdir={path},upperdir={name}/new,workdir={name}/work pylvs-lab {path}"


def _files(lab: str, network: Network, host: Host) -> Iterator[str]:
    for path, content, mode in files_of(lab, network, host):
        # A new file each: what the distribution has under this name may be a link to somewhere shared.
        yield f"mkdir -p {shlex.quote(path.rpartition('/')[0])}; rm -f {shlex.quote(path)}"
        yield f"cat >{shlex.quote(path)} <<'{END_OF_FILE}'\n{content}{END_OF_FILE}"
        yield f"chmod {mode:o} {shlex.quote(path)}"


def _sysctls(host: Host) -> Iterator[str]:
    """As on a machine just installed, whatever the machine below passes on to its namespaces."""
    yield "for each in /proc/sys/net/ipv4/conf/*; do"
    yield "    for name in rp_filter arp_ignore arp_announce; do echo 0 >$each/$name; done"
    yield "done"
    yield "for each in $(ls -d /proc/sys/net/ipv6/conf/* 2>/dev/null); do"  # none where IPv6 is switched off
    yield "    for name in disable_ipv6 accept_dad dad_transmits accept_ra; do echo 0 >$each/$name; done"
    yield "done"
    yield f"echo {int(host.forwarding)} >/proc/sys/net/ipv4/ip_forward"
    yield f"[ ! -d /proc/sys/net/ipv6 ] || echo {int(host.forwarding)} >/proc/sys/net/ipv6/conf/all/forwarding"


def _addresses(network: Network, host: Host) -> Iterator[str]:
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
    six = ip_interface(address).version == 6
    return f"addr add {address} dev {device}" + (" nodad" if six else "")


def _web_server(host: Host) -> Iterator[str]:
    if host.role == SERVER:
        yield f"mkdir -p {WEB_STATE}; truncate -s {BIG_FILE_BYTES} /var/www/html/big"
        # nginx keeps what it was given as its outputs: not a pipe that somebody reads to its end.
        log = f"{WEB_STATE}/start.log"
        yield f"service nginx start </dev/null >/dev/null 2>{log} || {{ cat {log} >&2; exit 1; }}"


def bracketed(address: str) -> str:
    """As in a URL."""
    return f"[{address}]" if ip_address(address).version == 6 else address
