"""What the packet path takes from this host: snapshots of addresses, devices and marks, and settings of lo.

`forwarding` of lo lets `bpf_fib_lookup` work with ip_forward=0; it enables nothing else. `accept_local` of lo lets
replies of NAT servers reach clients on this host (`to_own_client` in bpf/ctx/scratch.h), because their saddr is an
address of this host. lo receives no packet from outside, and other devices still refuse such a saddr. Notes of the
state hold the former values, which are restored.
"""

from __future__ import annotations

import contextlib
import os
import struct

from pylvs.dataplane.state import State
from pylvs.dataplane.tables import Versions, address_bytes, replace_keys, set_bit
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.rows import Trouble
from pylvs.netlink import links

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping

_CONF = "/proc/sys/net/ipv4/conf"
_FORWARDING, _ACCEPT_LOCAL = ("forwarding-ipv4", "forwarding-ipv6"), "accept-local"
_SETTINGS = {  # by the names of their notes
    "forwarding-ipv4": f"{_CONF}/lo/forwarding",
    "forwarding-ipv6": "/proc/sys/net/ipv6/conf/lo/forwarding",
    "accept-local": f"{_CONF}/lo/accept_local",
}


def is_local(address: Address) -> bool:
    """Return whether a device of this host has the address."""
    return address in links.local_addresses()


def refresh(versions: Versions) -> None:
    """Update all snapshots. The caller holds the lock."""
    tables = versions.tables
    own = {address_bytes(each) for each in links.local_addresses()}
    for key in own - set(tables.locals.keys()):  # before the key, lest a killed process leave one without its bit
        set_bit(tables, "reply_bits", key, 6 if any(key[4:]) else 4)
    replace_keys(tables.locals, own)
    replace_keys(tables.accept_locals, _accept_local_devices())
    facts = versions.facts()
    (rules,), (services,) = facts.get("mark_rules"), facts.get("marks")
    if rules or services or len(tables.routed_marks):
        from pylvs.dataplane import marks  # late: most tables have none

        marks.refresh_devices(tables, facts)
        marks.refresh_routed(versions)


def _accept_local_devices() -> set[bytes]:
    """Return the devices on which the kernel accepts packets with a local saddr, as keys of `accept_locals`."""
    found = set()
    for name in os.listdir(_CONF):
        with contextlib.suppress(OSError), open(f"{_CONF}/{name}/accept_local", "rb") as file:
            if file.read().strip() != b"0":
                found.add(struct.pack("<I", 0 if name == "all" else socket.if_nametoindex(name)))
    return found


def _set(path: str, value: str) -> str:
    """Write a setting if it differs, and return its former value. Raises OSError."""
    with open(path, encoding="ascii") as file:
        before = file.read().strip()
    if before != value:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    return before


def _turn_on(state: State, note: str) -> None:
    before = _set(_SETTINGS[note], "1")
    if before != "1" and state.note(note) is None:
        state.set_note(note, before)


def _put_back(state: State, note: str) -> None:
    before = state.note(note)
    if before is not None:
        with contextlib.suppress(OSError):
            _set(_SETTINGS[note], before)
        state.set_note(note, None)


def forward(state: State) -> None:
    """Turn on forwarding of lo, for IPv4 and IPv6."""
    for note in _FORWARDING:
        with contextlib.suppress(FileNotFoundError):
            _turn_on(state, note)


def accepts_local(notes: Mapping[str, str]) -> bool:
    """Return whether `accept_local` turned the setting on."""
    return _ACCEPT_LOCAL in notes


def accept_local(state: State, notes: Mapping[str, str], wanted: bool) -> list[Trouble]:
    """Turn on accept_local of lo, or restore it; return why that failed."""
    if not wanted:
        if accepts_local(notes):
            _put_back(state, _ACCEPT_LOCAL)
        return []
    try:
        _turn_on(state, _ACCEPT_LOCAL)
    except OSError as error:
        cause = f"net.ipv4.conf.lo.accept_local cannot be set to 1: {error.strerror}"
        return [Trouble("lo", f"{cause}; clients on this host do not reach NAT services of IPv4", False, attached=True)]
    return []


def restore(state: State) -> None:
    """Restore all settings."""
    for note in _SETTINGS:
        _put_back(state, note)
