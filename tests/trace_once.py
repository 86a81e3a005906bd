"""Trace a packet, and ask about one that is not sent: that kernels accept both copies of the programs."""

from __future__ import annotations

from ipaddress import ip_address

from pylvs.trace.session import open_session
from pylvs.trace.synthetic import questions
from tests.packet.frames import CLIENT4, tcp
from tests.packet.host import HOOKS, VIP4, Host

WAIT_S = 60.0  # until a record must have come, on an emulated processor


def play(host: Host) -> None:
    """Load both copies with all entry programs. Raises AssertionError."""
    service = host.new_key()
    host.serve(service, 2, scheduler="wlc")
    with questions() as asked:
        answer = asked.ask(ip_address(CLIENT4), 4000, ip_address(VIP4), service.port)
    assert (answer.verdict, answer.choice, answer.created) == ("forwarded", "scheduler", True), answer
    with open_session() as session:
        for hook, choice in zip(HOOKS, ("scheduler", "existing_connection"), strict=True):
            host.run(tcp("S", sport=4000, dport=service.port), hook)
            while (packet := session.read(WAIT_S)) is not None and packet.service is None:
                pass  # what the namespace sends by itself
            assert packet is not None, f"no record at {hook}"
            assert (packet.verdict, packet.choice, packet.server) == ("forwarded", choice, answer.server), packet
    host.director.delete_service(service)
