"""Any tree of VRRP blocks compiles to a configuration and findings, without an exception."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read_text
from pylvs.config.language.tree import Document, Location, Node, Word
from pylvs.config.schema.global_defs import ROOT
from pylvs.config.schema.grammar import Block
from pylvs.config.show import as_json, shown
from tests.unit.config.vrrp_support import DEVICES

NAMES = ("A", "B", "C")
VALUES = (
    "0", "1", "2", "3", "7", "50", "255", "256", "-1", "-20", "0.5", "1.5", "41", "x", "on", "off", "perhaps",
    "MASTER", "BACKUP", "PASS", "AH", "secret", "longer than eight", "eth0", "eth1", "eth2", "eth9", "192.0.2.1",
    "192.0.2.1/24", "10.1.0.0/16", "2001:db8::1", "fe80::1", "224.0.0.99", "ff02::99", "default", "dev", "via", "src",
    "from", "to", "table", "preference", "nexthop", "weight", "reverse", "noreverse", "no_track", "track_group",
    "label", "scope", "brd", "+", "peer", "mtu", "lock", "all", "never", "min_ttl", "max_ttl", "02:00:00:00:00:01",
    "vip0", "/run/number", "</dev/null", "overwrite", "initial", "partial", "nop", "goto", "blackhole", "fwmark",
    "0x10/12", "uidrange", "1-9", "l3mdev", "inet6", *NAMES,
)  # fmt: skip
LOCATION = Location("x.conf", 1, 1)
values = st.lists(st.sampled_from(VALUES), max_size=5)


def node(words: tuple[str, ...], below: tuple[Node, ...] | None = None) -> Node:
    """A statement of these words, and perhaps a block of others."""
    return Node(tuple(Word(each, LOCATION) for each in words), below)


def line_of(block: Block) -> st.SearchStrategy[Node]:
    """A line of a block of lines: anything that begins with a value."""
    return values.filter(bool).map(lambda words: node(tuple(words)))


def inside(block: Block) -> st.SearchStrategy[Node]:
    """A statement that a block knows, with some arguments."""
    choices = []
    for entry in block.entries:
        for name in (entry.name, *entry.aliases):
            if isinstance(entry, Block):
                choices.append(whole(entry, name))
            else:
                choices.append(values.map(lambda words, name=name: node((name, *words[:2]))))  # type: ignore[misc]
    return st.one_of(choices)


def whole(block: Block, name: str) -> st.SearchStrategy[Node]:
    """A block of this name."""
    heads = st.sampled_from(NAMES).map(lambda head: (name, head)) if block.head else st.just((name,))
    below = line_of(block) if block.lines else inside(block)
    return st.builds(lambda head, lines: node(head, tuple(lines)), heads, st.lists(below, max_size=8))


def instance(head: str, vrid: str, device: str, lines: list[Node]) -> Node:
    """A virtual router that has what it needs."""
    needed = node(("interface", device)), node(("virtual_router_id", vrid))
    address = node(("virtual_ipaddress",), (node((f"192.0.2.{vrid}",)),))
    return node(("vrrp_instance", head), (*needed, *lines, address))


BLOCKS = {entry.name: entry for entry in ROOT.entries if isinstance(entry, Block)}
VRRP = ("vrrp_instance", "vrrp_sync_group", "vrrp_script", "track_file", "vrrp_track_process", "track_group")
FIXED = ("static_ipaddress", "static_routes", "static_rules", "garp_group", "interface_up_down_delays")
instances = st.builds(
    instance,
    st.sampled_from(NAMES),
    st.sampled_from(("7", "8")),
    st.sampled_from(("eth0", "eth1")),
    st.lists(inside(BLOCKS["vrrp_instance"]), max_size=8),
)
nearly = st.one_of(instances, instances, *(whole(BLOCKS[name], name) for name in (*VRRP, *FIXED, "global_defs")))


@settings(max_examples=60, deadline=None)
@given(st.lists(nearly, max_size=6))
def test_what_is_made_of_a_tree_is_shown_and_read_again_as_the_same(tree: list[Node]) -> None:
    compiled = compile_document(Document(tuple(tree), ("x.conf",)), DEVICES)
    as_json(compiled.effective)
    found = compiled.configuration.vrrp
    assert all(each.text for each in compiled.findings)
    assert len({each.name for each in found.instances}) == len(found.instances)
    document, unread = read_text(shown(compiled.effective), "x.conf")
    assert unread == ()
    assert compile_document(document, DEVICES).configuration.vrrp == found
