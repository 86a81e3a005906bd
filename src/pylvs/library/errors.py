"""The errors of the library, and how those of the other packages become them."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address

from pylvs.model import errors as model
from pylvs.model.service import DestinationKey
from pylvs.model.service import ServiceKey as ModelKey

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from pylvs.library.keys import ServerKey, ServiceKey

CAPABILITIES = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON")
_SPACE = {errno.ENOSPC, errno.ENOMEM}
_PUBLIC_FIELDS = {"method": "forwarding", "netmask": "persistence", "engine": "persistence", "timeout_s": "persistence"}


class Error(Exception):
    """Base of all errors of the library. The text is one line: what is wrong, and what to do."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class InvalidValue(Error, ValueError):
    """A value that no table accepts: `field` names it, `value` is what was given, `hint` is what is allowed.

    `path` is the position: a service and a server, as `TCP 192.0.2.1:80: 10.0.0.1:80`, or `servers[2]` in what
    `from_dict` reads. It is "" if that is not known.
    """

    def __init__(self, field: str, value: object, hint: str, path: str = "") -> None:
        super().__init__(field, value, hint, path)
        self.field = field
        self.value = value
        self.hint = hint
        self.path = path

    def __str__(self) -> str:
        value = str(self.value) if isinstance(self.value, IPv4Address | IPv6Address) else repr(self.value)
        return f"{f'{self.path}: ' if self.path else ''}{self.field}: {value}: {self.hint}"


@contextlib.contextmanager
def located(path: object) -> Iterator[None]:
    """Name where the value is, in each InvalidValue of the block that does not know it, or only a part of it."""
    try:
        yield
    except InvalidValue as error:
        inner = f": {error.path}" if error.path else ""
        raise InvalidValue(error.field, error.value, error.hint, f"{path}{inner}") from None


class _AboutService(Error):
    """An error about a service, or about one of its servers."""

    _text = ""

    def __init__(self, service: ServiceKey, server: ServerKey | None = None) -> None:
        super().__init__(service, server)
        self.service = service
        self.server = server

    def __str__(self) -> str:
        return f"{self.service}: {self.server or 'the service'} {self._text}"


class NotFound(_AboutService, LookupError):
    """The table has no such `service`; or the service has no such `server`, if that is not None."""

    _text = "does not exist"


class Exists(_AboutService):
    """The table has this `service` already; or the service has this `server`, if that is not None."""

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


@contextlib.contextmanager
def translated(
    service: ServiceKey | None = None, server: ServerKey | None = None, subject: object = None
) -> Iterator[None]:
    """Raise the library's error for any error of the block.

    `service` and `server` are what the block is about. `subject` has the fields that an error may name; or it is the
    services by key.
    """
    try:
        yield
    except model.PylvsError as error:
        raise from_model(error, service, server, subject) from None
    except OSError as error:
        raise from_os(error) from None


def from_model(
    error: model.PylvsError, service: ServiceKey | None, server: ServerKey | None, subject: object = None
) -> Error:
    """Return the library's error for one of the model; the arguments are those of `translated`."""
    if error.subject:
        service, server = _keys(*error.subject)
        if isinstance(subject, Mapping):
            subject = subject.get(service)
            subject = subject.server(server) if subject and server else subject
    if isinstance(error, model.ServiceExists | model.DestinationExists) and service:
        return Exists(service, server if isinstance(error, model.DestinationExists) else None)
    if isinstance(error, model.NoSuchService | model.NoSuchDestination) and service:
        return NotFound(service, server if isinstance(error, model.NoSuchDestination) else None)
    if error.field:
        field = _PUBLIC_FIELDS.get(error.field, error.field)
        path = ": ".join(str(each) for each in (service, server) if each is not None)
        hint = str(error).removeprefix(f"{service} -> {server}: ").removeprefix(f"{service}: ")
        return InvalidValue(field, getattr(subject, field, None), hint, path)
    if isinstance(error, model.NoSpace):
        return NoSpace(str(error), error.table, error.limit)
    if isinstance(error, model.Busy):
        return Busy(str(error), error.holder)
    if isinstance(error, model.Unsupported):
        return Unsupported(str(error), error.tables_of)
    if isinstance(error, model.NoSuchDevice):
        return Unsupported(str(error))
    if isinstance(error, model.NotPermitted):
        return PermissionNeeded(str(error), error.capabilities)
    return KernelError(str(error), error.errno)


def _keys(service: ModelKey, server: DestinationKey | None) -> tuple[ServiceKey, ServerKey | None]:
    from pylvs.library.keys import ServerKey, ServiceKey

    return ServiceKey.from_model(service), None if server is None else ServerKey.from_model(server)


def from_os(error: OSError) -> Error:
    """Return the library's error for a failed system call."""
    what = f"{error.filename}: " if error.filename else ""
    text = f"{what}{error.strerror or error}"
    if error.errno in (errno.EPERM, errno.EACCES):
        return PermissionNeeded(f"{text}: run it as root")
    return NoSpace(text) if error.errno in _SPACE else KernelError(text, error.errno or 0)
