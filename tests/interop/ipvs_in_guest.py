"""Record what the kernel's IPVS says of a table with connections: the guest's half of tests/unit/ipvs.

`tests/oracle/vm --kernel 6.12 python -m tests.interop.ipvs_in_guest` prints JSON: the netlink messages, as hexadecimal
text, and the lines of /proc/net/ip_vs_conn. tests/golden/ipvs/tables.json has that of each kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys

from pylvs.ipvs import messages
from pylvs.ipvs.kernel import CONNECTIONS, KernelIpvs
from pylvs.netlink.codec import Netlink

IPVSADM = "/usr/sbin/ipvsadm"  # the original one
VIP4, VIP6, MARK = "10.9.1.1", "fd09::1", 7
TABLE = f"""\
-A -t {VIP4}:80 -s wrr
-a -t {VIP4}:80 -r 10.9.2.1:8080 -m -w 3 -x 100 -y 50
-a -t {VIP4}:80 -r 10.9.2.2:80 -g
-A -t {VIP4}:443 -s rr -p 600 -M 255.255.255.0
-a -t {VIP4}:443 -r 10.9.2.3:443 -i --tun-type gue --tun-port 6080 --tun-nocsum
-A -u {VIP4}:53 -s rr -o
-a -u {VIP4}:53 -r 10.9.2.1:53 -m
-A -u {VIP4}:5353 -s rr
-a -u {VIP4}:5353 -r 10.9.2.1:53 -m
-A -t [{VIP6}]:80 -s mh -b mh-fallback,mh-port -p 100 -M 64
-a -t [{VIP6}]:80 -r [fd09:2::1]:80 -g
-A -f {MARK} -s rr -p 300
-a -f {MARK} -r 10.9.2.1 -g -w 0
-a -f {MARK} -r 10.9.2.2 -g
"""


def run(text: str, given: str | None = None) -> None:
    subprocess.run(text.split(), check=True, input=given, text=True)


def connect(address: str, port: int, kind: int = socket.SOCK_STREAM, mark: int = 0) -> socket.socket:
    """Send the first packet of a connection."""
    end = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    end.setblocking(False)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    with contextlib.suppress(BlockingIOError):
        end.connect((address, port))
    if kind == socket.SOCK_DGRAM:
        end.send(b"?")
    return end


def main() -> None:
    run("modprobe ip_vs")
    run("ip link set lo up")
    run("ip link add servers type dummy")
    run("ip link set servers up")
    for address in "10.9.2.254/24", f"{VIP4}/32", "fd09:2::fe/64", f"{VIP6}/128":
        run(f"ip addr add {address} dev servers{' nodad' if ':' in address else ''}")
    for address in "10.9.2.1", "10.9.2.2", "10.9.2.3", "fd09:2::1":
        run(f"ip neigh add {address} lladdr 02:00:00:00:00:01 dev servers")
    run(f"{IPVSADM} -R", TABLE)
    run(f"{IPVSADM} --set 800 70 60")
    ends = [connect(VIP4, 80), connect(VIP4, 80), connect(VIP4, 443), connect(VIP6, 80)]
    ends += [connect(VIP4, 5353, socket.SOCK_DGRAM), connect(VIP4, 99, mark=MARK)]
    sent = list[str]()
    receive = Netlink._exchange

    def recorded(link: Netlink, kind: int, flags: int, body: bytes) -> object:
        for answer, answer_flags, content in receive(link, kind, flags, body):
            if content:
                sent.append(content.hex())
            yield answer, answer_flags, content

    Netlink._exchange = recorded  # type: ignore[assignment,method-assign]  # only here
    with KernelIpvs() as kernel:
        found: dict[str, object] = {"kernel": os.uname().release, "services": []}
        for name, ask in (
            ("timeouts", kernel.timeouts),
            ("services", lambda: kernel._dump("listing", messages.GET_SERVICE)),
        ):
            sent.clear()
            ask()
            found[name] = list(sent)
        found["destinations"] = {}
        for body in list(found["services"]):  # type: ignore[call-overload]  # a list
            service = messages.parse_service(bytes.fromhex(body)).service
            sent.clear()
            kernel._dump("listing", messages.GET_DEST, messages.service_named(service.key))
            found["destinations"][str(service.key)] = list(sent)  # type: ignore[index]  # a dictionary
    with open(CONNECTIONS) as file:
        found["connections"] = file.read().splitlines()
    json.dump(found, sys.stdout)
    for end in ends:
        end.close()


if __name__ == "__main__":
    main()
