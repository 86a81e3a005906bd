"""The connections of `-Lc`, written one by one: the table may be far larger than this process should become."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pylvs.ipvsadm.endpoints import Writer
from pylvs.model.connection import PROTOCOL_TEMPLATE, Connection
from pylvs.model.service import Protocol

FIRST_LINE = "IPVS connection entries\n"
TITLE = "pro expire state       source             virtual            destination"
ENGINE_TITLE = "        pe name          pe_data"
PROTOCOLS = {int(protocol): protocol.name for protocol in Protocol} | {PROTOCOL_TEMPLATE: "IP"}


def connection_lines(connections: Iterable[Connection], write: Writer, *, engines: bool) -> Iterator[str]:
    """The lines of the listing; `engines` adds what persistence engines know (`--persistent-conn`)."""
    yield FIRST_LINE
    yield TITLE + (ENGINE_TITLE if engines else "") + "\n"
    for each in connections:
        protocol = each.protocol
        minutes, seconds = divmod(each.expires_s, 60)
        client = write(each.client, each.client_port, protocol)
        virtual = write(each.virtual, each.virtual_port, protocol)
        destination = write(each.destination, each.destination_port, protocol)
        line = (
            f"{PROTOCOLS.get(protocol, protocol):<3} {minutes:02d}:{seconds:02d}  {each.state:<11} "
            f"{client:<18} {virtual:<18} {destination}"
        )
        if engines and each.engine:
            line = f"{line:<{len(line) - len(destination) + 18}} {each.engine:<16} {each.engine_data}"
        yield line + "\n"
