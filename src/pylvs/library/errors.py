"""The errors of the library."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from pylvs.library.invalid import Error
from pylvs.library.keys import ServerKey, ServiceKey

CAPABILITIES = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON")


class _AboutService(Error):
    """An error about a service, or about one of its servers or client rules."""

    _text = ""

    def __init__(
        self,
        service: ServiceKey,
        server: ServerKey | None = None,
        prefix: IPv4Network | IPv6Network | None = None,
    ) -> None:
        super().__init__(service, server, prefix)
        self.service = service
        self.server = server
        self.prefix = prefix

    def __str__(self) -> str:
        what = f"a client rule of {self.prefix}" if self.prefix is not None else self.server or "the service"
        return f"{self.service}: {what} {self._text}"


class NotFound(_AboutService, LookupError):
    """The table has no such `service`; or the service has no such `server`, or no client rule of this `prefix`."""

    _text = "does not exist"


class Exists(_AboutService):
    """The table has this `service` already; or the service has this `server`, or another client rule of `prefix`."""

    _text = "exists already"


class OwnedByDaemon(Error):
    """A running `pylvs run`, process `pid`, manages this `service`: it would revert the edit."""

    def __init__(self, service: ServiceKey, pid: int) -> None:
        super().__init__(service, pid)
        self.service = service
        self.pid = pid

    def __str__(self) -> str:
        return (
            f"{self.service}: pylvs run, process {self.pid}, manages this service and would revert the edit;"
            " edit its configuration, use its API, or open the director with ignore_daemon=True"
        )


class PermissionNeeded(Error):
    """The process lacks a privilege: `capabilities` are the missing ones, none if something else forbids it."""

    def __init__(self, text: str, capabilities: tuple[str, ...] = ()) -> None:
        super().__init__(text, capabilities)
        self.capabilities = capabilities


class Unsupported(Error):
    """This kernel or machine lacks something, or the tables are those of another pylvs, of version `tables_of`.

    `tables_of` is "" if the tables are not the cause, and "unknown" if nothing tells their version.
    """

    def __init__(self, text: str, tables_of: str = "") -> None:
        super().__init__(text, tables_of)
        self.tables_of = tables_of


class Busy(Error):
    """The change must wait: another process has locked the tables, or attached its own program. Try again.

    `holder` is the process that has locked them, 0 for any other cause.
    """

    def __init__(self, text: str, holder: int = 0) -> None:
        super().__init__(text, holder)
        self.holder = holder


class NoSpace(Error):
    """A table is full, or memory is short. `table` has space for `limit` elements; "" and 0 for other causes."""

    def __init__(self, text: str, table: str = "", limit: int = 0) -> None:
        super().__init__(text, table, limit)
        self.table = table
        self.limit = limit


class KernelError(Error):
    """The kernel refused a system call for another reason; `errno` is its number."""

    def __init__(self, text: str, errno: int) -> None:
        super().__init__(text, errno)
        self.errno = errno


class NamespaceNotFound(Error):
    """There is no network namespace `namespace`."""

    def __init__(self, namespace: str, reason: str) -> None:
        super().__init__(namespace, reason)
        self.namespace = namespace
        self.reason = reason

    def __str__(self) -> str:
        return f"namespace {self.namespace}: {self.reason}"


class Closed(Error):
    """The director was closed before the call."""
