"""The ways from client to server: each is set up in the director's namespace, gives its aims, and is taken down."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from ipaddress import ip_address
from pathlib import Path

from bench.beside.traffic import Aim
from bench.beside.wire import ANSWERS_BY_DIRECTOR, ANSWERS_DIRECTLY, FAR, VIP, Wire
from bench.processes import run
from bench.site import DEVICE
from pylvs.bpf import abi
from pylvs.bpf.libbpf import BpfObject
from pylvs.dataplane import load
from pylvs.dataplane.devices import attachments
from pylvs.dataplane.devices.modes import Mode
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import State
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Unsupported
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey, VirtualService
from pylvs.netlink import tc, xdp
from pylvs.netlink.codec import Netlink

DR, NAT = "DR", "NAT"  # answers past the director, and through it
PORT, NAT_PORT, SERVER_PORT = 5000, 5001, 8080
_VIRTUAL = {
    DR: Aim(VIP, PORT, VIP, PORT),
    NAT: Aim(VIP, NAT_PORT, ANSWERS_BY_DIRECTOR, SERVER_PORT),
}
_REAL = {  # the server's own addresses; the answers of one take the director's way, of the other not
    DR: Aim(ANSWERS_DIRECTLY, PORT, ANSWERS_DIRECTLY, PORT),
    NAT: Aim(ANSWERS_BY_DIRECTOR, SERVER_PORT, ANSWERS_BY_DIRECTOR, SERVER_PORT),
}
_SCHEDULER = "rr"
_IPVSADM_PATH = "/usr/sbin:/sbin"
_PROTOCOLS = {Protocol.TCP: "-t", Protocol.UDP: "-u"}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to forward: `ready` sets it up and takes it down; `native` ones cross veths at XDP."""

    name: str
    label: str
    aims: dict[str, Aim]
    ready: Callable[[Wire], AbstractContextManager[None]]
    native: bool = False


# --- the far end, and the least that forwards ---


@contextmanager
def loaded() -> Iterator[BpfObject]:
    """The programs of `bpf/wire.bpf.c`."""
    with BpfObject(abi.shipped().path("wire")) as opened:
        opened.load()
        yield opened


@contextmanager
def _at_xdp(program: int, device: str) -> Iterator[None]:
    index = socket.if_nametoindex(device)
    with Netlink() as link:
        xdp.set_program(link, index, "native", program)
    try:
        yield
    finally:
        run("ip", "link", "set", "dev", device, "xdp", "off")


@contextmanager
def _at_tc(program: int, device: str) -> Iterator[None]:
    index = socket.if_nametoindex(device)
    with Netlink() as link:
        made = tc.add_clsact(link, index)
        try:
            tc.set_filter(link, index, tc.INGRESS, "director", program)
            yield
        finally:
            tc.remove_filter(link, index, tc.INGRESS, "director")
            if made:
                tc.remove_clsact(link, index)


@contextmanager
def far_end(wire: Wire, opened: BpfObject, native: bool, ending: bool) -> Iterator[None]:
    """Let the wire's far end take what a way sends, natively or as socket buffers; `ending`: count it, and no more."""
    with contextlib.ExitStack() as kept:
        if native or ending:
            name = "wire_pass" if not ending else "wire_end_xdp" if native else "wire_end_tc"
            kept.enter_context(wire.inside("wire"))
            kept.enter_context((_at_xdp if native else _at_tc)(opened.program_fd(name), FAR))
        if ending:  # a veth takes frames like a card's driver while it may merge what it receives
            kept.enter_context(wire.inside("director"))
            run("ethtool", "-K", DEVICE, "gro", "on")
            kept.callback(run, "ethtool", "-K", DEVICE, "gro", "off")
        yield


def _turned(name: str) -> Callable[[Wire], AbstractContextManager[None]]:
    @contextmanager
    def ready(wire: Wire) -> Iterator[None]:
        at = _at_xdp if name.endswith("xdp") else _at_tc
        with loaded() as opened, wire.inside("director"), at(opened.program_fd(name), DEVICE):
            yield

    return ready


# --- the kernel's ---


@contextmanager
def _routed(wire: Wire) -> Iterator[None]:
    yield


@contextmanager
def _ipvs(wire: Wire) -> Iterator[None]:
    command = shutil.which("ipvsadm", path=_IPVSADM_PATH)
    if command is None:
        raise Unsupported("the real ipvsadm is not installed")
    if not os.path.exists("/proc/net/ip_vs"):
        run("modprobe", "ip_vs")
    with wire.inside("director"):
        lines = []
        for protocol in _PROTOCOLS.values():
            for aim, method in (_VIRTUAL[DR], "-g"), (_VIRTUAL[NAT], "-m"):
                lines.append(f"-A {protocol} {aim.target}:{aim.port} -s {_SCHEDULER}")
                server = ANSWERS_BY_DIRECTOR
                lines.append(f"-a {protocol} {aim.target}:{aim.port} -r {server}:{aim.server_port} {method}")
        run(command, "-R", text="".join(f"{line}\n" for line in lines))
        try:
            if f"{_hex(VIP)}:{PORT:04X}" not in Path("/proc/net/ip_vs").read_text():
                raise Unsupported(f"{command} is not that of IPVS")
            yield
        finally:
            run(command, "-C")


def _hex(address: str) -> str:
    return ip_address(address).packed.hex().upper()


@contextmanager
def _nftables(wire: Wire) -> Iterator[None]:
    aim = _VIRTUAL[NAT]
    rules = [
        f"ip daddr {aim.target} {protocol} dport {aim.port} dnat to {aim.server}:{aim.server_port}"
        for protocol in ("udp", "tcp")
    ]
    lines = ["add table ip beside", "add chain ip beside forth { type nat hook prerouting priority dstnat; }"]
    lines += [f"add rule ip beside forth {rule}" for rule in rules]
    with wire.inside("director"):
        run("nft", "-f", "-", text="".join(f"{line}\n" for line in lines))
        try:
            yield
        finally:
            run("nft", "delete", "table", "ip", "beside")


# --- pylvs ---


def _serve(director: BpfDirector) -> None:
    for protocol in _PROTOCOLS:
        for aim, method in (_VIRTUAL[DR], Method.ROUTE), (_VIRTUAL[NAT], Method.MASQ):
            key = ServiceKey(protocol, ip_address(aim.target), aim.port)
            at = DestinationKey(ip_address(ANSWERS_BY_DIRECTOR), aim.server_port)
            director.add_service(VirtualService(key, _SCHEDULER))
            director.add_destination(key, Destination(at, method))


def _pylvs(mode: Mode) -> Callable[[Wire], AbstractContextManager[None]]:
    @contextmanager
    def ready(wire: Wire) -> Iterator[None]:
        with wire.inside("director"):
            director = BpfDirector(State.open())
            director.make()
            try:
                with director.batch():
                    attachments.request(director.tables, DEVICE, mode)
                    _serve(director)
                yield
            finally:
                load.take_down(State.open())

    return ready


FLOOR_TC = Way("floor_tc", "floor at TC", _REAL, _turned("wire_turn_tc"))
FLOOR_XDP = Way("floor_xdp", "floor at XDP", _REAL, _turned("wire_turn_xdp"), native=True)
ROUTED = Way("routed", "plain routing", _REAL, _routed)
IPVS = Way("ipvs", "IPVS", _VIRTUAL, _ipvs)
NFTABLES = Way("nftables", "nftables DNAT", {NAT: _VIRTUAL[NAT]}, _nftables)
PYLVS_TC = Way("pylvs_tc", "pylvs at TC", _VIRTUAL, _pylvs("tc"))
PYLVS_GENERIC = Way("pylvs_generic", "pylvs at generic XDP", _VIRTUAL, _pylvs("generic"))
PYLVS_XDP = Way("pylvs_xdp", "pylvs at native XDP", _VIRTUAL, _pylvs("native"), native=True)
WAYS = (FLOOR_TC, FLOOR_XDP, ROUTED, IPVS, NFTABLES, PYLVS_TC, PYLVS_GENERIC, PYLVS_XDP)
