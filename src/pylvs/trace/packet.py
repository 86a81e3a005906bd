"""What a trace knows of one packet, as every output needs it."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass

HOOKS = ("xdp", "tc", "tc_egress")
FORWARDED, PASSED, DROPPED, HELD, TO_TC, REJECTED = "forwarded", "passed", "dropped", "held", "to_tc", "rejected"
VERDICTS = (FORWARDED, PASSED, DROPPED, HELD, TO_TC, REJECTED)  # rejected: its sender gets an ICMP error


@dataclass(frozen=True, slots=True)
class TracedPacket:
    """One run of the programs on one packet. XDP's packets that TC finishes are two of them: "to_tc", then the rest.

    `before` and `after` are the first bytes of the frame, up to the snap length of the session. Everything in them
    comes from other hosts.
    """

    number: int  # of this session, from 1
    time: float  # seconds since the epoch
    cpu: int
    hook: str  # one of HOOKS
    device: str  # by which it came; its index as text if the device is gone
    length: int  # of the frame as it came, in bytes
    before: bytes  # as it came
    after: bytes  # as it left; b"" if it was not sent
    service: str | None = None  # as ipvsadm names it: "TCP 192.0.2.1:80", "FWM 1"
    server: str | None = None  # "10.0.0.2:80"
    method: str | None = None  # "direct", "nat", "tunnel", "local"
    choice: str | None = None  # a name of enum trace_choice: lower case, without TRACE_
    scheduler: str | None = None  # "wlc"
    load: int | None = None  # the lowest overhead of the scheduler's comparison, where it has one
    candidates: int | None = None  # how many servers it compared
    state: str | None = None  # of the connection, after the packet
    verdict: str = PASSED  # one of VERDICTS
    reason: str | None = None  # a name of enum reason: lower case, without REASON_
    output: str | None = None  # the device by which it left
    created: bool = False  # it made a connection
    sent_length: int = 0  # of the frame as it left, in bytes; 0: as far as `after` has it
