"""Forward unfinished checksums by devices that this machine's kernel may lack: a part of `kernel_in_guest`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

from pylvs.system.namespaces import inside_network
from tests.interop import wireguard
from tests.iproute import ip_batch
from tests.packet.host import VIP4, VIP6, Host
from tests.packet.unfinished import VIPS, forward, into_far_end, new_site, until_veth_up, veth
from tests.waiting import until_up

SHAPES = ("finished", "unfinished", "merged, longer than the MTU")
FAR = "pylvs-wireguard"  # the network namespace of the other WireGuard device: it must not forward what it gets
LINKS = ("p", "q", "r")  # a VLAN, a bond and an ipvlan are on one end of each


def play(host: Host) -> Iterator[str]:
    """Return a line for each kind of device. Raises AssertionError."""
    host.director.flush()
    for module in "tun", "wireguard":
        subprocess.run(["modprobe", module], check=True)
    with ExitStack() as closing:
        lines = [line for name in LINKS for line in veth(name)]
        lines += [f"link add link p{end} name vlan{end} type vlan id 7" for end in "01"]
        lines += [
            "link add bond1 type bond mode active-backup miimon 100",
            "link set q0 down",
            "link set q0 master bond1",
        ]
        lines += ["link add i0 link r0 type ipvlan mode l2"]
        # An ipvlan receives what is addressed to it.
        lines += [f"addr add {VIP4}/32 dev i0", f"addr add {VIP6}/128 dev i0 nodad preferred_lft 0"]
        lines += [f"link set {each} up" for each in ("q0", "vlan0", "vlan1", "bond1", "i0")]
        ip_batch(lines)
        closing.callback(ip_batch, [f"link del {each}" for each in ("i0", "bond1", *(f"{name}0" for name in LINKS))])
        until_veth_up("p", "r")
        ip_batch(["link set lo up", *(f"link add wg{end} mtu 1500 type wireguard" for end in "01")])
        closing.callback(ip_batch, ["link del wg0", f"netns del {FAR}"])
        wireguard.connect("wg0", "wg1")
        ip_batch([f"netns add {FAR}"])
        ip_batch([f"link set wg1 netns {FAR}", "link set wg0 up"])
        ip_batch(["link set wg1 up"], FAR)
        until_up("bond1", "vlan0")
        devices = {
            "VLAN": ("vlan0", into_far_end(closing, "vlan1")),
            "bond": ("bond1", into_far_end(closing, "q1")),
            "ipvlan": ("i0", into_far_end(closing, "r1")),
        }
        with inside_network(f"/run/netns/{FAR}"):
            devices["WireGuard"] = ("wg0", into_far_end(closing, "wg1"))
        site = closing.enter_context(new_site(host, [], devices))
        for kind in devices:
            site.attach(site.inputs[kind].device, "auto")
            left = sum(forward(site, kind, shape, version) for shape in SHAPES for version in VIPS)
            assert not left, f"{kind}: XDP received {left} packets"
            yield f"unfinished checksums by {kind}: right"
        host.director.flush()
