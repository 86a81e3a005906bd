"""What a table found says about servers that nobody has checked yet."""

from __future__ import annotations

from pylvs.health.check_state import sets_weight
from pylvs.health.overrides import Standing
from pylvs.health.services import ServiceState
from pylvs.model.director import ServiceRow


def adopt_service(service: ServiceState, row: ServiceRow) -> None:
    """Presume of each server with checks what its row, or its absence, says; and of the quorum what the sorry server
    says."""
    found = {each.destination.key: each.destination for each in row.destinations}
    for key, server in service.servers.items():
        if not server.links:
            continue
        there = found.get(key)
        if server.override.standing is Standing.DISABLED:
            continue  # its absence says nothing
        # Weight 0 says that an inhibiting server is down, unless it would have weight 0 up as well.
        inhibited = server.wanted.inhibit_on_failure and server.weight() > 0
        up = there is not None and (there.weight > 0 or not inhibited)
        for link in server.links:
            link.presumed = up
            link.state.first_counts &= not up
        server.up = up
        server.announced = True
        server.reason = "as the table was found"
        if (
            there is not None
            and up
            and not server.override
            and any(sets_weight(link.state.check) for link in server.links)
        ):
            server.held_weight = server.told_weight = there.weight
    service.prepare()
    sorry_server = service.wanted.sorry_server
    serving = sorry_server is not None and sorry_server.key in found and sorry_server.key not in service.servers
    served = serving and sorry_server is not None and found[sorry_server.key].weight > 0
    if served and any(server.links for server in service.servers.values()):
        service.has_quorum = False  # until the first result of a check
    else:
        service.has_quorum = service.quorum.after(not served, service.weight_up)
    service.changed()
