"""pylvs: the Linux Virtual Server, with an eBPF data plane run from Python.

The names of `__all__` are the library for other programs: docs/reference/python.md. They are loaded at their first use,
because the commands import this package and need none of them.
"""

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from pylvs.library.aio import AsyncDirector
    from pylvs.library.client_rules import ClientAction, ClientRule
    from pylvs.library.difference import Difference, ServiceDifference, difference
    from pylvs.library.director import Director, Watcher
    from pylvs.library.errors import (
        Busy,
        Closed,
        Exists,
        KernelError,
        NamespaceNotFound,
        NoSpace,
        NotFound,
        OwnedByDaemon,
        PermissionNeeded,
        Unsupported,
    )
    from pylvs.library.invalid import Error, InvalidValue
    from pylvs.library.keys import ServerKey, ServiceKey
    from pylvs.library.statistics import ServerStatistics, ServiceStatistics, Statistics
    from pylvs.library.values import Flag, Forwarding, Persistence, Server, Service, Tunnel
    from pylvs.model.director import Connection
    from pylvs.model.rows import Counters, DeviceProblem, Rates, TableUse
    from pylvs.model.service import Protocol, Timeouts, TunnelKind

__version__ = "0.1.0"

_MODULES = {
    "library.aio": "AsyncDirector",
    "library.client_rules": "ClientAction ClientRule",
    "library.difference": "Difference ServiceDifference difference",
    "library.director": "Director Watcher",
    "library.errors": "Busy Closed Exists KernelError NamespaceNotFound NoSpace NotFound OwnedByDaemon PermissionNeeded"
    " Unsupported",
    "library.invalid": "Error InvalidValue",
    "library.keys": "ServerKey ServiceKey",
    "library.statistics": "ServerStatistics ServiceStatistics Statistics",
    "library.values": "Flag Forwarding Persistence Server Service Tunnel",
    "model.director": "Connection",
    "model.rows": "Counters DeviceProblem Rates TableUse",
    "model.service": "Protocol Timeouts TunnelKind",
}
__all__ = [
    "AsyncDirector",
    "Busy",
    "ClientAction",
    "ClientRule",
    "Closed",
    "Connection",
    "Counters",
    "DeviceProblem",
    "Difference",
    "Director",
    "Error",
    "Exists",
    "Flag",
    "Forwarding",
    "InvalidValue",
    "KernelError",
    "NamespaceNotFound",
    "NoSpace",
    "NotFound",
    "OwnedByDaemon",
    "PermissionNeeded",
    "Persistence",
    "Protocol",
    "Rates",
    "Server",
    "ServerKey",
    "ServerStatistics",
    "Service",
    "ServiceDifference",
    "ServiceKey",
    "ServiceStatistics",
    "Statistics",
    "TableUse",
    "Timeouts",
    "Tunnel",
    "TunnelKind",
    "Unsupported",
    "Watcher",
    "difference",
]


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names.split():
            from importlib import import_module  # late: commands do not need it

            found: object = getattr(import_module(f"pylvs.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'pylvs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
