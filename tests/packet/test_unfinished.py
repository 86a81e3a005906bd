"""Packets with unfinished checksums leave with right ones, from every kind of device that this kernel has.

`tests/interop/forwarding_in_guest.py` has those of other kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pylvs.dataplane.devices.modes import Mode
from tests.iproute import ip_batch
from tests.packet.host import Host
from tests.packet.unfinished import (
    IFF_TAP,
    IFF_TUN,
    SHAPES,
    VIPS,
    Site,
    forward,
    into_far_end,
    into_tun,
    new_site,
    until_veth_up,
    veth,
)

KINDS = ("tap", "veth", "macvlan", "bridge", "tun")
RUNS: list[tuple[str, Mode]] = [
    *((kind, "auto") for kind in KINDS),
    *((kind, mode) for kind in ("tap", "veth") for mode in ("native", "generic")),
]


@pytest.fixture(scope="module")
def site(shared: Host) -> Iterator[Site]:
    with ExitStack() as closing:
        ip_batch([line for name in ("v", "w", "x") for line in veth(name)])
        until_veth_up("v", "w", "x")
        devices = {
            "tap": ("t0", into_tun(closing, "t0", IFF_TAP)),
            "veth": ("v0", into_far_end(closing, "v1")),
            "macvlan": ("m0", into_far_end(closing, "w1")),
            "bridge": ("b0", into_far_end(closing, "x1")),
            "tun": ("t1", into_tun(closing, "t1", IFF_TUN)),
        }
        commands = ["link add m0 link w0 type macvlan mode bridge", "link add b0 type bridge mcast_snooping 0"]
        commands += ["link set x0 master b0", *(f"link set {each} up" for each in ("m0", "b0", "t0", "t1"))]
        yield closing.enter_context(new_site(shared, commands, devices))


@pytest.mark.parametrize("version", VIPS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kind", "mode"), RUNS)
def test_checksums_leave_finished(site: Site, kind: str, mode: Mode, shape: str, version: int) -> None:
    site.attach(site.inputs[kind].device, mode)
    left = forward(site, kind, shape, version)
    by_xdp = mode != "auto"
    assert (left > 0) == (by_xdp and SHAPES[shape][3]), site.host.reasons()
