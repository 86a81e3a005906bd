"""Forward by further kinds of devices: a part of `kernel_in_guest` that `./dev kernels` plays.

All but the tap use the first cable of `forwarding_in_guest`, one after the other. The tap's far end is its file.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence

from pylvs.model.director import Director
from tests.interop.forwarding_in_guest import (
    BOND,
    CABLE,
    FAR,
    SAME,
    End,
    Wire,
    command,
    forward,
    own_end,
    restore,
    run,
    shown,
)

LONG = 9000  # bytes of MTU
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000
BRIDGE, MACVLAN, TAP, JUMBO = (
    Wire(name, CABLE.far, n) for n, name in enumerate(("br0", "mv0", "tap0", CABLE.device), 1)
)
OWN = "02:00:00:00:00:ab"  # of the card, where a device on it has the director's address


class Tap:
    """A tap whose far end is this file."""

    def __init__(self) -> None:
        self._file = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self._file, TUNSETIFF, struct.pack("16sH22x", TAP.device.encode(), IFF_TAP | IFF_NO_PI))

    def fileno(self) -> int:
        return self._file

    def send(self, frame: bytes, /) -> int:
        return os.write(self._file, frame)

    def recv(self, most: int, /) -> bytes:
        return os.read(self._file, most)

    def close(self) -> None:
        """The file stays open while the device is used (`Exchange` closes each of its ends)."""


def batch(lines: Sequence[str]) -> None:
    run("ip", "-batch", "-", stdin="".join(f"{line}\n" for line in lines))


def change(director: Director, wire: Wire, lines: Sequence[str]) -> None:
    """Make a device that has the director's addresses, and services that use it."""
    director.flush()
    batch([*lines, *own_end(wire)])
    restore(director, [(wire, wire, SAME)])


def play(director: Director) -> Iterator[str]:
    """Return a line for each kind of device. Raises Wrong."""
    subprocess.run(["modprobe", "tun"], check=True)
    way_of = {wire: (wire, wire, SAME) for wire in (BRIDGE, MACVLAN, TAP, JUMBO)}
    batch([f"link del {BOND.device}", f"link set {CABLE.device} address {OWN}", f"link set {CABLE.device} up"])

    change(director, BRIDGE, ["link add br0 type bridge", f"link set {CABLE.device} master br0", "link set br0 up"])
    yield forward(way_of[BRIDGE], "tc", 20000, "bridge", xdp_sends=False)
    batch(["link del br0"])

    change(director, MACVLAN, [f"link add link {CABLE.device} name mv0 type macvlan mode bridge"])
    yield forward(way_of[MACVLAN], "tc", 21000, "macvlan", xdp_sends=False)
    batch(["link del mv0"])

    end: End = Tap()
    change(director, TAP, [])
    yield forward(way_of[TAP], "tc", 22000, "tap", xdp_sends=False, end=end)
    os.close(end.fileno())

    run("ip", "-n", FAR, "link", "set", CABLE.far, "mtu", str(LONG))
    change(director, JUMBO, [f"link set {CABLE.device} mtu {LONG}"])
    mode = shown(JUMBO.device)["mode"]  # drivers differ in how long frames are that XDP takes
    yield forward(way_of[JUMBO], mode, 24000, f"MTU {LONG}", xdp_sends=mode == "native", mtu=LONG)
    command("down")
