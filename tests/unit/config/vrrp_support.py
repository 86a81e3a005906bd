"""Helpers for tests of virtual routers: a machine with some devices, and one instance."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

from pylvs.config.compile.document import CompiledDocument, compile_document
from pylvs.config.language.parser import read_text
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance
from pylvs.netlink.links import Device


def device(name: str, mtu: int = 1500, **more: Any) -> Device:
    return Device(1, name, bytes(6), "", True, name == "lo", mtu, 0, 0, (), **more)


ETHERNET = device("eth0"), device("eth1"), device("eth2", 600), device("eth3")
DEVICES = device("lo", 65536), *ETHERNET, device("blue", vrf_table=7)
INSTANCE = """\
vrrp_instance VI_1 {{
    interface eth0
    virtual_router_id 51
    virtual_ipaddress {{
        {addresses}
    }}
    {lines}
}}
"""
ADDRESS = "192.0.2.1/24"


def configured(text: str) -> CompiledDocument:
    """Compile a well-formed text on that machine."""
    document, findings = read_text(dedent(text), "test.conf")
    assert findings == ()
    return compile_document(document, DEVICES)


def vrrp(text: str) -> tuple[VrrpConfiguration, list[str]]:
    """Return the virtual routers of a text, and the findings as "LINE: severity: text"."""
    found = configured(text)
    messages = [f"{each.location.line}: {each.severity.value}: {each.text}" for each in found.findings]
    return found.configuration.vrrp, messages


def clean(text: str) -> VrrpConfiguration:
    """Return the virtual routers of a text without findings."""
    found, messages = vrrp(text)
    assert messages == []
    return found


def instance(*lines: str, addresses: str = ADDRESS) -> tuple[VrrpInstance, list[str]]:
    """Return the single instance with these lines in it, from line 7 on, and the findings."""
    found, messages = vrrp(INSTANCE.format(addresses=addresses, lines="\n".join(lines)))
    (only,) = found.instances
    return only, messages


def left_out(text: str) -> list[str]:
    """Return the findings of a text without any accepted instance."""
    found, messages = vrrp(text)
    assert found.instances == ()
    return messages
