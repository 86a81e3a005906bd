"""What only SNMP shows of virtual servers."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.model.described import AddressEntry, CheckDefaults, DescribedGroup, Descriptions
from pylvs.model.service import Method, Tunnel, TunnelKind
from pylvs.model.wanted import SnmpSettings
from tests.unit.config.support import compiled

SERVICES = """
virtual_server_group web {
    192.0.2.1-3 80
    fwmark 5
    192.0.2.9 443
}
virtual_server group web {
    protocol TCP
    lvs_sched rr
    lvs_method TUN type gue port 6080
    snmp_name first
    virtualhost a.example
    delay_loop 3
    retry 2
    weight 4
    real_server 10.0.0.1 {
        snmp_name one
        warmup 1
    }
    real_server 10.0.0.2 {
        virtualhost b.example
        delay_loop 5
    }
}
virtual_server 192.0.2.7 80 {
    real_server 10.0.0.1 80 {
    }
}
"""


def described(settings: str) -> Descriptions:
    return compiled(f"global_defs {{\n{settings}\n}}\n{SERVICES}").configuration.described


def test_names_groups_and_keywords_of_checks_are_described() -> None:
    found = described("enable_snmp_checker")
    entries = (
        AddressEntry(ip_address("192.0.2.1"), ip_address("192.0.2.3"), 80),
        AddressEntry(ip_address("192.0.2.9"), ip_address("192.0.2.9"), 443),
    )
    assert found.groups == (DescribedGroup("web", (5,), entries),)
    first, second = found.services
    assert (first.name, first.group, first.weight) == ("first", "web", 4)
    assert (first.method, first.tunnel) == (Method.TUNNEL, Tunnel(TunnelKind.GUE, 6080))
    assert first.checks == CheckDefaults(3.0, 5.0, retry=2)
    one, two = first.servers
    assert (one.name, one.virtualhost, one.checks) == ("one", "", CheckDefaults(3.0, 5.0, retry=2, warmup_s=1.0))
    assert (two.name, two.virtualhost, two.checks) == ("", "b.example", CheckDefaults(5.0, 5.0, retry=2))
    assert (second.name, second.group, second.checks) == ("", "", CheckDefaults(60.0, 5.0))


def test_without_the_mib_nothing_is_described() -> None:
    assert described("enable_snmp_vrrp") == Descriptions()


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("enable_snmp_checker", SnmpSettings(checker=True)),
        ("enable_snmp_rfcv2", SnmpSettings(rfc_v2=True)),
        ("enable_snmp_rfcv3", SnmpSettings(rfc_v3=True)),
        ("enable_snmp_rfc", SnmpSettings(rfc_v2=True, rfc_v3=True)),
    ],
)
def test_each_mib_is_enabled_by_its_keyword(words: str, settings: SnmpSettings) -> None:
    document = compiled(f"global_defs {{\n{words}\n}}\n")
    assert document.configuration.settings.snmp == settings
    assert settings.enabled
    assert document.findings == ()
