"""The sockets that the prober process may not make: the daemon makes them, and sends their descriptors.

A firewall mark needs CAP_NET_ADMIN, a low source port CAP_NET_BIND_SERVICE, and an echo may need CAP_NET_RAW. All other
sockets, also those bound to a device (Linux 5.7), are made without privileges.
"""

from __future__ import annotations

import contextlib
import socket

from pylvs.health.probes import ProbeFailed
from pylvs.model.checks import Check, HttpCheck, LoadCheck, LoadSource, PingCheck, Target, targets_of
from pylvs.system.processes.channel import MAX_DESCRIPTORS


def needs_sockets(check: Check) -> bool:
    """Return whether the daemon makes the sockets of this check."""
    return isinstance(check, PingCheck) or any(_is_privileged(each) for each in targets_of(check))


def _is_privileged(target: Target) -> bool:
    return bool(target.mark or target.source_port)


def make_sockets(check: Check) -> list[socket.socket]:
    """Return the sockets of one run, in the order of their use. Raises ProbeFailed."""
    from pylvs.health.checkers import ping  # late: few configurations need them, and they import OpenSSL
    from pylvs.health.checkers.sockets import Endpoint

    if isinstance(check, PingCheck):
        return [ping.echo_socket(check)]
    kind = socket.SOCK_DGRAM if check.uses_datagrams else socket.SOCK_STREAM
    if len(targets_of(check)) * _connections(check) > MAX_DESCRIPTORS:
        text = f"more than {MAX_DESCRIPTORS} pages or hosts cannot have a fwmark or a bind_port"
        raise ProbeFailed(text, inconclusive=True)
    targets = [each for each in targets_of(check) for _ in range(_connections(check))]
    with contextlib.ExitStack() as after_an_error:
        made = [after_an_error.enter_context(Endpoint(target).unconnected(kind)) for target in targets]
        after_an_error.pop_all()
    return made


def _connections(check: Check) -> int:
    """Return how many connections one run makes to each target at most."""
    if isinstance(check, HttpCheck):
        return len(check.urls)
    return 2 if isinstance(check, LoadCheck) and check.source is LoadSource.CPU_BUSY else 1
