"""A network namespace with a pair of veths whose handshakes are observed: the other half of `test_handshakes.py`.

It prints as JSON what the filter takes, the SYNs without a reply, and whether a small buffer loses packets.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
from collections.abc import Callable
from functools import cache

from pylvs.doctor.kernel import handshakes
from pylvs.doctor.kernel.handshakes import Handshakes
from pylvs.doctor.kernel.sniffer import OCTETS
from pylvs.doctor.wire import packets
from pylvs.doctor.wire.packets import encapsulated
from pylvs.model.service import Tunnel, TunnelKind
from pylvs.netlink import links
from pylvs.reference.packet import UDP
from tests.unit.doctor.segments import ACK, CLIENT, CLIENT_6, RST, SYN, SYN_ACK, VIP, VIP_6, tcp
from tests.waiting import until, until_up

MANY = 500
BUFFER = handshakes._BUFFER
LINKS = "ip link add in0 type veth peer name out0; ip link set in0 up; ip link set out0 up"
LAST = 50000  # the port of the packet that ends the look


def in_by(data: bytes) -> None:
    """Send a packet in by the device in0."""
    _send("out0", "in0", data)


def out_by(data: bytes) -> None:
    """Send a packet out by the device in0."""
    _send("in0", "out0", data)


def _send(device: str, receiver: str, data: bytes) -> None:
    ethertype = b"\x08\x00" if data[0] >> 4 == 4 else b"\x86\xdd"
    _sender(device).send(_mac(receiver) + bytes(6) + ethertype + data)


@cache
def _sender(device: str) -> socket.socket:
    """Return a socket that sends frames by a device, and receives none; it stays open."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.bind((device, 0))
    return end


@cache
def _mac(name: str) -> bytes:
    return next(device.mac for device in links.devices() if device.name == name)


def taken() -> list[str]:
    """Return which packets the filter takes."""
    found = list[str]()
    for client, vip in (CLIENT, VIP), (CLIENT_6, VIP_6):
        tunnels = {kind.name.lower(): Tunnel(kind, 6080 if kind is TunnelKind.GUE else 0) for kind in TunnelKind}
        inner = tcp(client, 40000, vip, 80, ACK)
        datagram = (53).to_bytes(2, "big") * 2 + bytes(4) + bytes([0x12] * 40)
        incoming = {"SYN": tcp(client, 40000, vip, 80, SYN), "RST": tcp(client, 40000, vip, 80, RST), "ACK": inner}
        incoming |= {f"tunnel {name}": encapsulated(1, client, vip, each, inner) for name, each in tunnels.items()}
        incoming |= {"UDP": packets.packet(1, client, vip, (UDP, datagram))}
        outgoing = {"reply": tcp(vip, 80, client, 40000, SYN_ACK), "ACK of a reply": tcp(vip, 80, client, 40000, ACK)}
        outgoing |= {"data": tcp(vip, 80, client, 40000, ACK) + bytes(500)}
        for send, chosen in (in_by, incoming), (out_by, outgoing):
            for name, data in chosen.items():
                if passes(send, data):
                    found.append(f"{name} of IPv{vip.version}")
    return found


def passes(send: Callable[[bytes], None], data: bytes) -> bool:
    """Return whether the filter takes a packet of in0; the kernel queues packets in their order."""
    with Handshakes([]) as opened:
        send(data)
        in_by(tcp(CLIENT, LAST, VIP, 80, SYN))
        seen = list[bytes]()
        while not seen or LAST.to_bytes(2, "big") not in seen[-1]:
            select.select([opened._socket], [], [])
            found, (device, *_) = opened._socket.recvfrom(OCTETS)
            seen += [found] if device == "in0" else []
    return data[:OCTETS] in seen


def unanswered(buffer: int) -> int:
    """Return how many of many SYNs get no reply; each second one gets it."""
    handshakes._BUFFER = buffer
    with Handshakes([each for each in links.devices() if each.name == "in0"]) as opened:
        for port in range(MANY):
            in_by(tcp(CLIENT, port, VIP, 80, SYN))
            if port % 2:
                out_by(tcp(VIP, 80, CLIENT, port, SYN_ACK))
        return len(opened.unanswered([VIP], 1))


def main() -> None:
    subprocess.run(["sh", "-ec", LINKS], check=True)
    until_up("in0", "out0")
    result = {"taken": taken(), "lossy": unanswered(0)}
    result["unanswered"] = until(lambda: (found := unanswered(BUFFER)) >= MANY // 2 and found)  # fewer after a pause
    print(json.dumps(result))


if __name__ == "__main__":
    main()
