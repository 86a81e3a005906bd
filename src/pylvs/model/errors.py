"""What can go wrong, as values with an errno; the commands turn them into one line and an exit status.

The errno is the one that IPVS answers with (IPVS-SEMANTICS 1.3 to 1.5), so that ipvsadm can choose its own words.
"""

from __future__ import annotations

import errno


class PylvsError(Exception):
    """Base of all errors a user can cause or must know about; the text says what is wrong and what to do."""

    errno = errno.EINVAL


class ServiceExists(PylvsError):
    """Adding a service whose key is taken."""

    errno = errno.EEXIST


class NoSuchService(PylvsError):
    """Editing, deleting or zeroing a service, or changing a destination of one, that is not there."""

    errno = errno.ESRCH


class DestinationExists(PylvsError):
    """Adding a destination that the service already has."""

    errno = errno.EEXIST


class NoSuchDestination(PylvsError):
    """Editing or deleting a destination that the service does not have."""

    errno = errno.ENOENT


class NoSuchScheduler(PylvsError):
    """A scheduler or a persistence engine that the data plane does not have."""

    errno = errno.ENOENT


class OutOfRange(PylvsError):
    """A weight or threshold beyond its limits."""

    errno = errno.ERANGE


class InvalidOperation(PylvsError):
    """Anything IPVS answers with EINVAL: an address that is not unicast, mixed families without a tunnel..."""

    errno = errno.EINVAL


class NotPermitted(PylvsError):
    """The process lacks a privilege; the text says which."""

    errno = errno.EPERM


class NoRoom(PylvsError):
    """A table is full, or memory for it is not to be had."""

    errno = errno.ENOMEM


class NoSuchDevice(PylvsError):
    """A network device that is not there."""

    errno = errno.ENODEV


class Unsupported(PylvsError):
    """This kernel or this machine lacks something that pylvs needs; the text names it."""

    errno = errno.EOPNOTSUPP


class Busy(PylvsError):
    """The change must wait: connections live, or somebody else's program is there."""

    errno = errno.EBUSY


class NoSuchSetting(PylvsError):
    """A sysctl that does not exist here; the text lists near ones."""

    errno = errno.ENOENT
