"""lvs_sync_daemon: its words have the effect that keepalived 2.2.7 gives them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.model.sync.daemons import SyncWanted
from tests.unit.config.vrrp_support import INSTANCE, configured


def router(line: str = "") -> str:
    """VI_1, whose VRID is 51."""
    return INSTANCE.format(addresses="192.0.2.9/24", lines=line)


def other(line: str = "") -> str:
    """VI_2, whose VRID is 52."""
    return router(line).replace("VI_1", "VI_2").replace("51", "52").replace("192.0.2.9", "192.0.2.10")


def sync(line: str, *routers: str) -> tuple[SyncWanted | None, list[str]]:
    """What one line in global_defs configures beside virtual routers, and its findings."""
    found = configured(f"global_defs {{\n{line}\n}}\n{''.join(routers) or router()}")
    return found.configuration.settings.sync, [each.text for each in found.findings]


@pytest.mark.parametrize("words", ["eth0 VI_1", "eth0 inst VI_1"])
def test_the_syncid_is_the_vrid(words: str) -> None:
    assert sync(f"lvs_sync_daemon {words}") == (SyncWanted("eth0", "VI_1", 51), [])


def test_every_option() -> None:
    line = "lvs_sync_daemon eth1 VI_1 id 7 maxlen 1000 port 9000 ttl 9 group ff02::51"
    assert sync(line) == (SyncWanted("eth1", "VI_1", 7, 1000, ip_address("ff02::51"), 9000, 9), [])


@pytest.mark.parametrize(("line", "syncid"), [("lvs_sync_daemon eth0", 0), ("lvs_sync_daemon eth0 id 3", 3)])
def test_a_virtual_router_may_be_left_out(line: str, syncid: int) -> None:
    assert sync(line) == (SyncWanted("eth0", "", syncid), [])


def test_an_unknown_virtual_router_ends_it() -> None:
    assert sync("lvs_sync_daemon eth0 VI_9") == (
        None,
        ["lvs_sync_daemon: there is no virtual router 'VI_9'; no sync daemon runs"],
    )


def test_a_wrong_option_is_ignored_and_the_others_count() -> None:
    line = "lvs_sync_daemon eth0 VI_1 id 300 ttl 0 port 70000 maxlen 65508 group 192.0.2.1 foo id"
    wanted, findings = sync(line)
    assert wanted == SyncWanted("eth0", "VI_1", 51)
    assert findings == [
        "id 300 is not between 0 and 255; id is ignored",
        "ttl 0 is not between 1 and 255; ttl is ignored",
        "port 70000 is not between 1 and 65535; port is ignored",
        "maxlen 65508 is not between 1 and 65507; maxlen is ignored",
        "192.0.2.1 is no multicast address; group is ignored",
        "lvs_sync_daemon has no option 'foo'; it is ignored",
        "id lacks a value; it is ignored",
    ]


def test_the_syncid_may_lack_its_word() -> None:
    assert sync("lvs_sync_daemon eth0 VI_1 9 ttl 3") == (
        SyncWanted("eth0", "VI_1", 9, ttl=3),
        ["a syncid without a keyword: 9 is taken"],
    )


@pytest.mark.parametrize("words", ["", "a-name-of-more-than-fifteen VI_1"])
def test_a_line_without_an_interface_is_none(words: str) -> None:
    wanted, findings = sync(f"lvs_sync_daemon {words}")
    assert wanted is None
    assert len(findings) == 1


def test_the_first_line_counts() -> None:
    wanted, findings = sync("lvs_sync_daemon eth0 VI_1\nlvs_sync_daemon eth1 VI_1")
    assert wanted == SyncWanted("eth0", "VI_1", 51)
    assert len(findings) == 1


def test_the_deprecated_form_has_syncid_0() -> None:
    wanted, findings = sync("", router("lvs_sync_daemon_interface eth1"))
    assert wanted == SyncWanted("eth1", "VI_1", 0)
    assert findings == ["lvs_sync_daemon_interface is deprecated"]


def test_the_deprecated_form_gives_way() -> None:
    old = "lvs_sync_daemon_interface eth2"
    wanted, findings = sync("lvs_sync_daemon eth0 VI_2", router(old), other())
    assert wanted == SyncWanted("eth0", "VI_2", 52)
    assert "there is a sync daemon already; this one is ignored" in findings
    wanted, findings = sync("", router(old), other(old))
    assert wanted == SyncWanted("eth2", "VI_1", 0)
    assert findings.count("there is a sync daemon already; this one is ignored") == 1
