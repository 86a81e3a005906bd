"""Roles change by one store: each packet sees the former set or the new one, never a mixture."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from pylvs.bpf import abi
from pylvs.dataplane import vip_roles
from pylvs.dataplane.tables import Tables, address_bit, address_bytes
from pylvs.dataplane.vip_roles import VipRoles
from pylvs.model.addresses import Address

ADDRESSES = [ip_address(each) for each in ("192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1", "2001:db8::2")]
NONE = frozenset[Address]()
KEYS = 0x9E3779B97F4A7C15, 0x0123456789ABCDEF, 0xFEDCBA9876543210  # of the bitmaps


class Kernel:
    """A map and a root, with a packet that reads them after every single store."""

    def __init__(self) -> None:
        self.elements: dict[bytes, bytes] = {}
        self.root = self
        self.array = self
        self.standby = self
        self.words = Words(self)
        self.seen: list[frozenset[Address]] = []

    # the methods of a map

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(dict(self.elements).items())

    def put_many(self, keys: bytes, values: bytes, count: int) -> None:
        for index in range(count):
            self.elements[keys[16 * index : 16 * index + 16]] = values[index : index + 1]
            self.read()

    def remove_many(self, keys: bytes, count: int) -> None:
        for index in range(count):
            del self.elements[keys[16 * index : 16 * index + 16]]
            self.read()

    # the methods of the root

    def get(self, index: int, name: str) -> Any:
        assert (index, name) in ((0, "standby"), (0, "address_keys"))
        return KEYS if name == "address_keys" else self.words[abi.struct("root").offset("standby") >> 3]

    def set(self, index: int, name: str, value: int) -> None:
        assert (index, name) == (0, "standby")
        self.words[abi.struct("root").offset("standby") >> 3] = value

    publish = set

    # what a packet does

    def is_standby(self, address: Address) -> bool:
        """Return what is_standby in bpf/policy/vrrp_role.h does."""
        side = self.get(0, "standby")
        bit = address_bit(address_bytes(address), address.version, KEYS)
        if not side or not self.words[(abi.struct("root").offset("standby_bits") >> 3) + (bit >> 6)] >> (bit & 63) & 1:
            return False
        return bool(self.elements.get(address_bytes(address), b"\0")[0] & side)

    def read(self) -> None:
        self.seen.append(frozenset(each for each in ADDRESSES if self.is_standby(each)))


class Words(dict[int, int]):
    """The 64-bit words of the root."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel

    def __missing__(self, index: int) -> int:
        return 0

    def __setitem__(self, index: int, word: int) -> None:
        super().__setitem__(index, word)
        self.kernel.read()


some = st.frozensets(st.sampled_from(ADDRESSES))


@given(st.lists(st.tuples(some, some), min_size=1, max_size=8))
def test_every_moment_shows_the_set_before_or_the_set_after(words: list[tuple[frozenset[Address], ...]]) -> None:
    kernel = Kernel()
    tables = cast(Tables, kernel)
    before = NONE
    for addresses, others in words:
        kernel.seen.clear()
        roles = VipRoles(addresses, others - addresses)
        vip_roles.write(tables, roles)
        changes = [now for former, now in zip([before, *kernel.seen], kernel.seen, strict=False) if now != former]
        assert changes == ([addresses] if addresses != before else [])
        assert vip_roles.in_force(tables) == roles
        assert set(kernel.elements) == {address_bytes(each) for each in addresses | others}
        before = addresses


@given(some)
def test_writing_the_same_roles_again_changes_no_packet(addresses: frozenset[Address]) -> None:
    kernel = Kernel()
    tables = cast(Tables, kernel)
    vip_roles.write(tables, VipRoles(addresses))
    kernel.seen.clear()
    vip_roles.write(tables, VipRoles(addresses))
    assert set(kernel.seen) <= {addresses}
