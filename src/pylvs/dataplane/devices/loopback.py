"""Settings of lo that the packet path needs. Notes of the state hold the former values, which are restored.

`forwarding` of lo lets `bpf_fib_lookup` work with ip_forward=0; it enables nothing else. `accept_local` of lo lets
replies of NAT servers reach clients on this host (`to_own_client` in bpf/ctx/scratch.h), because their saddr is an
address of this host. lo receives no packet from outside, and other devices still refuse such a saddr.
"""

from __future__ import annotations

import contextlib

from pylvs.dataplane.state import State
from pylvs.model.rows import Trouble

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping


_IPV4_CONF = "/proc/sys/net/{}/conf/lo/{}"
_FORWARDING, _ACCEPT_LOCAL = "forwarding-", "accept-local"
_FAMILIES = ("ipv4", "ipv6")


def _set(path: str, value: str) -> str:
    """Write a setting if it differs, and return its former value. Raises OSError."""
    with open(path, encoding="ascii") as file:
        before = file.read().strip()
    if before != value:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    return before


def forward(state: State) -> None:
    """Turn on forwarding of lo, for IPv4 and IPv6."""
    for family in _FAMILIES:
        with contextlib.suppress(FileNotFoundError):
            before = _set(_IPV4_CONF.format(family, "forwarding"), "1")
            if before != "1":
                state.set_note(_FORWARDING + family, before)


def accepts_local(notes: Mapping[str, str]) -> bool:
    """Return whether `accept_local` turned the setting on."""
    return _ACCEPT_LOCAL in notes


def accept_local(state: State, notes: Mapping[str, str], wanted: bool) -> list[Trouble]:
    """Turn on accept_local of lo, or restore it; return why that failed."""
    path = _IPV4_CONF.format("ipv4", "accept_local")
    if not wanted:
        _put_back(state, notes.get(_ACCEPT_LOCAL), _ACCEPT_LOCAL, path)
        return []
    try:
        before = _set(path, "1")
    except OSError as error:
        cause = f"net.ipv4.conf.lo.accept_local cannot be set to 1: {error.strerror}"
        return [Trouble("lo", f"{cause}; clients on this host do not reach NAT services of IPv4", False, attached=True)]
    if before != "1" and not accepts_local(notes):
        state.set_note(_ACCEPT_LOCAL, before)
    return []


def restore(state: State) -> None:
    """Restore all settings."""
    for family in _FAMILIES:
        note = _FORWARDING + family
        _put_back(state, state.note(note), note, _IPV4_CONF.format(family, "forwarding"))
    _put_back(state, state.note(_ACCEPT_LOCAL), _ACCEPT_LOCAL, _IPV4_CONF.format("ipv4", "accept_local"))


def _put_back(state: State, before: str | None, note: str, path: str) -> None:
    if before is not None:
        with contextlib.suppress(OSError):
            _set(path, before)
        state.set_note(note, None)
