"""Filters of `pylvs trace`: libpcap compiles them, or one line has its words."""

from __future__ import annotations

import subprocess

import pytest

from pylvs.model.errors import Unsupported
from pylvs.trace import filters
from pylvs.trace.filters import BadFilter, Instruction, compile_filter


def by_tcpdump(expression: str) -> tuple[Instruction, ...]:
    """What tcpdump compiles, as `tcpdump -ddd` prints it: the number of instructions, then their fields."""
    words = ["tcpdump", "-s", str(0x40000), "-ddd", "-y", "EN10MB", expression]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return tuple(Instruction(*map(int, line.split())) for line in done.stdout.splitlines()[1:])


@pytest.mark.parametrize("expression", ["tcp port 80 and host 10.0.0.5", "ip6", "udp[4:2] > 100 or vlan 5", "inbound"])
def test_a_filter_has_the_instructions_that_tcpdump_uses(expression: str) -> None:
    assert compile_filter(expression).instructions == by_tcpdump(expression)


@pytest.mark.parametrize("expression", ["", " \t\n"])
def test_an_empty_filter_matches_everything(expression: str) -> None:
    assert compile_filter(expression).instructions == ()


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("tcp prt 80", "filter 'tcp prt 80': can't parse filter expression: syntax error; see man pcap-filter"),
        ("host", "filter 'host': can't parse filter expression: syntax error; see man pcap-filter"),
        ("port http-nosuch", "filter 'port http-nosuch': unknown port 'http-nosuch'; see man pcap-filter"),
        ("ip and arp", "filter 'ip and arp': expression rejects all packets; see man pcap-filter"),
        ("ip[2] / 0 = 1", "filter 'ip[2] / 0 = 1': division by zero; see man pcap-filter"),
        ("tcp\0port", "the filter contains a zero byte"),
        (
            "ip6 protochain 6",
            "filter 'ip6 protochain 6': protochain needs a loop, which no BPF program may have; write proto",
        ),
        ("x" * 9000, "the filter has 9000 bytes, at most 8192 are possible"),
        ("(" * 4000, "can't parse filter expression: "),
    ],
)
def test_a_filter_that_does_not_compile_is_one_line_with_the_words_of_libpcap(expression: str, text: str) -> None:
    with pytest.raises(BadFilter) as raised:
        compile_filter(expression)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_libpcap_the_error_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "SONAMES", ("libpcap.so.none",))
    filters._library.cache_clear()
    try:
        assert compile_filter("").instructions == ()
        with pytest.raises(Unsupported, match=r"apt install libpcap0\.8"):
            compile_filter("tcp")
    finally:
        filters._library.cache_clear()
