"""MemoryRoles implements the protocol and records calls."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.model.errors import Busy
from pylvs.model.vrrp import Roles
from pylvs.testing import MemoryRoles

ONE, OTHER = ip_address("192.0.2.1"), ip_address("2001:db8::1")


def test_the_latest_call_counts_and_every_call_is_recorded() -> None:
    memory = MemoryRoles()
    roles: Roles = memory
    assert not memory.standby | memory.held
    roles.stand_by(frozenset({ONE, OTHER}))
    roles.stand_by(frozenset({ONE}), frozenset({ONE, OTHER}))
    assert memory.standby == {ONE}
    assert memory.held == {OTHER}
    assert [standby for standby, _ in memory.calls] == [{ONE, OTHER}, {ONE}]


def test_an_error_changes_nothing() -> None:
    roles = MemoryRoles()
    roles.error = Busy("not now")
    with pytest.raises(Busy, match="not now"):
        roles.stand_by(frozenset({ONE}))
    assert roles.calls == []
