"""What tests of virtual routers' configuration share: a machine with four devices, and one instance."""

from __future__ import annotations

from textwrap import dedent

from pylvs.config.compile.document import CompiledDocument, compile_document
from pylvs.config.language.parser import read_text
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance

MTUS = {"lo": 65536, "eth0": 1500, "eth1": 1500, "eth2": 600, "eth3": 1500}
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
    """What a text means on that machine; it must be well-formed."""
    document, findings = read_text(dedent(text), "test.conf")
    assert findings == ()
    return compile_document(document, MTUS)


def vrrp(text: str) -> tuple[VrrpConfiguration, list[str]]:
    """The virtual routers of a text, and the findings as "LINE: severity: text"."""
    found = configured(text)
    said = [f"{each.location.line}: {each.severity.value}: {each.text}" for each in found.findings]
    return found.configuration.vrrp, said


def clean(text: str) -> VrrpConfiguration:
    """The virtual routers of a text in which nothing is wrong."""
    found, said = vrrp(text)
    assert said == []
    return found


def instance(*lines: str, addresses: str = ADDRESS) -> tuple[VrrpInstance, list[str]]:
    """The one instance with these lines in it, from line 7 on, and what is wrong with it."""
    found, said = vrrp(INSTANCE.format(addresses=addresses, lines="\n".join(lines)))
    (only,) = found.instances
    return only, said


def left_out(text: str) -> list[str]:
    """What is wrong with a text in which no instance is left."""
    found, said = vrrp(text)
    assert found.instances == ()
    return said
