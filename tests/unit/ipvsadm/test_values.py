"""Numbers, addresses and counters, over all values rather than some."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.ipvsadm.listing import cut, numeric, sorted_services, whole
from pylvs.ipvsadm.parsing import Names, as_int, endpoint, leading_number, whole_number
from pylvs.model import sockets
from pylvs.model.addresses import Address
from pylvs.model.rows import ServiceRow
from pylvs.model.service import Protocol, ServiceKey, VirtualService
from tests.unit.ipvsadm.replaying import NAMES

TCP = 6
LETTERS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
addresses = st.one_of(st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address))


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from(["", " ", "\t\n", "\v\f\r "]), st.integers(0, 30))
def test_a_number_is_read_with_blanks_and_zeros_before_it(number: int, blanks: str, zeros: int) -> None:
    sign = "-" if number < 0 else "+"
    assert whole_number(f"{blanks}{sign}{'0' * zeros}{abs(number)}", -(2**63), 2**63 - 1) == number


@given(st.integers(), st.text(min_size=1).filter(lambda text: not text[0].isascii() or not text[0].isdigit()))
def test_nothing_may_follow_a_number(number: int, behind: str) -> None:
    assert whole_number(f"{number}{behind}", -(2**63), 2**63 - 1) is None


@given(st.integers(), st.integers(), st.integers())
def test_a_number_beyond_its_bounds_is_none(number: int, one: int, other: int) -> None:
    lowest, highest = sorted((one, other))
    found = whole_number(str(number), lowest, highest)
    if -(2**63) < number < 2**63 - 1:
        assert found == (number if lowest <= number <= highest else None)


@given(st.text())
def test_any_text_is_a_number_or_is_not(text: str) -> None:
    assert isinstance(leading_number(text), int)


@given(st.integers(-(2**63), 2**63 - 1))
def test_an_int_keeps_the_low_bits(number: int) -> None:
    assert -(2**31) <= as_int(number) < 2**31
    assert (as_int(number) - number) % 2**32 == 0


@given(addresses, st.integers(0, 65535))
def test_what_is_written_is_read_back(address: Address, port: int) -> None:
    assert endpoint(numeric(address, port), TCP, NAMES) == (address, port)


def test_of_several_addresses_the_first_of_the_c_library_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["10.2.2.2", "10.1.1.1", "127.0.0.5"]
    monkeypatch.setattr(sockets, "gethostbyname", lambda name: found[-1])  # sorted as of RFC 6724
    monkeypatch.setattr(sockets, "gethostbyname_ex", lambda name: (name, [], found))
    assert Names().address("multi") == IPv4Address("10.2.2.2")


def test_a_host_name_is_looked_up_as_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As /etc/hosts has it. Python would turn a str into IDNA, and look up xn--ihqx51j."""
    hosts = {"网关".encode(): "192.0.2.1", b"stra\xdfe": "192.0.2.2"}
    monkeypatch.setattr(sockets, "gethostbyname_ex", lambda name: (name, [], [hosts[name]]))
    assert Names().address("网关") == IPv4Address("192.0.2.1")
    assert Names().address("stra\udcdfe") == IPv4Address("192.0.2.2")  # of an argument that is not UTF-8


@given(st.text())
def test_any_text_is_an_endpoint_or_is_not(text: str) -> None:
    found = endpoint(text, TCP, NAMES)
    assert found is None or found[1] is None or 0 <= found[1] <= 65535


@given(st.integers(0, 2**64 - 1))
def test_a_counter_is_cut_not_rounded(number: int) -> None:
    shown = cut(number).strip()
    divisor = LETTERS.get(shown[-1], 1)
    assert int(shown.rstrip("KMGT")) == number // divisor
    assert int(whole(number)) == number


@given(st.lists(st.integers(2**24, 2**31 - 1), unique=True))
def test_addresses_close_to_each_other_sort_by_number(numbers: list[int]) -> None:
    assert _sorted(map(IPv4Address, numbers)) == [str(IPv4Address(number)) for number in sorted(numbers)]


@given(st.integers(0, 2**31 - 1), st.integers(1, 2**31 - 1))
def test_addresses_more_than_half_the_space_apart_sort_the_other_way(low: int, beyond: int) -> None:
    high = low + 2**31 + beyond
    if high < 2**32:
        assert _sorted([IPv4Address(low), IPv4Address(high)]) == [str(IPv4Address(high)), str(IPv4Address(low))]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("::ffff:192.0.2.9", "[::ffff:192.0.2.9]:80"), ("::192.0.2.9", "[::192.0.2.9]:80"), ("::1", "[::1]:80")],
)
def test_ipv6_is_written_as_the_c_library_writes_it(text: str, shown: str) -> None:
    assert numeric(IPv6Address(text), 80) == shown


def _sorted(wanted: Iterable[IPv4Address]) -> list[str]:
    rows = [ServiceRow(VirtualService(ServiceKey(Protocol.TCP, address, 80))) for address in wanted]
    return [str(row.service.key.address) for row in sorted_services(rows)]
