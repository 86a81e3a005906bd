"""Random filters of tcpdump's language, random programs of classic BPF, frames for both, and libpcap's own decision."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from ipaddress import IPv6Address

from pylvs.bpf import kernel
from pylvs.trace import ebpf
from pylvs.trace.filters import SONAMES, BadFilter, Filter, Instruction, compile_filter

HOSTS4 = ("10.0.0.1", "10.0.0.2", "192.0.2.1", "8.0.0.1")
HOSTS6 = ("2001:db8::1", "2001:db8::2", "fe80::1")
PORTS = (53, 80, 443, 8080)
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02", "ff:ff:ff:ff:ff:ff")
PRIMITIVES = (
    *("ip", "ip6", "arp", "tcp", "udp", "sctp", "icmp", "icmp6", "vlan 5", "multicast", "ether multicast", "mpls"),
    *("tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", "icmp[icmptype] = icmp-echo", "ip[6:2] & 0x1fff = 0", "ip proto 47"),
    *("greater 70", "less 64", "len > 60", "ip6 proto 6", "ether proto 0x0800", "pppoes", "rarp", "vlan", "igmp"),
    *("ip multicast", "ip6 multicast", "tcp portrange 50-100", "ether[0] & 1 = 0", "proto 132", "ip proto \\tcp"),
)
PROTOCOLS = ("ip", "ip6", "tcp", "udp", "icmp", "ether", "icmp6", "sctp")
HOOKS = {"xdp": ebpf.XDP, "tc": ebpf.TC, "egress": ebpf.TC_EGRESS}
_XDP_FLAGS, _ATTACH_XDP = 1 << 5, 37


class Random:
    """Random filters and frames of one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def _one(self, values: tuple[str, ...] | tuple[int, ...]) -> str:
        return str(self.random.choice(values))

    def primitive(self) -> str:
        """Return one test, in any of the forms that the language has."""
        direction = self._one(("", "src ", "dst ", "src or dst ", "src and dst "))
        forms = (
            lambda: self._one(PRIMITIVES),
            lambda: f"{direction}host {self._one(HOSTS4 + HOSTS6)}",
            lambda: f"{self._one(('', 'tcp ', 'udp '))}{direction}port {self._one(PORTS)}",
            lambda: f"{direction}net {self._one(('10.0.0.0/8', '192.0.2.0/24', '2001:db8::/32', '8.0.0.0/15'))}",
            lambda: f"ether {self._one(('src', 'dst', 'host'))} {self._one(MACS)}",
            self.relation,
            self.relation,
        )
        return self.random.choice(forms)()

    def relation(self) -> str:
        """Return a comparison of two numbers of the packet."""
        return f"{self.number(2)} {self._one(('=', '!=', '<', '>', '<=', '>='))} {self.number(1)}"

    def number(self, depth: int) -> str:
        """Return an arithmetic expression."""
        kind = self.random.random()
        if kind < 0.3 or not depth:
            return str(self.random.choice((0, 1, 2, 5, 6, 17, 64, 80, 255, self.random.randrange(1 << 16))))
        if kind < 0.75:
            at = self.number(depth - 1) if self.random.random() < 0.3 else str(self.random.randrange(24))
            return f"{self._one(PROTOCOLS)}[{at}:{self._one((1, 2, 4))}]"
        if kind < 0.8:
            return "len"
        operation = self._one(("+", "-", "*", "/", "%", "&", "|", "^"))
        return f"({self.number(depth - 1)} {operation} {self.number(depth - 1)})"

    def expression(self, depth: int = 3) -> str:
        """Return tests that words and parentheses join, nested up to `depth`."""
        if not depth or self.random.random() < 0.3:
            return self.primitive()
        word = self._one(("and", "or"))
        negation = "not " if self.random.random() < 0.2 else ""
        return f"{negation}({self.expression(depth - 1)} {word} {self.expression(depth - 1)})"

    def filter(self) -> Filter:
        """Return a filter that libpcap compiles; it refuses those that reject all packets."""
        while True:
            try:
                return compile_filter(self.expression())
            except BadFilter:
                continue

    def program(self) -> Filter:
        """Return a valid program of classic BPF with any instruction, of which libpcap's compiler emits only some."""
        size = self.random.randrange(3, 24)
        stores = [Instruction(code, 0, 0, cell) for cell in range(4) for code in (self.random.choice((2, 3)),)]
        body = [self.instruction(left) for left in range(size, 0, -1)]
        ends = [Instruction(0x06, 0, 0, self.random.choice((0, 1))), Instruction(0x16, 0, 0, 0)]
        return Filter("random", (*stores, *body, self.random.choice(ends)))

    def instruction(self, left: int) -> Instruction:
        """Return an instruction that `left` others follow."""
        number = self.random.choice((0, 1, 2, 3, 14, 23, 0xFF, 0xFFFF, 0x80000000, 0xFFFFF, self.random.randrange(80)))
        kind = self.random.randrange(12)
        width = self.random.choice((0x00, 0x08, 0x10))
        if kind < 2:
            return Instruction(0x20 | width, 0, 0, self.random.randrange(70))
        if kind < 4:
            return Instruction(0x40 | width, 0, 0, self.random.choice((0, 1, 14, 20, 0xFFFFFFF0, 0x7FFFFFFF)))
        if kind < 6:
            operation = self.random.randrange(0x00, 0xB0, 0x10)
            by_x = self.random.choice((0, 8))
            if operation in (0x60, 0x70):  # libpcap leaves longer shifts by a constant to the compiler of C
                number &= 31
            if operation in (0x30, 0x90) and not by_x:
                number = number or 1
            by_x = 0 if operation == 0x80 else by_x  # libpcap's interpreter aborts at others
            return Instruction(0x04 | operation | by_x, 0, 0, number)
        if kind < 9:
            operation = self.random.choice((0x10, 0x20, 0x30, 0x40))
            jumps = self.random.randrange(left), self.random.randrange(left)
            return Instruction(0x05 | operation | self.random.choice((0, 8)), *jumps, number)
        codes = ((0x00, number), (0x01, number), (0x60, number & 3), (0x61, number & 3), (0x80, 0))
        more = ((0xB1, number & 63), (0x02, number & 3), (0x03, number & 3), (0x07, 0), (0x87, 0))
        code, k = self.random.choice((*codes, *more, (0x05, self.random.randrange(left))))
        return Instruction(code, 0, 0, k)

    def frame(self, shortest: int) -> bytes:
        """Return an Ethernet frame of one of many kinds, sometimes damaged, or cut, to `shortest` bytes at least."""
        ethertype, payload = self.random.choice((self._ip4, self._ip4, self._ip4, self._ip6, self._ip6, self._other))()
        link = bytes.fromhex((self._one(MACS) + self._one(MACS)).replace(":", ""))
        tag = self.random.random()
        if tag < 0.15:
            link += b"\x81\x00" + self.random.choice((5, 6)).to_bytes(2, "big")
        frame = bytearray(link + ethertype + payload)
        if tag > 0.9:
            frame[self.random.randrange(len(frame))] = self.random.randrange(256)
        if tag > 0.95:
            del frame[self.random.randrange(shortest, max(shortest, len(frame)) + 1) :]
        return bytes(frame.ljust(shortest, b"\0"))

    def _ip4(self) -> tuple[bytes, bytes]:
        options = bytes(self.random.choice((0, 0, 0, 4, 40)))
        protocol, payload = self._transport()
        saddr, daddr = (bytes(map(int, self._one(HOSTS4).split("."))) for _ in range(2))
        fragment = self.random.choice((0, 0, 0, 0x4000, 0x2000, 0x2010, 0x0010))
        head = bytes((0x45 + len(options) // 4, 0)) + (20 + len(options) + len(payload)).to_bytes(2, "big")
        head += b"\0\1" + fragment.to_bytes(2, "big") + bytes((64, protocol, 0, 0))
        return b"\x08\x00", head + saddr + daddr + options + payload

    def _ip6(self) -> tuple[bytes, bytes]:
        protocol, payload = self._transport()
        if self.random.random() < 0.2:
            protocol, payload = 44, bytes((protocol, 0, 0, 1, 0, 0, 0, 1)) + payload
        ends = b"".join(IPv6Address(self._one(HOSTS6)).packed for _ in range(2))
        head = b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + bytes((protocol, 64))
        return b"\x86\xdd", head + ends + payload

    def _transport(self) -> tuple[int, bytes]:
        protocol = self.random.choice((6, 6, 6, 17, 17, 132, 1, 58, 47, 89))
        ports = b"".join(int(self._one(PORTS)).to_bytes(2, "big") for _ in range(2))
        rest = bytes(self.random.randrange(256) for _ in range(self.random.choice((4, 20, 60, 900, 1400))))
        return protocol, (ports + rest if protocol in (6, 17, 132) else bytes((self.random.choice((0, 8)),)) + rest)

    def _other(self) -> tuple[bytes, bytes]:
        ethertype = self.random.choice((0x0806, 0x8035, 0x8847, 0x8864, 0x0026, 0x1234))
        size = self.random.randrange(1, 60)
        return ethertype.to_bytes(2, "big"), bytes(self.random.randrange(256) for _ in range(size))


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


def _oracle() -> ctypes.CDLL:
    for name in SONAMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise AssertionError("there is no libpcap")


def decision_of_libpcap(given: Filter, frame: bytes) -> bool:
    """Return whether libpcap's interpreter takes the frame."""
    if not given.instructions:
        return True
    block = (_Instruction * len(given.instructions))(*(_Instruction(*each) for each in given.instructions))
    function = _oracle().bpf_filter
    function.restype = ctypes.c_uint
    function.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint)
    return bool(function(block, frame, len(frame), len(frame)))


def load(given: Filter, hook: ebpf.Hook) -> int:
    """Load the translated filter as a program that returns 1 for a match and 0 otherwise; return its descriptor."""
    code = ebpf.translate(given, hook, ebpf.returning(1), ebpf.returning(0))
    if hook is ebpf.XDP:
        return ebpf.load(code, kernel.PROG_TYPE_XDP, "filter", _ATTACH_XDP, _XDP_FLAGS)
    return ebpf.load(code, kernel.PROG_TYPE_SCHED_CLS, "filter")


def filters_of(seed: int, count: int) -> Iterator[Filter]:
    """Yield random filters of the language, and as many programs that its compiler would not write."""
    made = Random(seed)
    for _ in range(count):
        yield made.filter()
        yield made.program()
