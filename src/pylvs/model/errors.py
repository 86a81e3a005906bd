"""Errors with an errno; the commands turn them into one line and an exit status.

The errno is that of IPVS (IPVS-SEMANTICS 1.3 to 1.5), from which ipvsadm chooses its message.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

NO_MEMORY = "this process gets no more memory"
LONGEST_EXCERPT = 60  # characters


class PylvsError(Exception):
    """Base of all errors that a user can cause or must act on; the text names cause and remedy.

    `field` is the field of a service or a destination that is wrong, if one is. `subject` has the keys of service and
    destination (or None) if an edit of many was refused.
    """

    errno = errno.EINVAL
    exit_status = 1  # of the command that it ends
    subject: tuple[Any, Any] | None = None  # of the classes in `service`, which imports this module

    def __init__(self, text: str = "", field: str = "") -> None:
        super().__init__(text)
        self.field = field


class ServiceExists(PylvsError):
    """A service with this key exists already."""

    errno = errno.EEXIST


class NoSuchService(PylvsError):
    """There is no service to edit, delete or zero, or whose destination to change."""

    errno = errno.ESRCH


class DestinationExists(PylvsError):
    """The service has this destination already."""

    errno = errno.EEXIST


class NoSuchDestination(PylvsError):
    """The service has no such destination to edit or delete."""

    errno = errno.ENOENT


class NoSuchScheduler(PylvsError):
    """A scheduler or a persistence engine that the data plane does not have."""

    errno = errno.ENOENT


class OutOfRange(PylvsError):
    """A weight or threshold beyond its limits."""

    errno = errno.ERANGE


class InvalidOperation(PylvsError):
    """IPVS returns EINVAL: an address that is not unicast, mixed families without a tunnel..."""

    errno = errno.EINVAL


class NotPermitted(PylvsError):
    """The process lacks a privilege; the text names it. `capabilities` are the missing ones, if these are known."""

    errno = errno.EPERM

    def __init__(self, text: str = "", capabilities: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.capabilities = tuple(capabilities)


RUN_AS_ROOT = "run as root"


def needs_root(what: object, remedy: str = RUN_AS_ROOT) -> NotPermitted:
    """Return the error for an object that this user may not use: a path, or an operation."""
    return NotPermitted(f"{what}: Operation not permitted; {remedy}")


class NotReadable(NotPermitted):
    """The tables belong to root, and no daemon answers this user."""


class NoSpace(PylvsError):
    """A table is full, or there is no memory for it.

    `table` has no space for more than `limit` elements, if these are known.
    """

    errno = errno.ENOMEM

    def __init__(self, text: str = "", table: str = "", limit: int = 0) -> None:
        super().__init__(text)
        self.table = table
        self.limit = limit


class NoSuchDevice(PylvsError):
    """A network device does not exist."""

    errno = errno.ENODEV


class Unsupported(PylvsError):
    """This kernel or machine lacks a feature that pylvs needs; the text names it.

    `tables_of` is the version of the pylvs that made the tables, if they are the cause.
    """

    errno = errno.EOPNOTSUPP

    def __init__(self, text: str = "", tables_of: str = "") -> None:
        super().__init__(text)
        self.tables_of = tables_of


class Busy(PylvsError):
    """The change must wait: connections exist, or the program of another owner is attached.

    `holder` is the process that has the lock, 0 if another cause or an unknown process.
    """

    errno = errno.EBUSY

    def __init__(self, text: str = "", holder: int = 0) -> None:
        super().__init__(text)
        self.holder = holder


class DaemonRuns(PylvsError):
    """A sync daemon of this role runs already."""

    errno = errno.EEXIST


class NoDaemon(PylvsError):
    """No sync daemon of this role runs."""

    errno = errno.ESRCH


class NoSuchRouter(PylvsError):
    """There is no virtual router of this name; the text lists the others."""

    errno = errno.ENOENT


class NoSuchRule(PylvsError):
    """A service has no client rule of this prefix."""

    errno = errno.ENOENT


class NoSuchTables(PylvsError):
    """The tables that a command wants are not those of this daemon."""

    errno = errno.ENOENT


class NoSuchSetting(PylvsError):
    """A sysctl does not exist; the text lists similar ones."""

    errno = errno.ENOENT


def shown(text: str) -> str:
    """Return a wrong value for an error's text; quotes show an empty one."""
    return text or "''"


def counted(number: int, what: str) -> str:
    """Return "1 service", "2 services"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def text_of(error: BaseException) -> str:
    """Return an error as text that is not empty; a TimeoutError has none of its own."""
    return str(error) or repr(error)


def os_text(error: OSError) -> str:
    """Return a failed system call as text for the user."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def excerpt(text: str) -> str:
    """Quote a part of a file for an error: escaped, and cut after a few words."""
    return repr(text if len(text) <= LONGEST_EXCERPT else f"{text[: LONGEST_EXCERPT - 1]}…")
