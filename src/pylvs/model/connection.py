"""Connections of a listing (IPVS-SEMANTICS 4.2, 4.4 to 4.6)."""

from __future__ import annotations

from typing import NamedTuple

from pylvs.model.addresses import Address

TCP_STATES = (
    "NONE",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "SYNACK",
)
SCTP_STATES = (
    "NONE",
    "INIT1",
    "INIT",
    "C-SENT",
    "C-REPLIED",
    "C-WAIT",
    "COOKIE",
    "C-ECHOED",
    "ESTABLISHED",
    "S-SENT",
    "S-RECEIVED",
    "S-ACK-SENT",
    "REJECTED",
    "CLOSED",
)


class Connection(NamedTuple):
    """One entry of the connection table: a tuple, because there may be millions.

    `state` is the state's name in a listing; `expires_s` is in whole seconds. A template has client port 0.
    """

    protocol: int
    state: str
    expires_s: int
    client: Address
    client_port: int
    virtual: Address
    virtual_port: int
    destination: Address
    destination_port: int
    engine: str = ""
    engine_data: str = ""
