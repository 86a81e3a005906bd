"""Any tree compiles to a configuration and findings, without an exception."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read_text
from pylvs.config.language.tree import Document, Location, Node, Word
from pylvs.config.schema.checkers import CHECKERS as BLOCKS
from pylvs.config.schema.global_defs import ROOT
from pylvs.config.show import as_json, shown

NAMES = sorted({name for block in ROOT.blocks() for name in block.names()})
VALUES = (
    "", "0", "1", "-1", "80", "65536", "4294967296", "99999999999999999999", "1.5", ".", "1e9", "nan", "inf", "0x",
    "on", "off", "perhaps", "192.0.2.1", "10.0.0.2", "10.0.0.2/24", "192.0.2.1-9", "192.0.2.0/28", "2001:db8::1",
    "::/0",
    "2001:db8::-1", "fe80::1%eth0", "192.0.2.1-1_0", "9" * 45,
    "fwmark", "group", "web", "inet", "inet6", "TCP", "UDP", "NAT", "DR", "TUN", "type", "gue", "gre",
    "port", "csum", "rr", "wlc", "sh", "/bin/sh", "/no/such", "/bin/sh 'a", "root", "nobody", "/", "200-299", "99-1",
    "a(b", "(?P<", "[[:alpha:]]", "abc", "d41d8cd98f00b204e9800998ecf8427e", "VS", "vs", "tcp", "metric", "a{b}",
    "²", "é", "\0", "\ud800", "x" * 300, "9" * 45 + "-9", "255.255.255.0", "255.0.255.0", "reverse", "{", "}", "#",
)  # fmt: skip

CHECKERS = [block.name for block in BLOCKS]
READABLE = tuple(each for each in VALUES if each not in ("\0", "\ud800"))  # what a file can bring

words = st.builds(
    Word,
    st.one_of(st.sampled_from(NAMES), st.sampled_from(VALUES), st.text(max_size=8)),
    st.builds(Location, st.just("x.conf"), st.integers(1, 99), st.integers(1, 99)),
    st.booleans(),
)


def statement(name: str, *values: str) -> Node:
    """A statement of these words."""
    return Node(tuple(Word(each, Location("x.conf", 1, 1)) for each in (name, *values)))


lines = st.builds(lambda first, rest: Node((first, *rest)), words, st.lists(words, max_size=4))
nodes = st.recursive(
    lines,
    lambda below: st.builds(
        lambda first, rest, block: Node((first, *rest), tuple(block)),
        words,
        st.lists(words, max_size=3),
        st.lists(below, max_size=5),
    ),
    max_leaves=12,
)

# Nearly valid trees reach the code after the first mistake.
HEADS = st.sampled_from(
    (("192.0.2.1", "80"), ("192.0.2.1",), ("2001:db8::1", "80"), ("fwmark", "3"), ("group", "web"), ("group", "none"))
)
SERVERS = st.sampled_from((("10.0.0.2", "80"), ("10.0.0.2",), ("2001:db8::2", "80"), ("10.0.0.3", "81")))


def words_of(block: str) -> st.SearchStrategy[Node]:
    """A line that a block knows, with some value."""
    names = next(sorted(each.names()) for each in ROOT.blocks() if each.name == block)
    return st.builds(statement, st.sampled_from(names), st.sampled_from(READABLE), st.sampled_from(READABLE))


def blocks(
    name: str, head: st.SearchStrategy[tuple[str, ...]], inside: st.SearchStrategy[Node]
) -> st.SearchStrategy[Node]:
    """A block of this name."""
    return st.builds(
        lambda words, below: Node(statement(name, *words).words, tuple(below)), head, st.lists(inside, max_size=6)
    )


nothing: st.SearchStrategy[tuple[str, ...]] = st.just(())
urls = blocks("url", nothing, words_of("url"))
in_checkers = {name: st.one_of(words_of(name), urls, blocks("host", nothing, words_of("host"))) for name in CHECKERS}
checkers = st.one_of(*(blocks(name, nothing, inside) for name, inside in in_checkers.items()))
servers = blocks("real_server", SERVERS, st.one_of(words_of("real_server"), checkers))
services = blocks("virtual_server", HEADS, st.one_of(words_of("virtual_server"), servers, servers))
groups = blocks(
    "virtual_server_group",
    st.just(("web",)),
    st.builds(
        statement, st.sampled_from(("192.0.2.1", "192.0.2.1-4", "2001:db8::/127", "fwmark")), st.sampled_from(VALUES)
    ),
)
nearly = st.one_of(services, services, groups, blocks("global_defs", nothing, words_of("global_defs")))


@settings(max_examples=100, deadline=None)
@given(st.lists(nodes, max_size=6))
def test_any_tree_of_words_compiles(tree: list[Node]) -> None:
    compiled = compile_document(Document(tuple(tree), ("x.conf",)))
    shown(compiled.effective)
    as_json(compiled.effective)
    assert all(each.text for each in compiled.findings)


@settings(max_examples=150, deadline=None)
@given(st.lists(nearly, max_size=4))
def test_a_nearly_valid_tree_survives_printing_and_parsing(tree: list[Node]) -> None:
    compiled = compile_document(Document(tuple(tree), ("x.conf",)))
    names = [service.name for service in compiled.configuration.services]
    assert len(set(names)) == len(names)
    document, unread = read_text(shown(compiled.effective), "x.conf")
    assert unread == ()
    assert compile_document(document).configuration.services == compiled.configuration.services
