"""A real server of direct routing or tunnelling: the VIP on lo, no ARP for it, and decapsulation of tunnels.

IPv4: with arp_ignore 1 a device answers ARP only for its own addresses, so not for those of lo. With arp_announce 2 no
ARP request has the VIP as its sender; such a request would teach neighbours the wrong link address. IPv6 needs neither:
neighbour discovery uses only the addresses of the device itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from copy import deepcopy
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation, NoSuchDevice, NotPermitted, PylvsError, Unsupported, shown
from pylvs.model.routing import HeldAddress, Network
from pylvs.model.service import Tunnel
from pylvs.netlink.addresses import encoded, named
from pylvs.netlink.changes import change, set_up
from pylvs.netlink.codec import CREATE, DELADDR, EXCL, NEWADDR
from pylvs.netlink.links import Device, addresses, device, devices, local_addresses
from pylvs.realserver import decapsulation
from pylvs.system import proc
from pylvs.system.namespaces import network_cookie
from pylvs.system.undo_log import Memory, changing, load

STATE = Path("/run/pylvs/realserver")
# Values with which a device sends no ARP for addresses of lo; another value is set to the first of them.
SILENT = {"arp_ignore": (1, 2, 8), "arp_announce": (2,)}
_LONGEST_LABEL = 15  # IFNAMSIZ - 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of `status`."""

    subject: str
    good: bool
    text: str


def memory_path(cookie: int) -> Path:
    """Return the path of the undo log of a network namespace."""
    return STATE / f"{cookie}.json"


def parse_vip(text: str) -> Address:
    """Parse an address that can be a VIP. Raises InvalidOperation."""
    try:
        address = ip_address(text)
    except ValueError:
        raise InvalidOperation(f"{shown(text)}: not an IP address (a VIP is given without a prefix length)") from None
    if address.is_multicast or address.is_unspecified or address.is_loopback or str(address) == "255.255.255.255":
        raise InvalidOperation(f"{text}: not a unicast address that clients could ask for")
    if getattr(address, "scope_id", None):
        raise InvalidOperation(f"{text}: a VIP has no scope")
    return address


def parse_director(text: str) -> Network:
    """Parse the address or network of directors. Raises InvalidOperation."""
    try:
        return ip_network(text)
    except ValueError:
        raise InvalidOperation(
            f"--director {shown(text)}: not an IP address, nor a network without host bits"
        ) from None


def up(
    vips: Sequence[Address],
    tunnels: Sequence[Tunnel] = (),
    names: Sequence[str] = (),
    directors: Sequence[Network] = (),
) -> list[str]:
    """Become a real server for these addresses; return the changes as lines. Idempotent.

    `tunnels` are the director's encapsulations; their checksum flags do not matter. `names` are the devices towards
    the director; without them, all that are up. Tunnels of other outer sources than `directors` are dropped; if no call
    names any, all sources are accepted. When it raises PylvsError, nothing has changed.
    """
    _need_root()
    vips = list(dict.fromkeys(vips))
    with changing(memory_path(network_cookie())) as memory:
        if directors and not (tunnels or memory.tunnels):
            raise InvalidOperation(f"--director {directors[0]}: without tunnels nothing is checked; add --tunnel")
        concerned = [device(name) for name in names] or _outward()
        loopback = next(each for each in devices() if each.loopback)
        _check_free(vips, loopback)
        before = deepcopy(memory)
        try:
            return _become(memory, loopback, vips, tunnels, concerned, directors, bool(names))
        except BaseException:
            _undo(memory, before)
            raise


def _become(
    memory: Memory,
    loopback: Device,
    vips: Sequence[Address],
    tunnels: Sequence[Tunnel],
    concerned: Sequence[Device],
    directors: Sequence[Network],
    chosen: bool,
) -> list[str]:
    done: list[str] = []
    if not loopback.up:
        memory.devices_up.append(loopback.name)
        memory.save()
        set_up(loopback, True)
        done.append(f"{loopback.name} is up")
    if any(vip.version == 4 for vip in vips):
        done += _be_silent(memory, ["all", loopback.name, *(each.name for each in concerned if not each.bare)])
    # Set the sysctls before the addresses: neighbours would cache an ARP reply sent in between.
    held = local_addresses()
    for vip in vips:
        if vip in held:
            memory.addresses.setdefault(str(vip), "")
            continue
        memory.addresses[str(vip)] = loopback.name
        memory.save()
        _add(vip, loopback)
        done.append(f"{vip}/{vip.max_prefixlen} is on {loopback.name}")
    wanted = dict.fromkeys(map(decapsulation.tunnel_name, tunnels))
    memory.tunnels += [name for name in wanted if name not in memory.tunnels]
    memory.directors += [text for text in dict.fromkeys(map(str, directors)) if text not in memory.directors]
    if memory.tunnels:
        known = [ip_address(text) for text in memory.addresses]
        done += decapsulation.up(memory, known, concerned, chosen)
    return done


def _undo(memory: Memory, before: Memory) -> None:
    """Undo the changes since `before`, and keep earlier ones. A step that fails does not prevent the next one."""
    for text, name in list(memory.addresses.items()):
        if text not in before.addresses:
            with contextlib.suppress(PylvsError):
                if name:
                    _remove(ip_address(text), device(name))
                del memory.addresses[text]
    with contextlib.suppress(PylvsError):
        decapsulation.undo(memory, before)
    with contextlib.suppress(PylvsError):
        memory.restore_sysctls(keep=before.sysctls)
    for name in [each for each in memory.devices_up if each not in before.devices_up]:
        with contextlib.suppress(PylvsError):
            set_up(device(name), False)
            memory.devices_up.remove(name)


def down(vips: Sequence[Address] = ()) -> list[str]:
    """Stop being a real server for these addresses, or all; return the changes as lines. Raises PylvsError."""
    _need_root()
    with changing(memory_path(network_cookie())) as memory:
        done: list[str] = []
        mine = [ip_address(text) for text in memory.addresses]
        for vip in vips:
            if vip not in mine:
                there = ", ".join(memory.addresses) or "none"
                raise InvalidOperation(f"{vip}: not an address that pylvs realserver set up; there are: {there}")
        for vip in dict.fromkeys(vips or mine):
            name = memory.addresses[str(vip)]
            if name:
                _remove(vip, device(name))
                done.append(f"{vip} is off {name}")
            del memory.addresses[str(vip)]
        rest = [ip_address(text) for text in memory.addresses]
        if memory.tunnels:
            done += decapsulation.up(memory, rest, []) if rest else decapsulation.down(memory)
        if not rest:
            done += _restore(memory)
        return done


def status() -> list[Finding]:
    """Check that all changes of `up` are still in force; return nothing if this is no real server.

    Addresses of lo that `up` did not add are VIPs, too: other tools make real servers.
    """
    memory = load(memory_path(network_cookie()))
    known = devices()
    findings = []
    vips = [ip_address(text) for text in memory.addresses]
    for vip in vips:
        where = [each.name for each in known if vip in each.addresses]
        findings.append(Finding(str(vip), bool(where), f"on {', '.join(where)}" if where else "on no device any more"))
    foreign = [
        address
        for each in known
        if each.loopback
        for address in each.addresses
        if not (address.is_loopback or address.is_link_local or address in vips)
    ]
    findings += [Finding(str(address), True, "on lo, not by pylvs realserver") for address in foreign]
    if any(vip.version == 4 for vip in (*vips, *foreign)):
        findings += [_silence(each.name) for each in _outward() if not each.bare]  # the others send no ARP
    if memory.tunnels:
        findings += [Finding("tunnel", good, text) for good, text in decapsulation.status(memory)]
    return findings


def _free_label(name: str) -> str:
    """Return `lo:0`, or with the next free number; "" if the device's name is too long for a label."""
    taken = {each.label for each in addresses()}
    number = next(n for n in range(len(taken) + 1) if f"{name}:{n}" not in taken)
    label = f"{name}:{number}"
    return label if len(label) <= _LONGEST_LABEL else ""


def _add(address: Address, where: Device) -> None:
    """Add a host address (/32, /128) to a device; for IPv6 without duplicate address detection. Raises PylvsError."""
    own = ip_interface(address)
    held, switched_off = HeldAddress(interface=own, no_dad=True), [errno.EACCES]
    if address.version == 4:
        # A host route's broadcast address is itself, as in the usual script lvs_rs.sh.
        held, switched_off = HeldAddress(interface=own, broadcast=address, label=_free_label(where.name)), []
    what = f"{held.interface} on {where.name}"
    if change(what, (NEWADDR, encoded(held, where.index), CREATE | EXCL), switched_off):
        switch = f"net.ipv6.conf.{where.name}.disable_ipv6"
        raise Unsupported(f"{what}: IPv6 is switched off there; sysctl {switch}=0")


def _remove(address: Address, where: Device) -> None:
    """Remove an address; a missing one is no error. Raises PylvsError."""
    held = HeldAddress(interface=ip_interface(address))
    request = DELADDR, named(held, where.index), 0
    change(f"{held.interface} on {where.name}", request, (errno.EADDRNOTAVAIL,))


def _need_root() -> None:
    if os.geteuid():
        raise NotPermitted("Operation not permitted: addresses and settings of this machine change; run as root")


def _outward() -> list[Device]:
    """Return the devices that can receive packets: up, not lo, no tunnels, no ports of a bridge or bond."""
    return [
        each
        for each in devices()
        if each.up and not each.loopback and not each.master and each.kind not in decapsulation.TUNNEL_KINDS
    ]


def _check_free(vips: Sequence[Address], loopback: Device) -> None:
    elsewhere = {each.address: each for each in addresses() if each.index != loopback.index}
    for vip in vips:
        if found := elsewhere.get(vip):
            name = device(found.index).name
            remedy = f"ip addr del {vip}/{found.prefix} dev {name}"
            raise InvalidOperation(f"{vip}: is on {name}, which would answer for it; {remedy}")


def _be_silent(memory: Memory, names: Sequence[str]) -> list[str]:
    done = []
    for name in dict.fromkeys(names):
        for setting, silent in SILENT.items():
            path = f"net/ipv4/conf/{name}/{setting}"
            if proc.exists(path) and proc.read_number(path) not in silent and memory.set(path, str(silent[0])):
                done.append(f"{proc.dotted(path)} = {silent[0]}")
    return done


def _silence(name: str) -> Finding:
    """Check that a device sends no ARP for the VIP. The kernel uses the higher of its own value and that of "all"."""
    words = []
    good = True
    for setting, silent in SILENT.items():
        value = max(proc.read_number(f"net/ipv4/conf/{each}/{setting}") for each in ("all", name))
        good = good and value in silent
        words.append(f"{setting} {value}")
    return Finding(
        name,
        good,
        ", ".join(words)
        + ("" if good else ": it answers ARP for the VIP, or asks with it; pylvs realserver up VIP ends that"),
    )


def _restore(memory: Memory) -> list[str]:
    """Restore sysctls and devices; return the changes as lines."""
    names = [proc.dotted(name) for name in memory.sysctls]
    left = [proc.dotted(name) for name in memory.restore_sysctls()]
    done = [f"{name} is as before" for name in names if name not in left]
    done += [f"{name} was changed since, and stays" for name in left]
    for name in memory.devices_up:
        with contextlib.suppress(NoSuchDevice):
            set_up(device(name), False)
            done.append(f"{name} is down")
    memory.devices_up.clear()
    return done
