"""DNS_CHECK: a name server answers a question over UDP without an error (RFC 1035)."""

from __future__ import annotations

import os

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype

from pylvs.health.checkers.registry import CheckContext
from pylvs.health.checkers.sockets import Deadline, Endpoint, receive_datagram, send_datagram
from pylvs.health.outcome import Outcome, Probe, ProbeFailed, quoted
from pylvs.model.checks import DnsCheck

_RESPONSE = 0x80  # of the third byte


def probe(check: DnsCheck, context: CheckContext) -> Probe:
    """Asks once; answers to other questions are passed over."""
    endpoint = Endpoint(check.target)
    asked = f"{check.name} {check.type}"
    try:
        question = dns.message.make_query(check.name, check.type).to_wire()
    except (dns.exception.DNSException, UnicodeError, ValueError) as error:
        question, trouble = b"", Outcome(False, f"{asked} cannot be asked for: {error}")

    async def ask() -> Outcome:
        if not question:
            return trouble
        limit = Deadline(check.pace.timeout_s)
        identity = os.urandom(2)

        def is_mine(data: bytes) -> bool:
            return data[:2] == identity and len(data) > 2 and data[2] & _RESPONSE != 0

        try:
            with endpoint.correspondence() as sock:
                send_datagram(sock, identity + question[2:])
                data = await receive_datagram(sock, limit, is_mine)
        except ProbeFailed as error:
            return error.outcome()
        return limit.expired("waiting for the answer").outcome() if data is None else judge_response(data, asked)

    return ask


def judge_response(data: bytes, asked: str) -> Outcome:
    """What an answer says: only its code counts, for that is what every server fills in alike."""
    try:
        code = dns.message.from_wire(data, question_only=True, ignore_trailing=True).rcode()
    except dns.exception.DNSException as error:
        return Outcome(False, f"the answer cannot be read: {error} in {quoted(data)}")
    if code != dns.rcode.NOERROR:
        return Outcome(False, f"{dns.rcode.to_text(code)} for {asked}")
    return Outcome(True, f"NOERROR for {asked}")
