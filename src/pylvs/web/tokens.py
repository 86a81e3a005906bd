"""`web_tokens`: who may read and operate. The file has the digests of tokens.

Each line is NAME ROLE sha256:HEX [DATE].

A token has 192 random bits, so one round of SHA-256 protects it: no attacker can try enough of them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError

READ, OPERATE = "read", "operate"
ROLES = (READ, OPERATE)
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST = 1 << 20  # bytes of the file
_FORM = "write NAME read|operate sha256:DIGEST [YYYY-MM-DD]; pylvs web --new-token NAME makes a line"
LONGEST_TOKEN = 256  # characters that are worth a digest


@dataclass(frozen=True, slots=True)
class Token:
    """One line of the file; `until` is Unix time, None for ever."""

    name: str
    role: str
    digest: str
    until: float | None = None

    def plain(self) -> dict[str, Any]:
        return {"name": self.name, "role": self.role, "digest": self.digest, "until": self.until}


def digest_of(token: str) -> str:
    return f"sha256:{hashlib.sha256(token.encode(errors='replace')).hexdigest()}"


def new(name: str, role: str = READ, days: int = 0) -> tuple[str, str]:
    """Return a token and its line. Raises PylvsError for a name that no line can have."""
    if not _NAME.fullmatch(name):
        raise PylvsError(f"{name!r} is no name of a token: write letters, digits and . _ @ -")
    token = secrets.token_urlsafe(24)
    last = f" {(datetime.now(UTC) + timedelta(days=days)).date()}" if days else ""
    return token, f"{name} {role} {digest_of(token)}{last}"


def read(path: str) -> tuple[Token, ...]:
    """Return the tokens of a file. Raises PylvsError if it is wrong, or if others than root may read or change it."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(number, encoding="utf-8", errors="replace") as file:
            found = os.fstat(number)
            if not stat.S_ISREG(found.st_mode):
                raise PylvsError(f"web_tokens {path}: is not a regular file")
            if found.st_uid not in (0, os.geteuid()):
                raise PylvsError(f"web_tokens {path}: belongs to user {found.st_uid}: chown root {path}")
            if found.st_mode & 0o077:
                mode = stat.S_IMODE(found.st_mode)
                raise PylvsError(f"web_tokens {path}: others may read or change it (mode {mode:04o}): chmod 600 {path}")
            return parse(file.read(_LONGEST), path)
    except OSError as error:
        raise PylvsError(f"web_tokens {path}: {error.strerror}") from None


def parse(text: str, path: str) -> tuple[Token, ...]:
    """Return the tokens of a text. Raises PylvsError that names the line."""
    found: dict[str, Token] = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"web_tokens {path}:{number}"
        if len(words) not in (3, 4) or not _NAME.fullmatch(words[0]) or not _DIGEST.fullmatch(words[2]):
            raise PylvsError(f"{where}: is no token: {_FORM}")
        name, role, digest, *last = words
        if role not in ROLES:
            raise PylvsError(f"{where}: {role[:40]!r} is no role: write read or operate")
        if name in found:
            raise PylvsError(f"{where}: {name} is there twice: give each token a name of its own")
        found[name] = Token(name, role, digest, _end_of(last[0], where) if last else None)
    if not found:
        raise PylvsError(f"web_tokens {path}: has no token: {_FORM}")
    return tuple(found.values())


def _end_of(text: str, where: str) -> float:
    """Return the end of a day, in UTC."""
    try:
        last = date.fromisoformat(text)
        return datetime.combine(last + timedelta(days=1), time(), UTC).timestamp()
    except (ValueError, OverflowError):
        raise PylvsError(f"{where}: {text[:40]!r} is no date: write the last day as YYYY-MM-DD") from None


State = Literal["valid", "expired", "unknown"]


def find(tokens: Iterable[Token], presented: str, now: float) -> tuple[Token | None, State]:
    """Return the token and whether it is valid now. Each digest is compared, in constant time."""
    if not presented or len(presented) > LONGEST_TOKEN:
        return None, "unknown"
    digest, found = digest_of(presented), None
    for known in tokens:
        if hmac.compare_digest(known.digest, digest):
            found = known
    if found is None:
        return None, "unknown"
    return (found, "valid") if found.until is None or now < found.until else (None, "expired")
