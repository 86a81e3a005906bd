"""Where a daemon runs: its network namespaces, and the names of its files among those of other daemons.

The configuration names them (`net_namespace`, `net_namespace_ipvs`, `instance`), so a part of it is read first. The
daemon enters its namespace before it opens anything and before it starts a thread: setns(2) moves one thread.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pylvs.model.errors import PylvsError, Unsupported, needs_root
from pylvs.model.wanted import Configuration, Placement
from pylvs.system import namespaces

FIXED = ("net_namespace", "net_namespace_ipvs", "instance")  # cannot change while the daemon runs


def enter(placement: Placement) -> str:
    """Enter the daemon's network namespace; return the file of the tables' namespace, "" if it is the same.

    Call it while this process has one thread. Raises PylvsError naming the keyword.
    """
    start = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    tables = placement.net_namespace_ipvs
    # This process keeps the descriptor: the namespace of the start may have no name.
    path = f"/proc/{os.getpid()}/fd/{start}" if tables == "" else f"{namespaces.NAMED}/{tables}"
    identity = None if tables is None else _identity("net_namespace_ipvs", tables, path)
    if placement.net_namespace:
        _join("net_namespace", placement.net_namespace)
    if identity is None or identity == _identity("net_namespace", "", "/proc/self/ns/net"):
        os.close(start)
        return ""
    if tables:
        os.close(start)
    return path


def enter_named(name: str) -> None:
    """Enter a network namespace by its name, for a command. Raises PylvsError."""
    if "/" in name or name in ("", ".", ".."):
        raise Unsupported(f"--namespace '{name}' is not the name of a network namespace; see ip netns list")
    _join("--namespace", name)


def enter_tables(path: str) -> None:
    """Let the calling thread enter the tables' namespace. Raises PylvsError."""
    try:
        namespaces.join(path, namespaces.Kind.NETWORK)
    except OSError as error:
        raise _refused("net_namespace_ipvs", Path(path).name, error) from None


def _join(keyword: str, name: str) -> None:
    try:
        namespaces.join(namespaces.NAMED / name, namespaces.Kind.NETWORK)
    except OSError as error:
        raise _refused(keyword, name, error) from None


def _identity(keyword: str, name: str, path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _refused(keyword, name, error) from None
    return status.st_dev, status.st_ino


def _refused(keyword: str, name: str, error: OSError) -> PylvsError:
    path = namespaces.NAMED / name
    if error.errno == errno.ENOENT:
        return Unsupported(f"{keyword} {name}: there is no {path}; make it with: ip netns add {name}")
    if error.errno == errno.EPERM:
        return needs_root(f"{keyword} {name}")
    if error.errno == errno.EINVAL:
        return Unsupported(f"{keyword} {name}: {path} is no network namespace; remove it, then: ip netns add {name}")
    return Unsupported(f"{keyword} {name}: {path}: {error.strerror}")


def changed(configuration: Configuration, placement: Placement) -> str:
    """Return the keyword of a place that differs from where the daemon runs; "" if none does."""
    wanted = configuration.settings.placement
    return next((name for name in FIXED if getattr(wanted, name) != getattr(placement, name)), "")
