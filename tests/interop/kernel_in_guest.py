"""Test every scheduler and every forwarding method on a kernel: the guest's half of `test_kernels`.

One boot, one interpreter, and one load of the objects, whose verification takes longest, serve all tests. It prints a
line for each that works, and for the first that does not, and then exits with 1. `--card` names the model of the cards;
`--devices` adds further kinds of devices.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from pylvs.dataplane import load
from pylvs.dataplane.state import ON_DEMAND
from tests import trace_filters, trace_once
from tests.interop import devices_in_guest as devices
from tests.interop import forwarding_in_guest as forwarding
from tests.interop import scheduling_in_guest as scheduling
from tests.interop import unfinished_in_guest as unfinished
from tests.packet.host import new_host

FILTERS = 40  # random ones, and as many programs that libpcap's compiler would not write


def main() -> int:
    """Return 0, or 1 with the difference on stderr."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--card", choices=forwarding.NATIVE_SINCE, default="virtio-net-pci")
    parser.add_argument("--devices", action="store_true")
    parser.add_argument("--release", action="store_true", help="print the kernel's release first")
    chosen = parser.parse_args()
    if chosen.release:
        print(f"release: {os.uname().release}", flush=True)
    try:
        with new_host() as host:
            for line in scheduling.play(host):
                print(line, flush=True)
            for name in "tc_egress", "tc_bare":
                host.program(name)
            with host.director.batch():
                for name in ON_DEMAND:
                    load.provide(host.director.state, name)
            print("other programs: the verifier accepts them", flush=True)
            for given in trace_filters.filters_of(seed=0, count=FILTERS):
                for hook in trace_filters.HOOKS.values():
                    os.close(trace_filters.load(given, hook))
            print("filters: the verifier accepts them", flush=True)
            trace_once.play(host)
            print("tracing: the verifier accepts both copies, and a packet leaves a record", flush=True)
            for line in unfinished.play(host):
                print(line, flush=True)
            for device in sorted(Path("/sys/class/net").glob("nic*")):  # the mount of the first namespace
                move = f"nsenter --net=/proc/1/ns/net ip link set {device.name} netns {host.name}"
                subprocess.run(move.split(), check=True)
            for line in forwarding.play(host.director, chosen.card):
                print(line, flush=True)
            if chosen.devices:
                for line in devices.play(host.director):
                    print(line, flush=True)
    except (forwarding.Wrong, scheduling.Wrong, AssertionError) as wrong:
        print(wrong, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
