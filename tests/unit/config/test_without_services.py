"""The text of a configuration without its virtual servers, which the start of virtual routers does not wait for."""

from __future__ import annotations

import pytest

from pylvs.config.compile.document import build
from pylvs.config.language.parser import read, without_services

SERVICE = """virtual_server 192.0.2.1 80 {  # a comment with }
    delay_loop 5
    real_server 10.0.0.1 80 {
        weight 1
        TCP_CHECK { connect_timeout 3 }
    }
}
"""
ROUTER = """vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    virtual_ipaddress {
        192.0.2.1/32
    }
}
"""


def test_plain_services_become_blank_lines() -> None:
    text = f"{SERVICE}{ROUTER}{SERVICE}"
    assert without_services(text) == "\n" * 7 + ROUTER + "\n" * 7


@pytest.mark.parametrize(
    "line",
    ["include more.conf", "$NAME=1", "@one weight 1", 'notify_up "/bin/true }"', "~SEQ(n, 1, 2) weight $n", "a \\"],
)
def test_a_service_with_more_than_plain_text_stays(line: str) -> None:
    text = SERVICE.replace("delay_loop 5", line) + ROUTER
    assert without_services(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "virtual_server 192.0.2.1 80 {\n" + ROUTER,
        SERVICE.rstrip() + " " + ROUTER,
        "$S= \\\nvirtual_server 192.0.2.1 80 { \\\n}\n" + ROUTER,
    ],
)
def test_nothing_else_is_left_out(text: str) -> None:
    assert without_services(text) == text


def test_the_virtual_routers_are_those_of_the_whole_file(tmp_path: object) -> None:
    path = f"{tmp_path}/keepalived.conf"
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"global_defs {{\n    router_id a\n}}\n{SERVICE}{ROUTER}{SERVICE}")
    whole, part = (build(read(path, services=services)[0])[0] for services in (True, False))
    assert (len(whole.services), len(part.services)) == (1, 0)
    assert (part.vrrp, part.settings) == (whole.vrrp, whole.settings)
