"""Planted bugs that the pairs must find. Add one with each new comparison."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from pylvs.config.compile import services
from pylvs.health import state_builder
from pylvs.health.engine import Engine
from pylvs.health.events import NO_OVERRIDE
from pylvs.model.dataclass import replace
from pylvs.model.service import Destination, ServiceKey, Timeouts

Defect = Callable[[], contextlib.AbstractContextManager[Any]]


def _unlisted(destination: Destination, service: ServiceKey) -> Destination:
    return destination


@contextlib.contextmanager
def one_port_for_all_entries() -> Iterator[None]:
    """A server of DR has one port in the table: that of the group if it has one, else 0."""

    def named(entries: Any, server: Any, nat: bool) -> Any:
        (port,) = entries.ports if len(entries.ports) == 1 and not entries.marks else (0,)
        return server if nat and server.port else replace(server, fixed_port=port)

    def nothing_is_renamed(found: Any, desired: Any) -> dict[Any, Any]:
        return {}

    with (
        patch.object(services, "_named", named),
        patch.object(Destination, "listed_by", _unlisted),
        patch("pylvs.daemon.table.cache._renamed", nothing_is_renamed),
    ):
        yield


def new_checks() -> contextlib.AbstractContextManager[Any]:
    """A reload begins all checks of a changed service anew."""
    builder = state_builder.StateBuilder
    server = builder._server

    def forgetful(self: Any, service: Any, wanted: Any, old: Any, *rest: Any) -> Any:
        if old is not None:
            for link in list(old.links):
                link.state.good = None
        return server(self, service, wanted, old, *rest)

    return patch.object(builder, "_server", forgetful)


def everything_anew() -> contextlib.AbstractContextManager[Any]:
    """A reload forgets all services first, as keepalived once did."""
    build = state_builder.StateBuilder.build

    def forgetful(self: Any, old: Any, configuration: Any, renew: bool, at: float) -> Any:
        names = {each.name for each in configuration.services if old.get(each.name) is None}
        return build(self, {} if names else old, configuration, renew, at)

    return patch.object(state_builder.StateBuilder, "build", forgetful)


def unset_weights() -> contextlib.AbstractContextManager[Any]:
    """The weight that a check has set ends with a reload of the configured one."""
    return patch.object(state_builder, "_is_weight_set", lambda server, staying: False)


def zero_timeouts() -> contextlib.AbstractContextManager[Any]:
    """A timeout that is not written is set to 0."""
    return patch.object(Timeouts, "over", lambda timeouts, present: timeouts)


def undrained() -> contextlib.AbstractContextManager[Any]:
    """A reload ends the operator's overrides."""
    replaced = Engine.replace

    def forgetful(self: Engine, configuration: Any) -> None:
        for server in self._servers():
            server.override = NO_OVERRIDE
        replaced(self, configuration)

    return patch.object(Engine, "replace", forgetful)


DEFECTS: dict[str, Defect] = {
    "one port for all entries of a group": one_port_for_all_entries,
    "checks begin anew": new_checks,
    "a new service lets all others begin anew": everything_anew,
    "weights of checks end": unset_weights,
    "unwritten timeouts are 0": zero_timeouts,
    "overrides end": undrained,
}
