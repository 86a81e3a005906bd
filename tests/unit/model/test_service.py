"""Names of real servers, as users write them."""

from __future__ import annotations

import re
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.addresses import Address
from pylvs.model.errors import InvalidOperation
from pylvs.model.service import SERVER_PATTERN, DestinationKey, server_named


@given(st.from_regex(SERVER_PATTERN, fullmatch=True))
def test_what_the_pattern_takes_is_taken(text: str) -> None:
    server_named(text)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_the_pattern_takes_every_server(address: Address, port: int) -> None:
    for text in str(address), str(DestinationKey(address, port)):
        assert re.search(SERVER_PATTERN, text)


@given(st.text("0123456789abcdef:.[]%", max_size=30))
def test_what_is_refused_does_not_match(text: str) -> None:
    with suppress(InvalidOperation):
        server_named(text)
        return
    assert not re.search(SERVER_PATTERN, text)
