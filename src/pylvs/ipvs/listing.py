"""/proc/net/ip_vs_conn: the connections of the kernel's IPVS. Pure.

The kernel prints neither flags nor the forwarding method, and no mark (IPVS-SEMANTICS 11.4). It lists by position, page
by page: when a connection ends between two reads, the next page skips another one. So read all lines, then parse them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

Key = tuple[int, bytes, int, bytes, int]
PROTOCOLS = {b"TCP": 6, b"UDP": 17, b"SCTP": 132, b"IP": 0, b"ESP": 50, b"AH": 51}
TEMPLATE_STATES = (b"NONE", b"ASSURED")
RETIRED_PORT = 0xFFFF  # of a template that has lost its destination
_COLUMNS = 9  # without those of a persistence engine
_ENDS = 5  # columns that identify a connection
_NAMES = {number: name for name, number in PROTOCOLS.items()}


class Line(NamedTuple):
    """A connection or a template; addresses are in network order, of 4 or 16 bytes, ports in host order."""

    protocol: int
    client: bytes
    client_port: int
    virtual: bytes
    virtual_port: int
    server: bytes
    server_port: int
    state: str
    expires_s: int
    engine: str = ""
    data: str = ""

    @property
    def key(self) -> Key:
        """What identifies the connection."""
        return self[:5]

    @property
    def is_template(self) -> bool:
        """Whether it is a persistence template. The client port of a connection is 0 only before its first packet."""
        return not self.client_port and self.state in ("NONE", "ASSURED")

    @property
    def is_retired(self) -> bool:
        """Whether it is a template that IPVS no longer uses."""
        return self.is_template and self.virtual_port == RETIRED_PORT


class Unreadable(ValueError):
    """A line of a form that no known kernel prints; the text is the line."""


@lru_cache(1 << 16)
def _address(text: bytes) -> bytes:
    return bytes.fromhex(text.replace(b":", b"").decode())


def parse(lines: Iterable[bytes]) -> Iterator[Line]:
    """Yield the connections; the first line is the title. Of several with one key the kernel uses the first.

    Raises Unreadable.
    """
    for number, line in enumerate(lines):
        if number and line.strip():
            yield parsed(line)


def parsed(line: bytes) -> Line:
    """Return the connection of a line. Raises Unreadable."""
    words = line.split(None, _COLUMNS)
    try:
        protocol, client, sport, virtual, dport, server, port, state, expires = words[:_COLUMNS]
        engine, _, data = (words[_COLUMNS] if len(words) > _COLUMNS else b"").partition(b" ")
        return Line(
            PROTOCOLS[protocol],
            _address(client),
            int(sport, 16),
            _address(virtual),
            int(dport, 16),
            _address(server),
            int(port, 16),
            state.decode("ascii"),
            int(expires),
            engine.strip().decode("ascii"),
            data.rstrip(b"\n").decode("latin-1"),
        )
    except (ValueError, KeyError):
        raise Unreadable(line.decode("latin-1").strip()) from None


def ends(line: bytes) -> tuple[bytes, ...]:
    """Return the words of a line that identify its connection."""
    return tuple(line.split(None, _ENDS)[:_ENDS])


def words_of(key: Key) -> tuple[bytes, ...]:
    """Return what `ends` finds in the line of a connection."""
    protocol, client, client_port, virtual, virtual_port = key
    return _NAMES[protocol], _text(client), b"%04X" % client_port, _text(virtual), b"%04X" % virtual_port


def _text(address: bytes) -> bytes:
    return (address.hex().upper() if len(address) == 4 else address.hex(":", 2)).encode()
