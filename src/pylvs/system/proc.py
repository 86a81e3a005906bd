"""Sysctls under /proc/sys. Names use slashes, because device names may contain dots."""

from __future__ import annotations

from pathlib import Path

from pylvs.model.errors import NotPermitted, Unsupported

ROOT = Path("/proc/sys")


def exists(name: str) -> bool:
    """Return whether this kernel and network namespace have the setting."""
    return (ROOT / name).exists()


def read(name: str) -> str:
    """Return the value without its newline. Raises Unsupported where there is no such setting."""
    try:
        return (ROOT / name).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise Unsupported(f"{name}: this kernel has no such setting") from None


def read_number(name: str) -> int:
    """Return the value of a setting that is one number."""
    return int(read(name))


def write(name: str, value: str) -> None:
    """Set a value. Raises NotPermitted, Unsupported."""
    try:
        (ROOT / name).write_text(value, encoding="ascii")
    except FileNotFoundError:
        raise Unsupported(f"{name}: this kernel has no such setting") from None
    except PermissionError:
        raise NotPermitted(
            f"{name}: may not be written; be root, and in a container mount /proc/sys writable"
        ) from None
    except OSError as error:
        raise Unsupported(f"{name}={value}: {error.strerror}") from None


def dotted(name: str) -> str:
    """Return the name in the syntax of sysctl(8): dots for slashes, and slashes for dots."""
    return name.translate(str.maketrans("/.", "./"))
