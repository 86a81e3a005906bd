"""What this director is configured for, in a form that another one can compare."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pylvs.health.state import ServiceSnapshot
from pylvs.model.dataclass import replace
from pylvs.model.plain import to_plain
from pylvs.model.service import Timeouts
from pylvs.model.wanted import WantedServer, WantedService
from pylvs.peer.summary import ServerSummary, ServiceSummary, Summary

_OWN_OF_CHECK = {"source", "device"}  # of the target: from where it is checked

Digests = Mapping[str, tuple[str, Mapping[str, tuple[str, str]]]]  # by service, then by server: settings and checks


def _digest(value: Any) -> str:
    import hashlib  # late: it loads OpenSSL, and most directors have no peer

    text = json.dumps(_common(to_plain(value)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _common(plain: Any) -> Any:
    """Return a plain value without the fields that each director has of its own."""
    if isinstance(plain, dict):
        return {name: _common(each) for name, each in plain.items() if name not in _OWN_OF_CHECK}
    return [_common(each) for each in plain] if isinstance(plain, list) else plain


def digests_of(services: Iterable[WantedService]) -> Digests:
    """Return digests of services, and of settings and checks of their servers.

    They are without what concerns one director alone: its scripts, and the address from which it checks.
    """
    found = {}
    for service in services:
        servers = {
            str(each.destination.key): (_digest_of_server(each), _digest_of_checks(each)) for each in service.servers
        }
        found[service.name] = _digest_of_service(service), servers
    return found


def _digest_of_server(server: WantedServer) -> str:
    own = replace(server, notify_up=None, notify_down=None, smtp_alert=False)
    return _digest(replace(own, checks=(), checks_left_out=()))


def _digest_of_service(service: WantedService) -> str:
    own = replace(service, quorum_up=None, quorum_down=None, omega=False, smtp_alert=False)
    return _digest(replace(own, servers=()))


def _digest_of_checks(server: WantedServer) -> str:
    return _digest(WantedServer(replace(server.destination, weight=1), checks=server.checks))


def summary_of(digests: Digests, snapshots: Iterable[ServiceSnapshot], timeouts: Timeouts | None) -> Summary:
    """Return what a director is configured for, and which of its servers are up."""
    up = {
        (each.name, str(server.server)): server.up if server.checked else None
        for each in snapshots
        for server in each.servers
    }
    services = {
        name: ServiceSummary(
            settings,
            {server: ServerSummary(own, checks, up.get((name, server))) for server, (own, checks) in servers.items()},
        )
        for name, (settings, servers) in digests.items()
    }
    return Summary(services, " ".join(map(str, timeouts)) if timeouts is not None else "")
