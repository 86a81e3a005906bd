"""`pylvs log`: connections as they are made and end, as JSON lines or to an IPFIX collector."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack, closing, suppress
from typing import Any

import click

from pylvs.cli.packets.ipfix import Exporter
from pylvs.dataplane.state import State
from pylvs.model.addresses import endpoint
from pylvs.model.errors import PylvsError, os_text
from pylvs.trace.connection_log import ConnectionLog, Event, events

_METHODS = {"masq": "NAT", "route": "DR", "tunnel": "TUN"}


@click.command()
@click.option(
    "--ipfix", metavar="HOST:PORT", help="send IPFIX (RFC 7011) over UDP to this collector; nothing on stdout"
)
@click.option("--domain", type=click.IntRange(0, (1 << 32) - 1), default=0, help="IPFIX: observation domain; default 0")
def log(ipfix: str | None, domain: int) -> None:
    """Print each connection that is made or ends as a JSON line, until interrupted. Nothing is recorded otherwise."""
    with ExitStack() as closing_all:
        collector = closing_all.enter_context(_collector(ipfix)) if ipfix else None
        reader = closing_all.enter_context(closing(ConnectionLog(State.open())))
        exporter = Exporter(domain)
        reader.lost()
        for found in events(reader):
            if collector:
                for message in exporter.messages(found, time.time()):
                    _send(collector, message)
            else:
                click.echo("\n".join(json.dumps(described(event)) for event in found))
            if lost := reader.lost():
                click.echo(f"pylvs: {lost} records of the connection log were lost: they came too fast", err=True)


def _send(collector: socket.socket, message: bytes) -> None:
    """Send a message; a collector that is not there, or not reached, at this moment gets the next ones."""
    with suppress(OSError):
        collector.send(message)


def _collector(where: str) -> socket.socket:
    """Return a socket that sends to HOST:PORT; an IPv6 address is in brackets. Raises PylvsError."""
    host, colon, port = where.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.UsageError(f"--ipfix {where}: write HOST:PORT, as 192.0.2.9:4739 or [2001:db8::9]:4739")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        sender = socket.socket(family, kind, protocol)
        sender.connect(address)
    except OSError as error:
        raise PylvsError(f"--ipfix {where}: {os_text(error)}") from None
    return sender


def described(event: Event) -> dict[str, Any]:
    """Return an event as JSON types."""
    return {
        "time": round(event.time, 6),
        "event": "closed" if event.why else "opened",
        "protocol": getattr(event.protocol, "name", str(event.protocol)),
        "client": endpoint(event.client, event.client_port),
        "service": f"FWM {event.mark}" if event.mark else endpoint(event.virtual, event.virtual_port),
        "virtual": endpoint(event.virtual, event.virtual_port),
        "server": endpoint(event.server, event.server_port) if event.server else None,
        "method": _METHODS.get(event.method, event.method),
        "state": event.state,
        "why": event.why or None,
    }
