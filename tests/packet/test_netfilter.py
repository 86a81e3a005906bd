"""Imported rules mark packets as iptables and nft do, for any rules."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from pylvs.model.marks import Packet, mark_of
from pylvs.netfilter import hooks_of_host, iptables, nft
from pylvs.netfilter.chains import Hook, mark_rules
from pylvs.system.namespaces import inside_network
from tests.packet.host import ip
from tests.waiting import until, until_up

HERE, THERE = "02:00:00:00:00:01", "02:00:00:00:00:02"
SOURCES = ("10.1.0.1", "10.1.0.2", "10.1.0.77", "192.0.2.9")
TARGETS = ("10.2.0.1", "10.2.0.2", "10.2.9.9")
NETWORKS = ("10.1.0.1", "10.1.0.0/24", "10.1.0.0/30", "192.0.2.0/24")
GOALS = ("10.2.0.1", "10.2.0.0/24", "10.2.0.0/31")
PORTS = range(75, 91)
PACKETS = 60
# Behind all other rules: the mark of each packet, by its identification.
WATCH = """
table ip watch {
    set seen { typeof ip id . meta mark; size 1024; flags dynamic; }
    chain last { type filter hook prerouting priority 300; add @seen { ip id . meta mark }; }
}
"""

pytestmark = pytest.mark.skipif(
    not (shutil.which("nft") and shutil.which("iptables-restore")), reason="needs iptables and nft"
)


@pytest.fixture(scope="module")
def link() -> Iterator[None]:
    """Make a namespace with both ends of a link: frames sent to d1 come in by d0."""
    name = f"pylvs-nf{os.getpid()}"
    ip("netns", "add", name)
    try:
        with inside_network(f"/run/netns/{name}"):
            ip("link", "add", "d0", "address", HERE, "type", "veth", "peer", "name", "d1", "address", THERE)
            for device in "lo", "d0", "d1":
                ip("link", "set", device, "up")
            until_up("d0", "d1")
            ip("addr", "add", "10.2.0.1/16", "dev", "d0")
            yield
    finally:
        ip("netns", "del", name)


def run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}\n{text}"
    return done.stdout


def packets(draw: random.Random) -> list[tuple[Packet, bytes]]:
    """Return packets with their frames; the position in the list is the identification."""
    found = []
    for number in range(PACKETS):
        tcp = draw.random() < 0.6
        packet = Packet(
            ip_address(draw.choice(SOURCES)),
            ip_address(draw.choice(TARGETS)),
            6 if tcp else 17,
            draw.choice(PORTS),
            draw.choice(PORTS),
            device="d0",
            link=bytes.fromhex(THERE.replace(":", "")),
            tcp_flags=draw.choice((0x02, 0x12, 0x10, 0x04, 0x11)) if tcp else 0,
            tos=draw.choice((0, 0x10, 0x28, 0xB8)),
        )
        head = Ether(dst=HERE, src=THERE) / IP(
            src=str(packet.source), dst=str(packet.target), id=number, tos=packet.tos
        )
        if tcp:
            frame = head / TCP(sport=packet.source_port, dport=packet.target_port, flags=packet.tcp_flags)
        else:
            frame = head / UDP(sport=packet.source_port, dport=packet.target_port)
        found.append((packet, bytes(frame)))
    return found


def marks_of_netfilter(frames: list[bytes]) -> dict[int, int]:
    """Return the mark of each frame behind all other rules."""
    run("nft", "flush set ip watch seen")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("d1", 0))
        for frame in frames:
            sender.send(frame)
    until(lambda: len(marks_seen()) == len(frames), f"{len(frames)} frames")
    return marks_seen()


def marks_seen() -> dict[int, int]:
    """Return the mark of each frame that came in."""
    listed = json.loads(run("nft", "-j", "list", "set", "ip", "watch", "seen"))["nftables"]
    [found] = [each["set"] for each in listed if "set" in each]
    pairs = [each.get("elem", {}).get("val", each) if "elem" in each else each for each in found.get("elem", [])]
    return {int(pair["concat"][0]): int(pair["concat"][1]) for pair in pairs}


def same_marks(hooks: list[Hook], draw: random.Random, rules: str) -> None:
    listed, left = mark_rules(hooks)
    assert not left, f"{left}\n{rules}"
    sent = packets(draw)
    found = marks_of_netfilter([frame for _, frame in sent])
    for number, (packet, _) in enumerate(sent):
        wanted = mark_of(listed, packet)
        assert found[number] == wanted, f"{packet}: netfilter {found[number]:#x}, pylvs {wanted:#x}\n{rules}"


def not_seldom(draw: random.Random) -> str:
    return "! " if draw.random() < 0.25 else ""


def some_ports(draw: random.Random, dash: str) -> list[str]:
    found, at = [], draw.choice(PORTS[:4])
    for _ in range(draw.randrange(1, 5)):
        last = at + draw.choice((0, 0, 2))
        found.append(str(at) if at == last else f"{at}{dash}{last}")
        at = last + draw.randrange(2, 4)
    return found


# --- iptables ---


def iptables_conditions(draw: random.Random) -> str:
    words = []
    if draw.random() < 0.4:
        words.append(f"{not_seldom(draw)}-s {draw.choice(NETWORKS)}")
    elif draw.random() < 0.2:
        words.append(f"-m iprange {not_seldom(draw)}--src-range 10.1.0.1-10.1.0.{draw.choice((1, 5, 80))}")
    if draw.random() < 0.4:
        words.append(f"{not_seldom(draw)}-d {draw.choice(GOALS)}")
    if draw.random() < 0.2:
        words.append(f"{not_seldom(draw)}-i {draw.choice(('d0', 'd1', 'gone', '+'))}".replace("! -i +", "-i +"))
    kind = draw.choice(("", "tcp", "udp", "tcp", "neither"))
    if kind == "neither":
        words.append(f"! -p {draw.choice(('tcp', 'udp', 'icmp'))}")
    elif kind:
        words.append(f"-p {kind}")
        if draw.random() < 0.4:
            words.append(f"-m {kind} {not_seldom(draw)}--dport {some_ports(draw, ':')[0]}")
        if draw.random() < 0.4:
            side = draw.choice(("dports", "sports", "ports"))
            words.append(f"-m multiport {not_seldom(draw)}--{side} {','.join(some_ports(draw, ':'))}")
        if kind == "tcp" and draw.random() < 0.3:
            words.append(
                f"-m tcp {not_seldom(draw)}--tcp-flags {draw.choice(('SYN,ACK SYN', 'ALL SYN', 'RST,ACK NONE'))}"
            )
    if draw.random() < 0.3:
        words.append(f"-m mark {not_seldom(draw)}--mark {draw.randrange(8):#x}/{draw.choice((7, 1, 0xFFFFFFFF)):#x}")
    if draw.random() < 0.15:
        words.append(f"-m mac {not_seldom(draw)}--mac-source {draw.choice((HERE, THERE))}")
    if draw.random() < 0.15:
        words.append(draw.choice(("-m tos --tos 0x10/0x3f", "-m dscp --dscp 0x0a", "-m dscp ! --dscp-class EF")))
    return " ".join(words)


def iptables_target(draw: random.Random, callable_chains: list[str]) -> str:
    number, mask = draw.randrange(16), draw.choice((0xFFFFFFFF, 0xF, 0x6))
    targets = [
        f"MARK --set-mark {number}",
        f"MARK --set-xmark {number:#x}/{mask:#x}",
        f"MARK --or-mark {number}",
        f"MARK --and-mark {number:#x}",
        f"MARK --xor-mark {number}",
        "ACCEPT",
        "RETURN",
    ]
    called = [f"-{draw.choice('jjg')} {name}" for name in callable_chains]
    return draw.choice([*(f"-j {each}" for each in (*targets, *targets[:5])), *called, *called])


def iptables_rules(draw: random.Random) -> str:
    chains = ["PREROUTING", "one", "two"]
    lines = ["*mangle", ":PREROUTING ACCEPT [0:0]", ":one - [0:0]", ":two - [0:0]"]
    for index, chain in enumerate(chains):
        lines += [
            f"-A {chain} {iptables_conditions(draw)} {iptables_target(draw, chains[index + 1 :])}"
            for _ in range(draw.randrange(1, 6))
        ]
    return "\n".join([*lines, "COMMIT", ""])


@pytest.mark.parametrize("seed", range(25))
def test_what_iptables_save_prints_marks_as_iptables_does(link: None, seed: int) -> None:
    draw = random.Random(seed)
    run("nft", "flush ruleset")
    run("iptables-restore", text=iptables_rules(draw))
    run("nft", "-f", "-", text=WATCH)
    saved = run("iptables-save")
    same_marks(iptables.hooks(saved), draw, saved)


# --- nft ---


def nft_conditions(draw: random.Random) -> str:
    words = []
    unlike = "!= " if draw.random() < 0.25 else ""
    if draw.random() < 0.4:
        words.append(f"ip saddr {unlike}{draw.choice(NETWORKS)}")
    elif draw.random() < 0.4:
        words.append(f"ip saddr {unlike}{{ 10.1.0.1, 10.1.0.64-10.1.0.90, 192.0.2.0/24 }}")
    if draw.random() < 0.3:
        words.append(f"ip daddr {draw.choice(('', '!= '))}{draw.choice(GOALS)}")
    if draw.random() < 0.2:
        words.append(draw.choice(('iifname "d0"', 'iifname != "d0"', 'iifname { "d0", "d1" }')))
    kind = draw.choice(("", "tcp", "udp", "th"))
    if kind:
        if kind == "th":
            words.append("meta l4proto { tcp, udp }")
        ranges = f"{{ {', '.join(some_ports(draw, '-'))} }}"
        words.append(f"{kind} {draw.choice(('sport', 'dport'))} {draw.choice(('', '!= ', ''))}{ranges}")
    if kind == "tcp" and draw.random() < 0.4:
        words.append(draw.choice(("tcp flags & (syn | ack) == syn", "tcp flags syn", "tcp flags { syn, ack }")))
    if kind == "udp" and draw.random() < 0.3:
        words.append(f"udp sport {draw.choice(('<', '>', '<=', '>='))} 80")
    if draw.random() < 0.3:
        words.append(draw.choice(("meta mark 1", "meta mark != 3", "meta mark & 0x3 == 0x1", "meta mark { 1, 2, 8 }")))
    if draw.random() < 0.15:
        words.append(draw.choice((f"ether saddr {THERE}", f"ether saddr != {THERE}", "ip dscp ef", "ip dscp != af11")))
    if draw.random() < 0.1:
        words.append(draw.choice(("meta nfproto ipv4", "ip protocol tcp", "meta pkttype host", "counter")))
    return " ".join(words)


def nft_actions(draw: random.Random, callable_chains: list[str]) -> str:
    number = draw.randrange(16)
    marking = draw.choice(
        (
            f"meta mark set {number}",
            f"meta mark set meta mark | {number}",
            f"meta mark set meta mark & {number}",
            f"meta mark set meta mark ^ {number}",
            f"meta mark set meta mark & 0xfffffff0 | {number}",
        )
    )
    verdicts = [
        "",
        "",
        "",
        "accept",
        "return",
        *(f"{word} {name}" for name in callable_chains for word in ("jump", "goto")),
    ]
    verdict = draw.choice(verdicts)
    return f"{marking} {verdict}" if draw.random() < 0.8 or not verdict else verdict


def nft_rules(draw: random.Random) -> str:
    def rules(called: list[str]) -> str:
        count = draw.randrange(1, 6)
        return "".join(f"        {nft_conditions(draw)} {nft_actions(draw, called)}\n" for _ in range(count))

    return (
        "table inet lab {\n"
        f"    chain two {{\n{rules([])}    }}\n"
        f"    chain one {{\n{rules(['two'])}    }}\n"
        f"    chain later {{\n        type filter hook prerouting priority -10;\n{rules(['two'])}    }}\n"
        f"    chain sooner {{\n        type filter hook prerouting priority mangle;\n{rules(['one', 'two'])}    }}\n"
        "}\n"
    )


@pytest.mark.parametrize("seed", range(25))
def test_what_nft_lists_marks_as_nft_does(link: None, seed: int) -> None:
    draw = random.Random(seed)
    run("nft", "flush ruleset")
    text = nft_rules(draw)
    run("nft", "-f", "-", text=text + WATCH)
    listed = run("nft", "-j", "list", "ruleset")
    same_marks(nft.hooks(listed), draw, text)


def test_rules_of_both_tools_are_imported_once(link: None) -> None:
    run("nft", "flush ruleset")
    run("iptables", "-t", "mangle", "-A", "PREROUTING", "-d", "10.2.0.1", "-j", "MARK", "--xor-mark", "1")
    chain = "table inet lab { chain marks { type filter hook prerouting priority 0; "
    run("nft", "-f", "-", text=chain + "ip daddr 10.2.0.1 meta mark set meta mark | 2; }; }\n" + WATCH)
    hooks, asked = hooks_of_host()
    assert asked == ["iptables-save -t mangle", "ip6tables-save -t mangle", "nft -j list ruleset"]
    same_marks(hooks, random.Random(1), "both")
