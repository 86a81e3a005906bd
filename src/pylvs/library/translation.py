"""How errors of the other packages become those of the library."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping

from pylvs.library.errors import (
    Busy,
    Exists,
    KernelError,
    NoSpace,
    NotFound,
    PermissionNeeded,
    Unsupported,
)
from pylvs.library.invalid import Error, InvalidValue
from pylvs.library.keys import ServerKey, ServiceKey
from pylvs.model import errors as model
from pylvs.model.service import DestinationKey
from pylvs.model.service import ServiceKey as ModelKey

_SPACE = {errno.ENOSPC, errno.ENOMEM}
_PUBLIC_FIELDS = {"method": "forwarding", "netmask": "persistence", "engine": "persistence", "timeout_s": "persistence"}


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
    return ServiceKey.from_model(service), None if server is None else ServerKey.from_model(server)


def from_os(error: OSError) -> Error:
    """Return the library's error for a failed system call."""
    what = f"{error.filename}: " if error.filename else ""
    text = f"{what}{error.strerror or error}"
    if error.errno in (errno.EPERM, errno.EACCES):
        return PermissionNeeded(f"{text}: run it as root")
    return NoSpace(text) if error.errno in _SPACE else KernelError(text, error.errno or 0)
