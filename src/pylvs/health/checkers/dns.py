"""DNS_CHECK: a name server answers a query over UDP without an error (RFC 1035)."""

from __future__ import annotations

import os

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype

from pylvs.health.checkers.deadline import Deadline
from pylvs.health.checkers.sockets import Endpoint, receive_datagram, send_datagram
from pylvs.health.probes import CheckContext, Outcome, Probe, constant_probe, quoted
from pylvs.model.checks import DnsCheck

_HEADER_SIZE = 12
_RESPONSE = 0x80  # QR, in the third byte
_RCODE = 0x0F  # in the fourth byte


def probe(check: DnsCheck, context: CheckContext) -> Probe:
    """Return a probe that sends one query, and ignores responses to other queries."""
    endpoint = Endpoint(check.target)
    name = f"{check.name} {check.type}"
    try:
        query = dns.message.make_query(check.name, check.type).to_wire()
    except (dns.exception.DNSException, UnicodeError, ValueError) as error:
        return constant_probe(Outcome(False, f"{name} cannot be asked for: {error}"))

    async def ask() -> Outcome:
        deadline = Deadline(check.pace.timeout_s)
        identity = os.urandom(2)

        def is_response(data: bytes) -> bool:
            return data[:2] == identity and len(data) > 2 and data[2] & _RESPONSE != 0

        with endpoint.connected_datagram() as sock:
            send_datagram(sock, identity + query[2:])
            data = await receive_datagram(sock, deadline, is_response)
        if data is None:
            raise deadline.expired("waiting for the answer")
        return judge_response(data, name)

    return ask


def judge_response(data: bytes, name: str) -> Outcome:
    """Return the outcome of a response. Only RCODE of its header counts, as in keepalived.

    `dns.message.from_wire` refuses more, which depends on the version of dnspython.
    """
    if len(data) < _HEADER_SIZE:
        return Outcome(False, f"the answer cannot be read: it is shorter than a header in {quoted(data)}")
    code = data[3] & _RCODE
    if code != dns.rcode.NOERROR:
        return Outcome(False, f"{dns.rcode.Rcode.to_text(code)} for {name}")
    return Outcome(True, f"NOERROR for {name}")
