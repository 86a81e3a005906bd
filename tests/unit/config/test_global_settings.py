"""Compiling global_defs: timeouts and addresses as in keepalived, and findings."""

from __future__ import annotations

import pytest

from pylvs.model.service import Timeouts
from tests.unit.config.support import compiled, messages


@pytest.mark.parametrize(
    ("value", "expected", "severities"),
    [("30", 30, []), ("1.5", 1.5, []), ("20s", 20, ["error"]), ("0", 1, ["warning"]), ("-1", 30, ["error"])],
)
def test_the_timeout_of_the_mail_server_may_have_a_fraction(value: str, expected: float, severities: list[str]) -> None:
    document = compiled(f"global_defs {{\n smtp_connect_timeout {value}\n}}")
    assert document.configuration.settings.mail.connect_timeout_s == expected
    assert [each.severity.value for each in document.findings] == severities


def test_several_lines_of_lvs_timeouts_count_together() -> None:
    document = compiled("global_defs {\n lvs_timeouts tcp 9 udp 7\n lvs_timeouts tcpfin 8 udp 6\n}")
    assert document.configuration.settings.lvs_timeouts == Timeouts(9, 8, 6)
    assert messages(document) == []


def test_a_later_zero_of_lvs_timeouts_leaves_the_timeout_unchanged() -> None:
    document = compiled("global_defs {\n lvs_timeouts tcp 9 udp 7\n lvs_timeouts tcp 0\n}")
    assert document.configuration.settings.lvs_timeouts == Timeouts(0, 0, 7)
    zeros = compiled("global_defs {\n lvs_timeouts tcp 0 tcpfin 0\n}")
    assert zeros.configuration.settings.lvs_timeouts is None


@pytest.mark.parametrize(
    ("line", "expected", "finding"),
    [
        ("tcp x udp 7", Timeouts(0, 0, 7), "error: 'x' is not a whole number; tcp is ignored"),
        ("udp 7 tcp 3000000", Timeouts(0, 0, 7), "error: tcp 3000000 is not between 0 and 2678400; tcp is ignored"),
        ("sctp tcp 9", Timeouts(9, 0, 0), "error: there is no timeout 'sctp'; it is ignored"),
        ("tcp 9 udp", Timeouts(9, 0, 0), "error: udp lacks seconds; it is ignored"),
        ("tcp 8O", None, "error: '8O' is not a whole number; tcp is ignored"),
        ("tcp", None, "error: lvs_timeouts lacks seconds"),
        ("", None, "error: lvs_timeouts lacks one of tcp, tcpfin and udp with seconds"),
    ],
)
def test_a_wrong_pair_of_lvs_timeouts_leaves_the_others(line: str, expected: Timeouts | None, finding: str) -> None:
    document = compiled(f"global_defs {{\n lvs_timeouts {line}\n}}")
    assert document.configuration.settings.lvs_timeouts == expected
    (message,) = messages(document)
    assert message.startswith(f"2: {finding}")


def test_metrics_are_selected_and_restricted() -> None:
    document = compiled(
        "global_defs {\n metrics_allow 192.0.2.1 2001:db8::/32\n metrics_allow 198.51.100.9/24\n"
        ' metrics_series services servers\n metrics_services web* "* tcp"\n monitor_group admins\n}'
    )
    settings = document.configuration.settings
    assert messages(document) == []
    assert list(map(str, settings.metrics_allow)) == ["192.0.2.1/32", "2001:db8::/32", "198.51.100.0/24"]
    assert settings.metrics_series == ("services", "servers")
    assert settings.metrics_services == ("web*", "* tcp")
    assert settings.monitor_group == "admins"


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("metrics_allow everybody", "error: 'everybody' is no address and no network; write 192.0.2.0/24"),
        ("metrics_allow", "error: metrics_allow lacks an address or a network"),
        ("metrics_series server", "error: 'server' is not one of services, backends, traffic, servers, checks"),
    ],
)
def test_a_wrong_selection_of_metrics_is_an_error(line: str, finding: str) -> None:
    document = compiled(f"global_defs {{\n {line}\n}}")
    (message,) = messages(document)
    assert message.startswith(f"2: {finding}")


def test_a_wrong_list_of_clients_admits_none() -> None:
    wrong, partly = (
        compiled(f"global_defs {{\n metrics_address 192.0.2.9 9100\n metrics_allow {lines}\n}}").configuration.settings
        for lines in ("192.0.2.0/33", "192.0.2.1\n metrics_allow everybody")
    )
    assert wrong.metrics_address is None
    assert (partly.metrics_address is not None, list(map(str, partly.metrics_allow))) == (True, ["192.0.2.1/32"])


def test_a_port_behind_a_colon_gets_advice() -> None:
    document = compiled("global_defs {\n metrics_address 127.0.0.1:9999\n}")
    assert messages(document) == ["2: error: '127.0.0.1:9999' is not an IP address; write 127.0.0.1 9999"]
