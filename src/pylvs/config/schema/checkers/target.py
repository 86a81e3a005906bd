"""The words of where a check goes and from where it comes, for every checker that talks to a server."""

from __future__ import annotations

from pylvs.config.schema.nouns import Keyword
from pylvs.config.schema.types import ADDRESS, FLAG, MARK, PORT, TEXT

CONNECTION = (
    Keyword("connect_ip", ADDRESS, "address to connect to", default_doc="the real server's"),
    Keyword("connect_port", PORT, "port to connect to", default_doc="the real server's"),
    Keyword("bindto", ADDRESS, "address to connect from"),
    Keyword("bind_port", PORT, "port to connect from"),
    Keyword("bind_if", TEXT, "device to connect through"),
    Keyword("fwmark", MARK, "firewall mark of the check's packets"),
)
VIA_VIP = Keyword(
    "via_vip",
    FLAG,
    "connect to the virtual address, through the director's own forwarding to this one server",
    default=False,
    since="0.2",
)
TARGET = (*CONNECTION, VIA_VIP)
