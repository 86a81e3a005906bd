"""States and flags of connections as IPVS's sync protocol numbers them (IPVS-SEMANTICS 4.2, 10.2)."""

from __future__ import annotations

from pylvs.bpf import abi
from pylvs.model.service import Protocol
from pylvs.model.sync.connection import SyncFlag

TEMPLATE_NONE, TEMPLATE_ASSURED = 0, 1
_TCP_STATES, _SCTP_STATES = 11, 14
# As numbers: operations of SyncFlag take most of the time of an announcement.
_NOOUTPUT, _INACTIVE, _TEMPLATE, _SYNC = (
    int(flag) for flag in (SyncFlag.NOOUTPUT, SyncFlag.INACTIVE, SyncFlag.TEMPLATE, SyncFlag.SYNC)
)
_FIRST = {"STATE_TCP_FIRST": "STATE_ESTABLISHED", "STATE_SCTP_FIRST": "STATE_SCTP_ESTABLISHED"}


def states_here() -> dict[int, list[int]]:
    """Return the states of the packet path by protocol, in the order of IPVS's numbers."""
    first = abi.constant("STATE_SCTP_INIT1")
    return {
        int(Protocol.TCP): list(range(_TCP_STATES)),
        int(Protocol.UDP): [abi.constant("STATE_UDP")],
        int(Protocol.SCTP): [abi.constant("STATE_NONE"), *range(first, first + _SCTP_STATES - 1)],
    }


def states_there() -> dict[int, int]:
    """Return IPVS's numbers of the packet path's states."""
    numbers = {state: number for states in states_here().values() for number, state in enumerate(states)}
    numbers |= {abi.constant(name): numbers[abi.constant(same)] for name, same in _FIRST.items()}
    return numbers | {abi.constant("STATE_UDP_FIRST"): 0}


def active_states() -> frozenset[int]:
    """Return the states that listings count as active (IPVS-SEMANTICS 4.8)."""
    names = ("ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK", "SCTP_ESTABLISHED", "TCP_FIRST", "SCTP_FIRST")
    return frozenset(abi.constant(f"STATE_{name}") for name in names)


def announced_states() -> frozenset[int]:
    """Return the states in which connections are announced, as bpf/conntrack/announce.h has them."""
    tcp = ("ESTABLISHED", "FIN_WAIT", "CLOSE", "CLOSE_WAIT", "TIME_WAIT")
    sctp = ("SCTP_ESTABLISHED", "SCTP_SHUTDOWN_SENT", "SCTP_SHUTDOWN_RECEIVED", "SCTP_SHUTDOWN_ACK_SENT", "SCTP_CLOSED")
    return frozenset(abi.constant(f"STATE_{name}") for name in (*tcp, *sctp, "UDP"))


def flags_of(method: int, *, has_reply: bool, is_active: bool, is_template: bool, is_synced: bool) -> int:
    """Return IPVS's flags of a connection, with its method."""
    flags = method
    if method and not has_reply:  # not NAT
        flags |= _NOOUTPUT
    if not is_active:
        flags |= _INACTIVE
    if is_template:
        flags |= _TEMPLATE
    if is_synced:
        flags |= _SYNC
    return flags
