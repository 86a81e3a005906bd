"""What the process of the web page may ask its parent for, and which role each request needs.

The parent checks it. So a process in an attacker's hands reads what the page shows. It operates only with a token of a
user who may.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pylvs.model.dataclass import dataclass
from pylvs.system.logs import one_line
from pylvs.system.processes.channel import BadMessage
from pylvs.web import tokens
from pylvs.web.tokens import OPERATE, Token

WHO, CLIENT, ROLE = "pylvs-who", "pylvs-client", "pylvs-role"  # headers of a request to the daemon
READS = (
    *("/v1/status", "/v1/counters", "/v1/drains", "/v1/vrrp", "/v1/vrrp/why", "/v1/drops", "/v1/show", "/v1/history"),
    *("/v1/differences", "/v1/client-rules/page"),
)
# The page's name of an operation -> its path.
EDITS: Mapping[str, str] = {
    **{name: f"/v1/{name}" for name in ("drain", "enable", "disable", "weight", "check-now", "reload")},
    "yield": "/v1/vrrp/yield",
    "resume": "/v1/vrrp/resume",
    "peer-copy": "/v1/peer/copy",
    **{f"client-rules-{name}": f"/v1/client-rules/{name}" for name in ("add", "delete", "replace")},
}
JOBS: Mapping[str, bool] = {"doctor": True, "trace": True, "configuration": False}  # whether each needs `operate`
_LONGEST = 300  # characters of a name


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to the daemon's API. `who` is the name of the token, "" without tokens."""

    method: str
    path: str
    given: Mapping[str, Any]
    who: str
    client: str
    role: str

    def headers(self) -> dict[str, str]:
        return {WHO: self.who, CLIENT: self.client, ROLE: self.role} if self.who else {}


Answer = tuple[int, bytes]  # the status of HTTP, and a body of JSON
Send = Callable[[Ask], Awaitable[Answer]]


class Refused(Exception):
    """A request that the parent does not pass on."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Rights:
    """The tokens in force; None: each user of this host may read."""

    def __init__(self, known: Sequence[Token] | None) -> None:
        self.known = known

    def of(self, presented: str) -> tuple[str, str]:
        """Return name and role. Raises Refused."""
        if self.known is None:
            return "", tokens.READ
        found, state = tokens.find(self.known, presented, time.time())
        if found is None:
            raise Refused(HTTPStatus.UNAUTHORIZED, f"the token is {state}: sign in with a valid one")
        return found.name, found.role

    def ask(self, message: Mapping[str, Any]) -> Ask:
        """Return the request of a message. Raises Refused, BadMessage."""
        method, path, given = message.get("method"), message.get("path"), message.get("given")
        if not isinstance(method, str) or not isinstance(path, str) or not isinstance(given, dict):
            raise BadMessage("a request without its fields")
        if (method, path) not in _ALLOWED:
            raise BadMessage("a request that the page does not have")
        who, role = self._checked(message, method != "GET", f"{path}: an edit")
        return Ask(method, path, given, who, client_of(message), role)

    def job(self, message: Mapping[str, Any]) -> str:
        """Return the name of the token. Raises Refused, BadMessage."""
        kind = str(message.get("job"))
        if kind not in JOBS:
            raise BadMessage("a job that the page does not have")
        return self._checked(message, JOBS[kind], f"{kind} probes this host and its network")[0]

    def _checked(self, message: Mapping[str, Any], operates: bool, why: str) -> tuple[str, str]:
        if message.get("sample") is True and not operates:  # of the process itself, for all pages
            return "", tokens.READ
        who, role = self.of(str(message.get("token", "")))
        if operates and role != OPERATE:
            text = f"{why}: that needs a token with the role operate"
            raise Refused(HTTPStatus.FORBIDDEN, text if self.known is not None else f"{text}, and web_tokens")
        return who, role


_ALLOWED = {*(("GET", each) for each in READS), *(("POST", each) for each in EDITS.values())}


def client_of(message: Mapping[str, Any]) -> str:
    """Return where a request came from, as the process reports it."""
    return one_line(str(message.get("client", "")))[:_LONGEST]
