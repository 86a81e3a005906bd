"""A stream of real packets through the site's device, from a process that notes for how long flows got no answer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bench import site
from bench.frames import Frame
from bench.processes import python_beside
from pylvs.bpf import abi
from pylvs.model.dataclass import dataclass

PORT = 81  # of a service of its own
FAR_END = "d1"  # of the site's device
_FLOWS = 8  # that exist from the beginning
# Every millisecond a packet of the next flow; the two newest flows take turns with the first ones. Every tenth of a
# second a new flow. A flow's pause lasts from its first packet without an answer to its next answer.
_SENDER = f"""
import contextlib, os, socket, sys, time
frame, first, flows = bytes.fromhex(sys.argv[1]), int(sys.argv[2]), {_FLOWS}
with contextlib.suppress(OSError):
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {{int(sys.argv[3])}})
with contextlib.suppress(OSError):
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
device = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
device.bind(({FAR_END!r}, 0))
device.setblocking(False)
device.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
clock, waiting, pauses, sent, answered = time.monotonic, {{}}, [0.0, 0.0], 0, 0

def send(flow, flags):
    packet = bytearray(frame)
    packet[34:36] = (first + flow).to_bytes(2, "big")
    packet[47] = flags
    device.send(packet)

def receive():
    global answered
    while True:
        try:
            packet, (_, _, kind, *_) = device.recvfrom(2048)
        except BlockingIOError:
            return
        if kind == 4 or len(packet) < 54 or packet[36:38] != frame[36:38] or packet[47] != 0x10:  # PACKET_OUTGOING
            continue
        answered += 1
        flow = int.from_bytes(packet[34:36], "big") - first
        since = waiting.pop(flow, None)
        if since is not None:
            pauses[flow >= {_FLOWS}] = max(pauses[flow >= {_FLOWS}], clock() - since)

def open_flow(flow):
    send(flow, 0x02)
    time.sleep(0.001)
    send(flow, 0x10)

for flow in range(flows):
    for _ in range(20):  # the neighbour code gets the first packets
        open_flow(flow)
receive()
answered = 0
print(flush=True)
os.set_blocking(0, False)
step = 0
while sys.stdin.buffer.read(1) is None:
    time.sleep(0.001)
    receive()
    step += 1
    if step % 100 == 0 and flows < 30000:
        open_flow(flows)
        flows += 1
        sent += 1
    flow = step // 2 % {_FLOWS} if step % 2 else max(flows - 1 - step // 2 % 2, 0)
    waiting.setdefault(flow, clock())
    send(flow, 0x10)
    sent += 1
for _ in range(200):
    time.sleep(0.001)
    receive()
for flow in waiting:
    pauses[flow >= {_FLOWS}] = max(pauses[flow >= {_FLOWS}], clock() - waiting[flow])
print(pauses[0] * 1000, pauses[1] * 1000, max(sent - answered, 0), flows)
"""


@dataclass(slots=True)
class Stream:
    """What a stream found."""

    pause_ms: float = 0.0  # the longest of the flows that existed from the beginning
    new_pause_ms: float = 0.0  # and of those that were made later
    lost: int = 0  # packets
    flows: int = 0


@contextmanager
def streaming(number: int) -> Iterator[Stream]:
    """Send a stream during the block, from another CPU if there is one; streams of other numbers have other flows."""
    port = abi.constant("BENCH_FIRST_PORT")
    frame, cpus = Frame(f"10.67.0.{number}", site.VIP, port, PORT), os.sched_getaffinity(0)
    found = Stream()
    try:
        with suppress(OSError):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))  # the process inherits it
        words = (frame.packed().hex(), str(port), str(min(cpus)))
        with python_beside(_SENDER, *words) as printed:
            os.sched_setaffinity(0, cpus)
            yield found
    finally:
        os.sched_setaffinity(0, cpus)
    found.pause_ms, found.new_pause_ms = float(printed[0]), float(printed[1])
    found.lost, found.flows = int(printed[2]), int(printed[3])
