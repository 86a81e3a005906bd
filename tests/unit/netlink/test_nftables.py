"""Which transactions replace a table of nf_tables: one that deletes or fails keeps the caller waiting."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pylvs.netlink import nftables
from pylvs.netlink.codec import Reply, Request, walk
from pylvs.netlink.nftables import BATCH_BEGIN, BATCH_END, DELETE_TABLE, GET_TABLE, NEW_TABLE, SUBSYSTEM, Table

OWN = Table(nftables.IPV4, "own", (), ())


class Kernel:
    """A kernel that has the table or not. Another program may create it after the first listing."""

    def __init__(self, has: bool, appears: bool = False) -> None:
        self.has, self.appears = has, appears
        self.transactions: list[list[int]] = []

    def __call__(self, _protocol: int) -> Kernel:
        return self

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def do(self, requests: Sequence[Request]) -> list[Reply]:
        assert [kind for kind, *_ in requests] == [SUBSYSTEM << 8 | GET_TABLE]
        has, self.has = self.has, self.has or self.appears
        return [(0 if has else errno.ENOENT, "")]

    def send(self, messages: bytes) -> Iterator[tuple[int, Reply]]:
        kinds = [kind for kind, *_ in walk(messages)]
        assert (kinds[0], kinds[-1]) == (BATCH_BEGIN, BATCH_END)
        self.transactions.append([kind & 0xFF for kind in kinds[1:-1]])
        refused = self.has and DELETE_TABLE not in self.transactions[-1]
        yield 1, (errno.EEXIST if refused else 0, "")


@pytest.mark.parametrize(
    ("kernel", "table", "transactions"),
    [
        (Kernel(False), None, []),
        (Kernel(False), OWN, [[NEW_TABLE]]),
        (Kernel(True), None, [[NEW_TABLE, DELETE_TABLE]]),
        (Kernel(True), OWN, [[NEW_TABLE, DELETE_TABLE, NEW_TABLE]]),
        (Kernel(False, appears=True), OWN, [[NEW_TABLE], [NEW_TABLE, DELETE_TABLE, NEW_TABLE]]),
    ],
    ids=["nothing to delete", "created", "deleted", "replaced", "created by another program"],
)
def test_only_a_table_that_is_there_is_deleted(
    kernel: Kernel, table: Table | None, transactions: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nftables, "Netlink", kernel)
    assert nftables.replace(nftables.IPV4, OWN.name, table) == (0, "")
    assert kernel.transactions == transactions
