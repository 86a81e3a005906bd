"""Virtual routers on an ipvlan, and in a VRF: the guest's half of `test_vmac_kinds`, for kernels that have both.

It prints a line for each thing that works, and stops with an AssertionError at the first that does not.
"""

from __future__ import annotations

import os
import socket
import subprocess
from ipaddress import ip_address, ip_interface
from pathlib import Path
from tempfile import TemporaryDirectory

from pylvs.model.routing import HeldAddress
from pylvs.model.vrrp import Ipvlan, IpvlanMode, Peer, Vmac, VrrpConfiguration, VrrpInstance, VrrpSettings
from pylvs.vrrp.loop import Loop
from pylvs.vrrp.protocol.adverts import AdvertEncoder
from pylvs.vrrp.vip_manager import VipManager
from tests.interop.namespaces import inside, ip

PATIENCE_S = 120.0
VIP, OTHER_VIP = ip_interface("192.0.2.100/24"), ip_interface("198.51.100.100/24")
ADDRESS, SOURCE, PEER = ip_interface("192.0.2.9/24"), ip_address("198.51.100.1"), ip_address("198.51.100.2")
IPVLAN = VrrpInstance(
    name="A",
    interface="eth0",
    vrid=51,
    source=ADDRESS.ip,
    addresses=(HeldAddress(interface=VIP),),
    vmac=Vmac("iv0", ipvlan=Ipvlan(IpvlanMode.PRIVATE, ADDRESS)),
)
UNICAST = VrrpInstance(
    name="B",
    vrf="red",
    vrid=52,
    source=SOURCE,
    peers=(Peer(PEER),),
    addresses=(HeldAddress(interface=OTHER_VIP, device="eth1"),),
)
MACVLAN = VrrpInstance(
    name="C",
    interface="eth1",
    vrid=53,
    addresses=(HeldAddress(interface=ip_interface("198.51.100.101/24")),),
    vmac=Vmac("mv0"),
)


def advertised(manager: VipManager, instance: VrrpInstance, device: str) -> tuple[str, str]:
    """Send an advertisement; return its addresses as the other end of the link receives it."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as far_end:
        far_end.bind((device, 0x0800))
        far_end.settimeout(PATIENCE_S)
        source = manager.source_of(instance)
        assert source is not None
        manager.send_adverts(instance, AdvertEncoder(instance, source).packets(100))
        while True:
            frame = far_end.recv(2000)
            if frame[23] == 112:
                return socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])


def ignore(*_: object) -> None:
    """Take a report of changes, losses or conflicts, of which there are none."""


def main() -> None:
    """Make two links and a VRF, run the host side of three virtual routers, and look at the devices."""
    for number in (0, 1):
        ip(f"link add eth{number} type veth peer name peer{number}")
        ip(f"link set peer{number} up")
        ip(f"link set eth{number} up")
    ip("link add red type vrf table 10")
    ip("link set red up")
    ip("link set eth1 master red")
    ip("addr add 192.0.2.1/24 dev eth0")
    ip(f"addr add {SOURCE}/24 dev eth1")
    mac = ip("-br link show peer1").split()[2]
    ip(f"neigh add {PEER} lladdr {mac} dev eth1")
    failures: list[Exception] = []
    warnings: list[str] = []
    loop = Loop(failures.append)
    manager = VipManager(loop, lambda level, text: warnings.append(text), ignore, ignore, ignore)
    settings = VrrpSettings(disable_local_igmp=True)
    instances = (IPVLAN, UNICAST, MACVLAN)
    assert manager.configure(VrrpConfiguration(instances=instances, settings=settings)) == []
    shown = ip("-d link show iv0")
    assert "ipvlan" in shown, shown
    assert "mode l2 private" in shown, shown
    assert str(ADDRESS) in ip("addr show dev iv0")
    assert manager.device_of(IPVLAN) == "iv0"
    manager.add_resources(IPVLAN)
    assert str(VIP) in ip("addr show dev iv0")
    assert advertised(manager, IPVLAN, "peer0") == (str(ADDRESS.ip), "224.0.0.18")
    print("ipvlan", flush=True)
    assert manager.receive_device_of(UNICAST) == "red"
    assert manager.link_fault(UNICAST) == ""
    assert advertised(manager, UNICAST, "peer1") == (str(SOURCE), str(PEER))
    print("vrf", flush=True)
    assert "master red" in ip("link show mv0")
    print("macvlan in a vrf", flush=True)
    igmp = Path("/proc/sys/net/ipv4/igmp_link_local_mcast_reports")
    assert igmp.read_text() == "0\n"
    manager.remove_resources(IPVLAN)
    manager.reset()
    assert igmp.read_text() == "1\n"
    assert subprocess.run(["ip", "link", "show", "iv0"], capture_output=True).returncode != 0
    print("removed", flush=True)
    assert (failures, warnings) == ([], [])
    manager.close()


if __name__ == "__main__":
    with TemporaryDirectory() as folder, inside("vmac"):
        os.chdir(folder)
        main()
