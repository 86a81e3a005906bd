"""The base of the library's errors, and the error of a value that no table accepts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address


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
