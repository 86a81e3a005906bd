"""The connections of `-Lc`, written one by one: the table may be far larger than this process should become."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from pylvs.ipvsadm.endpoints import Writer
from pylvs.model.connection import PROTOCOL_TEMPLATE, Connection
from pylvs.model.service import Protocol

FIRST_LINE = "IPVS connection entries\n"
TITLE = "pro expire state       source             virtual            destination"
ENGINE_TITLE = "        pe name          pe_data"
WRITTEN_AGAIN = 4096  # virtual services and real servers whose words are kept: they come with many connections
PROTOCOLS = {int(protocol): protocol.name for protocol in Protocol} | {PROTOCOL_TEMPLATE: "IP"}


def connection_lines(connections: Iterable[Connection], write: Writer, *, engines: bool) -> Iterator[str]:
    """The lines of the listing; `engines` adds what persistence engines know (`--persistent-conn`)."""
    yield FIRST_LINE
    yield TITLE + (ENGINE_TITLE if engines else "") + "\n"
    again = lru_cache(WRITTEN_AGAIN)(write)
    for each in connections:
        protocol, state, expires_s, client, client_port, virtual, virtual_port, server, server_port, engine, data = each
        minutes, seconds = divmod(expires_s, 60)
        destination = again(server, server_port, protocol)
        line = (
            f"{PROTOCOLS.get(protocol, protocol):<3} {minutes:02d}:{seconds:02d}  {state:<11} "
            f"{write(client, client_port, protocol):<18} {again(virtual, virtual_port, protocol):<18} {destination}"
        )
        if engines and engine:
            line = f"{line:<{len(line) - len(destination) + 18}} {engine:<16} {data}"
        yield line + "\n"
