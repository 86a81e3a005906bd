"""Names and paths of the objects, and their description."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from pylvs.dbus.interface import INSTANCE, VRRP, description, element, instance_path, root_of, vrrp_path
from pylvs.model.wanted import Placement


@pytest.mark.parametrize(
    ("text", "path"),
    [("eth0", "eth0"), ("eth0.7", "eth0_7"), ("br-lan:1", "br_lan_1"), ("é", "__"), ("\udcff", "_")],
)
def test_an_element_has_letters_and_digits_only(text: str, path: str) -> None:
    assert element(text) == path


def test_paths_have_the_names_of_namespace_and_instance() -> None:
    assert root_of(Placement()) == "/org/keepalived/Vrrp1"
    root = root_of(Placement(net_namespace="blue-1", instance="second"))
    assert vrrp_path(root) == "/org/keepalived/Vrrp1/blue_1/second/Vrrp"
    assert instance_path(root, "eth0.7", 51, 6) == "/org/keepalived/Vrrp1/blue_1/second/Instance/eth0_7/51/IPv6"


OBJECTS = {"/a/Vrrp": VRRP, "/a/Instance/eth0/51/IPv4": INSTANCE, "/a/Instance/eth0/51/IPv6": INSTANCE}


@pytest.mark.parametrize(
    ("path", "below"),
    [
        ("/", ["a"]),
        ("/a", ["Instance", "Vrrp"]),
        ("/a/Instance/eth0", ["51"]),
        ("/a/Instance/eth0/51", ["IPv4", "IPv6"]),
        ("/a/Vrrp", []),
    ],
)
def test_a_description_names_what_is_below(path: str, below: list[str]) -> None:
    node = ElementTree.fromstring(description(path, OBJECTS))
    assert [each.attrib["name"] for each in node.findall("node")] == below


@pytest.mark.parametrize("path", ["/a/Inst", "/b", "/a/Vrrp/x"])
def test_nothing_is_described_where_nothing_is(path: str) -> None:
    assert description(path, OBJECTS) == ""
