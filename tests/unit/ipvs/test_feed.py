"""The messages by which IPVS's backup daemon takes connections."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

from pylvs.ipvs.feed import SYNCID, messages
from pylvs.model.sync.connection import SyncedConnection, SyncFlag
from pylvs.sync.wire import parse


def connection(number: int, network: str = "198.51.100.", flags: int = 3) -> SyncedConnection:
    def at(last: int) -> object:
        return ip_address(f"{network}{last}")

    return SyncedConnection(6, at(1), 1024 + number, at(2), 80, at(3), 8080, flags, 1, 60)  # type: ignore[arg-type]


def test_each_connection_is_in_one_message_that_fits_a_link() -> None:
    sent = [connection(number) for number in range(500)] + [connection(1, "2001:db8::")]
    sent.append(connection(2, flags=SyncFlag.TEMPLATE | SyncFlag.INACTIVE))
    made = list(messages(sent))
    assert max(map(len, made)) <= 1472
    counts = Counter[str]()
    assert [each for message in made for each in parse(message, SYNCID, counts)] == sent
    assert counts == {"messages": len(made), "connections": len(sent)}


def test_without_connections_there_is_no_message() -> None:
    assert list(messages([])) == []
