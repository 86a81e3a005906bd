"""Connections as IPVS's sync protocol describes them (IPVS-SEMANTICS 10.2)."""

from __future__ import annotations

from enum import IntFlag

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass

METHOD_MASK = 0x7  # of the flags: 0 Masq, 1 Local, 2 Tunnel, 3 Route, 4 Bypass
SEQUENCE_BYTES = 24


class SyncFlag(IntFlag):
    """IPVS's flags of a connection, by the kernel's names, without the method (IPVS-SEMANTICS 4.2)."""

    SYNC = 0x20
    NOOUTPUT = 0x80
    INACTIVE = 0x100
    OUT_SEQ = 0x200
    IN_SEQ = 0x400
    NO_CPORT = 0x800
    TEMPLATE = 0x1000
    ONE_PACKET = 0x2000


@dataclass(frozen=True, slots=True)
class SyncedConnection:
    """A connection or a persistence template.

    `virtual` is the firewall mark as an address where IPVS has it so: in templates of services of a mark.
    `sequence` has six numbers of 32 bits in network order: init_seq, delta and previous_delta of requests, then of
    replies. It is empty without OUT_SEQ and IN_SEQ.
    """

    protocol: int
    client: Address
    client_port: int
    virtual: Address
    virtual_port: int
    server: Address
    server_port: int
    flags: int  # SyncFlag, and the method in METHOD_MASK
    state: int  # IPVS's number in the protocol's states
    timeout_s: int | None  # None: version 0 has none
    mark: int = 0
    sequence: bytes = b""
    engine: str = ""  # persistence engine, "sip"
    data: bytes = b""  # of the engine: a Call-ID
    # Of one of a whole table: since its sender last refreshed it. It may be a copy, older than what the receiver has.
    age_ms: int | None = None
