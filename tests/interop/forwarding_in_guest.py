"""Forward real frames on this kernel, and compare every byte: a part of `kernel_in_guest`.

The caller is on the director's host. The far ends of the wires are in another network namespace, where this module
acts as clients and real servers. One wire is a veth (TC, generic XDP). Two are virtio-net cards joined by a cable
(native XDP on one card, from card to card, below VLANs, and below a bond). Commands of pylvs run in this process,
because a start of the interpreter takes long on an emulated processor.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))

import frames

from pylvs.bpf import abi
from pylvs.bpf.libbpf import BpfObject
from pylvs.cli.main import run as pylvs
from pylvs.ipvsadm.commands import Session
from pylvs.model.director import Director
from pylvs.model.errors import PylvsError

FAR = "pylvs-far"
CLONE_NEWNET, ETH_P_ALL, SOL_PACKET, PACKET_IGNORE_OUTGOING, SO_RCVBUFFORCE = 0x40000000, 3, 263, 23, 33
ANSWER_S = 60.0  # the longest delay of a frame: the processors are emulated, and the machine may be busy
HERE, CLIENT, SERVER = "02:00:00:00:00:aa", "02:00:00:00:00:c1", "02:00:00:00:00:51"
METHODS = {0: ("dr", "-g"), 1: ("nat", "-m"), 2: ("tun", "-i")}  # by the last digit of a virtual service's port
DIRECT, NAT, TUNNEL = METHODS
SAME, OTHER = 80, 90  # first port of services whose real server is on the client's own wire, or on another
MAPPED = 8080  # the real server's port, of NAT
ROUNDS = 8  # frames of an established connection
MTU, SHORTEST = 1500, 60  # of a frame that a card sends, without its checksum
# The release whose driver has native XDP, of each model of qemu's.
NATIVE_SINCE = {"virtio-net-pci": (4, 10), "vmxnet3": (6, 6), "e1000e": (1000,)}


class Wrong(Exception):
    """A result differs; the text is one line."""


@dataclass(frozen=True)
class Wire:
    """A wire between the director's device and the far end, with its own addresses."""

    device: str
    far: str
    number: int

    def address(self, six: bool, host: int) -> str:
        """Return an address by number.

        1: the director; 2: the client; 3: the real server; 100: the virtual address, on no device's network.
        """
        if six:
            return f"fd0{self.number}::{host}" if host < 100 else f"fd0{self.number}:1::{host}"
        return f"10.{self.number}.0.{host}" if host < 100 else f"10.{self.number}.1.{host}"


VETH, CABLE, SECOND = Wire("v0", "w0", 9), Wire("nic0a", "nic0b", 8), Wire("nic1a", "nic1b", 7)
VLAN, OTHER_VLAN = Wire("nic0a.5", "nic0b.5", 6), Wire("nic0a.6", "nic0b.6", 4)  # in CABLE
BOND = Wire("bond0", "nic0b", 5)  # over CABLE and SECOND, in their place
SPARE = Wire("bond0", "nic1b", 5)  # the other port's cable
BOND_VLAN = Wire("bond0.5", "nic0b.5", 6)
VLANS = {VLAN: 5, OTHER_VLAN: 6}
WIRES = (VETH, CABLE, SECOND, *VLANS)
WAYS = {  # in by, out by, first port
    "veth": (VETH, VETH, SAME),
    "card": (CABLE, CABLE, SAME),
    "card to card": (CABLE, SECOND, OTHER),
    "vlan": (VLAN, VLAN, SAME),
    "vlan to vlan": (VLAN, OTHER_VLAN, OTHER),
}
BONDED = (BOND, BOND, SAME)
BONDED_VLAN = (BOND_VLAN, BOND_VLAN, SAME)


def run(*command: str, stdin: str = "") -> str:
    """Return a command's output. Raises Wrong with its errors."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(f"{' '.join(command)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def command(*words: str) -> str:
    """Return the output of a command of `pylvs`. Raises Wrong with its errors."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = pylvs(words)
    if status:
        raise Wrong(f"pylvs {' '.join(words)}: exit {status}: {out.getvalue().strip()}")
    return out.getvalue()


def write(path: str, value: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


def packets_of(device: str, namespace: str = "") -> socket.socket:
    """Return a packet socket on a device, in this or another namespace."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if namespace:
        there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        libc.setns(there, CLONE_NEWNET)
        os.close(there)
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)  # a frame may count as a whole page or more
        opened.bind((device, 0))
    finally:
        libc.setns(home, CLONE_NEWNET)
        os.close(home)
    return opened


def make_wires(director: Director) -> None:
    """Make the wires with their addresses, and the director's tables."""
    write("/proc/sys/net/ipv4/ip_forward", "1")  # answers of NAT are routed
    write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
    commands = [f"netns add {FAR}", f"link add {VETH.device} type veth peer name w0 netns {FAR}"]
    commands += [f"link set {wire.far} netns {FAR}" for wire in (CABLE, SECOND)]
    commands += [f"link add link {CABLE.device} name {each.device} type vlan id {vid}" for each, vid in VLANS.items()]
    for wire in WIRES:
        commands += own_end(wire)
    run("ip", "-batch", "-", stdin="".join(f"{line}\n" for line in commands))
    for wire in CABLE, SECOND:  # a card that takes tags off hides them from XDP; some cannot do without
        subprocess.run(["ethtool", "-K", wire.device, "rxvlan", "off"], capture_output=True, check=False)
    far = "".join(f"link add link {CABLE.far} name {each.far} type vlan id {vid}\n" for each, vid in VLANS.items())
    far += "".join(f"link set {wire.far} promisc on up\n" for wire in WIRES)
    run("ip", "netns", "exec", FAR, "ip", "-batch", "-", stdin=far)
    restore(director, WAYS.values())


def own_end(wire: Wire) -> Iterator[str]:
    """Return the commands that give the director's device of a wire its addresses and neighbours."""
    yield from (f"link set {wire.device} address {HERE}", f"link set {wire.device} up")
    for six, own, all_bits, at_once in (False, 24, 32, ""), (True, 64, 128, " nodad"):
        yield f"addr add {wire.address(six, 1)}/{own} dev {wire.device}{at_once}"
        yield f"addr add {wire.address(six, 100)}/{all_bits} dev {wire.device}{at_once}"
    for host, mac in (2, CLIENT), (3, SERVER):  # those of IPv4 are found by ARP
        yield f"neigh add {wire.address(True, host)} lladdr {mac} dev {wire.device} nud permanent"


def make_bond(director: Director) -> None:
    """Replace the two cards by a bond of both, whose active port is the first one."""
    ports = (CABLE.device, SECOND.device)
    commands = [
        *(f"link del {each.device}" for each in VLANS),
        f"link add {BOND.device} type bond mode active-backup miimon 100",
    ]
    for port in ports:
        commands += [f"link set {port} down", f"addr flush dev {port}", f"link set {port} master {BOND.device}"]
    commands += [*own_end(BOND), *(f"link set {port} up" for port in ports)]
    commands += [f"link add link {BOND.device} name {BOND_VLAN.device} type vlan id 5", *own_end(BOND_VLAN)]
    activate(CABLE, commands)
    restore(director, [BONDED, BONDED_VLAN])


def activate(wire: Wire, before: Sequence[str] = ()) -> None:
    """Let the bond send by the card of a wire."""
    commands = [*before, f"link set {BOND.device} type bond active_slave {wire.device}"]
    run("ip", "-batch", "-", stdin="".join(f"{line}\n" for line in commands))


def restore(director: Director, ways: Iterable[tuple[Wire, Wire, int]]) -> None:
    out = io.StringIO()
    lines = "".join(f"{line}\n" for line in table(ways))
    if Session(director, io.StringIO(lines), out, out).run(["-R"]).status:
        raise Wrong(f"ipvsadm -R: {out.getvalue().strip()}")


def table(ways: Iterable[tuple[Wire, Wire, int]]) -> Iterator[str]:
    """Return every service as lines for ipvsadm."""
    for wire, out, first in ways:
        for six in False, True:
            vip, server = wire.address(six, 100), out.address(six, 3)
            vip, server = (f"[{vip}]", f"[{server}]") if six else (vip, server)
            for digit, (_, option) in METHODS.items():
                port = first + digit
                yield f"-A -t {vip}:{port} -s wrr"
                yield f"-a -t {vip}:{port} -r {server}:{MAPPED if digit == NAT else port} {option}"


class End(Protocol):
    """The far end of a wire: a packet socket, or what acts like one."""

    def fileno(self) -> int: ...
    def send(self, frame: bytes, /) -> int: ...
    def recv(self, most: int, /) -> bytes: ...
    def close(self) -> None: ...


class Exchange:
    """The frames that the far end sends into a wire, and receives from the same or another one."""

    def __init__(self, wire: Wire, out: Wire, end: End | None = None, mtu: int = MTU) -> None:
        """`end` is the far end of both, if that is no device. The block closes it."""
        self.wire, self.out, self.mtu = wire, out, mtu
        self.ends: dict[Wire, End] = {each: end or packets_of(each.far, FAR) for each in (wire, out)}
        self.stack = [packets_of(each.device) for each in self.ends]
        self.macs = {
            frames.packed(each.address(False, host)): mac
            for each in self.ends
            for host, mac in ((2, CLIENT), (3, SERVER))
        }

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self.ends.values(), *self.stack):
            each.close()

    def send(self, packet: bytes, by_server: bool = False) -> None:
        """Send an IP packet to the director, as the client or as the real server."""
        end = self.ends[self.out if by_server else self.wire]
        end.send(frames.ethernet(HERE, SERVER if by_server else CLIENT, packet))

    def receive(self, what: str, to_client: bool) -> bytes:
        """Return the next IP frame to the client or the real server; answer ARP and neighbour solicitations."""
        end = self.ends[self.wire if to_client else self.out]
        until = time.monotonic() + ANSWER_S
        while (left := until - time.monotonic()) > 0 and select.select([end], [], [], left)[0]:
            frame = end.recv(65535)
            kind = frame[12:14]
            if kind == b"\x08\x06":
                self._answer(end, frame)
            elif not frame[0] & 1 and not (kind == b"\x86\xdd" and frame[20] == frames.ICMP6 and frame[54] >= 133):
                return frame
        raise Wrong(f"{what}: nothing came within {ANSWER_S:.0f} s")

    def _answer(self, end: End, question: bytes) -> None:
        mac = self.macs.get(question[38:42])
        if question[20:22] == b"\0\1" and mac:
            own = frames.mac_bytes(mac)
            reply = question[14:20] + b"\0\2" + own + question[38:42] + question[22:32]
            end.send(question[6:12] + own + b"\x08\x06" + reply)

    def expect(self, what: str, packet: bytes, to_client: bool = False) -> None:
        """Assert that the next frame is this packet with the right link addresses."""
        wanted = frames.ethernet(CLIENT if to_client else SERVER, HERE, packet)
        got = self.receive(what, to_client)
        if len(got) <= SHORTEST and not any(got[len(wanted) :]):  # cards pad what they send
            got = got[: len(wanted)]
        if got != wanted:
            facts, other = frames.describe(wanted[14:]), frames.describe(got[14:])
            raise Wrong(f"{what}: expected {wanted[:12].hex()} {facts}, got {got[:12].hex()} {other}")

    def past_xdp(self) -> int:
        """Return how many IP frames to the director XDP passed since the last call."""
        seen = 0
        for tap in self.stack:
            while select.select([tap], [], [], 0)[0]:
                frame = tap.recv(65535)
                seen += frame[:6] == frames.mac_bytes(HERE) and frame[12:14] != b"\x08\x06"
        return seen


def requests(line: Exchange, port: int, six: bool, client_port: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Return the packets of a connection: (name, what the client sends, what the real server must receive)."""
    client, vip, server = line.wire.address(six, 2), line.wire.address(six, 100), line.out.address(six, 3)
    own = line.out.address(six, 1)
    fields = {} if six else {"df": True}
    steps = [("SYN", "S", b""), ("ACK", "A", b"")]
    steps += [(f"data {n}", "PA", bytes(range(n, n + 50))) for n in range(ROUNDS)]
    if line.mtu > MTU:
        steps += [("a long packet", "PA", bytes(line.mtu - 100))]
    for name, flags, data in steps:

        def packet(target: str, at: int, ttl: int, flags: str = flags, data: bytes = data) -> bytes:
            ack = 0 if flags == "S" else 5001
            segment = frames.tcp(client, target, client_port, at, flags, seq=1000 + len(data), ack=ack, data=data)
            return bytes(frames.ip(client, target, frames.TCP, segment, ttl=ttl, **fields))

        after = packet(server, MAPPED, 63) if port % 10 == NAT else packet(vip, port, 63)
        if port % 10 == TUNNEL:
            after = frames.ip(own, server, frames.IPV6 if six else frames.IPIP, after, ttl=63, **fields)
        yield name, packet(vip, port, 64), after


def converse(line: Exchange, port: int, six: bool, client_port: int, title: str) -> int:
    """Run a connection to a service, and compare each packet, with NAT also the replies; return their number."""
    count = 0
    client, vip, server = line.wire.address(six, 2), line.wire.address(six, 100), line.out.address(six, 3)
    for name, sent, wanted in requests(line, port, six, client_port):
        line.send(sent)
        line.expect(f"{title} {name}", wanted)
        count += 1
        if port % 10 == NAT and name != "ACK":
            flags = "SA" if name == "SYN" else "PA"
            segment = frames.tcp(server, client, MAPPED, client_port, flags, data=b"answer")
            line.send(frames.ip(server, client, frames.TCP, segment, ttl=60), by_server=True)
            segment = frames.tcp(vip, client, port, client_port, flags, data=b"answer")
            line.expect(
                f"{title} answer to {name}", frames.ip(vip, client, frames.TCP, segment, ttl=59), to_client=True
            )
            count += 1
    return count


def too_long(line: Exchange, port: int, client_port: int, title: str) -> None:
    """Send a packet that does not fit into the tunnel: at both hooks the client must get an error."""
    client, vip = line.wire.address(False, 2), line.wire.address(False, 100)
    segment = frames.tcp(client, vip, client_port, port, "PA", seq=1, ack=1, data=bytes(line.mtu - 40))
    line.send(frames.ip(client, vip, frames.TCP, segment, df=True))
    what = f"{title} a packet too long for the tunnel"
    error = frames.describe(line.receive(what, to_client=True)[14:])
    wanted = {"src": vip, "dst": client, "proto": "icmp", "type": 3, "code": 4, "rest": line.mtu - 20}
    if any(error.get(key) != value for key, value in wanted.items()):
        raise Wrong(f"{what}: expected {wanted}, got {error}")


def shown(device: str) -> dict[str, str]:
    """Return what `pylvs show` prints for a device."""
    for row in json.loads(command("show", "--json"))["devices"]:
        if row["device"] == device:
            return dict(row)
    raise Wrong(f"pylvs show does not know {device}")


def forward(
    way: tuple[Wire, Wire, int],
    mode: str,
    client_port: int,
    title: str,
    xdp_sends: bool,
    end: End | None = None,
    mtu: int = MTU,
) -> str:
    """Send all traffic in by one device and out by one, in their modes; return a line about it.

    `end` is the far end, if that is no device.
    """
    wire, out, first = way
    found = shown(wire.device)
    if found["mode"] != mode:
        raise Wrong(f"{wire.device}: expected {mode}, pylvs show says {found['mode']} ({found['reason']})")
    count = 0
    with Exchange(wire, out, end, mtu) as line:
        for six in False, True:
            for digit, (name, _) in METHODS.items():
                what = f"{title}: {'IPv6' if six else 'IPv4'} {name}:"
                count += converse(line, first + digit, six, client_port, what)
        past = line.past_xdp()
        too_long(line, first + TUNNEL, client_port, title)
    if xdp_sends and past > count // 2:
        raise Wrong(f"{title}: XDP left {past} of {count} frames to TC")
    if not xdp_sends and past != count:
        raise Wrong(f"{title}: {past} of {count} frames came to TC; what forwarded the others?")
    return f"{title}: {count} frames forwarded, {past} of them at TC ({found['reason']})"


def load_decapsulation() -> str:
    """Load the real server's program, even if the kernel has tunnel devices."""
    try:
        with BpfObject(abi.shipped().path("realserver")) as opened:
            opened.load()
            return f"realserver: {', '.join(opened.programs())} loaded"
    except PylvsError as error:
        raise Wrong(f"realserver: {error}") from None


def release() -> tuple[int, ...]:
    """Return the kernel's release as two numbers."""
    return tuple(int(part) for part in os.uname().release.split(".")[:2])


def play(director: Director, card: str) -> Iterator[str]:
    """Return a line for each mode that works, with cards of this model. Raises Wrong."""
    native = release() >= NATIVE_SINCE[card]
    mode = "native" if native else "tc"  # the choice of auto
    make_wires(director)
    yield forward(WAYS["veth"], "tc", 20000, "tc", xdp_sends=False)
    command("attach", VETH.device, "--mode", "generic")
    yield forward(WAYS["veth"], "generic", 21000, "generic", xdp_sends=True)
    yield forward(WAYS["card"], mode, 22000, "native", xdp_sends=native)
    # Before 6.3 the kernel does not report which device can transmit for XDP, so TC sends from card to card.
    yield forward(WAYS["card to card"], mode, 23000, "card to card", xdp_sends=native and release() >= (6, 3))
    for name in "vlan", "vlan to vlan":  # XDP of the card below sends what TC of the VLAN device has let through
        yield forward(WAYS[name], "tc", 24000, name, xdp_sends=native)
    command("down")
    make_bond(director)
    yield forward(BONDED, mode, 25000, "bond", xdp_sends=native)
    yield forward(BONDED_VLAN, "tc", 25000, "vlan on a bond", xdp_sends=native)
    activate(SECOND)
    yield forward((SPARE, SPARE, SAME), mode, 26000, "bond after failover", xdp_sends=native)
    command("down")
    yield load_decapsulation()
