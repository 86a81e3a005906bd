"""HTTP_GET and SSL_GET: every page answers with a status, a digest and a text as it should.

The request is keepalived's, byte for byte, as servers' logs and rules may know it. Redirects are not followed. Each
page has a connection and the check's whole timeout to itself, as each connection of keepalived has.
"""

from __future__ import annotations

import asyncio

from pylvs.health.checkers.context import Context
from pylvs.health.checkers.conversation import Conversation
from pylvs.health.checkers.failures import CheckFailed
from pylvs.health.checkers.http_answer import Answer, Reader, TooLong, read_body
from pylvs.health.checkers.sockets import Endpoint, Limit
from pylvs.health.outcome import Outcome, Probe
from pylvs.model.addresses import endpoint as written
from pylvs.model.checks import HttpCheck, Url
from pylvs.model.errors import PylvsError
from pylvs.system.pcre2 import MatchFailed, Regex

_AT_ONCE = 1 << 16  # bytes in which an expression is searched without leaving the event loop's thread
_CONNECTION = {"C": "close", "K": "keep-alive"}


def probe(check: HttpCheck, context: Context) -> Probe:
    """Asks for the pages one after another, as far as all is well."""
    endpoint = Endpoint(check.target)
    try:
        pages = [_Page(check, url, endpoint, context.virtualhost) for url in check.urls]
    except PylvsError as error:
        return _always(Outcome(False, str(error)))

    async def ask() -> Outcome:
        reasons = []
        for page in pages:
            try:
                reasons.append(await page.good())
            except CheckFailed as error:
                path = f"{page.path}: " if len(pages) > 1 else ""
                return Outcome(False, f"{path}{error}", inconclusive=error.inconclusive)
        return Outcome(True, "; ".join(dict.fromkeys(reasons)))

    return ask


def _always(outcome: Outcome) -> Probe:
    async def ask() -> Outcome:
        return outcome

    return ask


def request(check: HttpCheck, url: Url, virtualhost: str) -> bytes:
    """What is sent. An HTTP version's letter chooses the Connection field: C close, K keep-alive; 1.1 alone closes."""
    version, letter = check.protocol[:3], check.protocol[3:].upper()
    connection = _CONNECTION.get(letter or ("C" if version == "1.1" else ""))
    lines = [f"GET {url.path} HTTP/{version}", "User-Agent: KeepAliveClient"]
    if connection:
        lines.append(f"Connection: {connection}")
    lines.append(f"Host: {virtualhost or written(check.target.address, check.target.port)}")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode(errors="surrogateescape")


class _Page:
    """One page of a check, with all that is the same each time. Raises PylvsError for an impossible expression."""

    def __init__(self, check: HttpCheck, url: Url, endpoint: Endpoint, virtualhost: str) -> None:
        self._endpoint, self._timeout_s = endpoint, check.pace.timeout_s
        self._url, self._tls = url, check.tls
        host = url.virtualhost or check.virtualhost or virtualhost
        self._request = request(check, url, host)
        self._server_name = check.sni_name or (_without_port(host) if check.sni else "")
        self._regex = Regex(url.regex.encode(errors="surrogateescape"), url.regex_options) if url.regex else None
        self._digest = url.digest.lower()
        self.path = url.path

    async def good(self) -> str:
        """Why the page is good. Raises CheckFailed if it is not."""
        limit = Limit(self._timeout_s)
        with await Conversation.open(self._endpoint, limit) as conversation:
            conversation.close_notify = self._url.tls_compliant
            if self._tls:
                await conversation.start_tls(self._server_name)
            await conversation.send(self._request)
            reader = Reader(conversation)
            answer = await reader.head()
            self._judge_status(answer)
            try:
                await read_body(reader, answer, bool(self._digest), self._regex is not None)
            except TooLong as error:
                if self._digest or self._regex:
                    raise
                answer.remark = f"{error}, not read on"
        self._judge_digest(answer)
        await self._judge_text(answer)
        return f"status {answer.status}" + (f" ({answer.remark})" if answer.remark else "")

    def _judge_status(self, answer: Answer) -> None:
        if not any(first <= answer.status <= last for first, last in self._url.statuses):
            good = " ".join(f"{first}-{last}" if first != last else f"{first}" for first, last in self._url.statuses)
            raise CheckFailed(f"status {answer.status}, not {good}")

    def _judge_digest(self, answer: Answer) -> None:
        if self._digest and self._digest not in answer.digests:
            remark = f" ({answer.remark})" if answer.remark else ""
            raise CheckFailed(f"digest {answer.digests[0]}, not {self._digest}{remark}")

    async def _judge_text(self, answer: Answer) -> None:
        """The expression must be found in the body, or in head and body together; or, told so, not in the body.

        keepalived searches head and body together where they came in one packet, else the body alone.
        """
        if self._regex is None:
            return
        found = await self._found(answer.body)
        if not found and not self._url.regex_no_match:
            found = await self._found(answer.head + answer.body)
        if found is self._url.regex_no_match:
            raise CheckFailed(f"the text {'matches' if found else 'does not match'} '{self._url.regex}'")

    async def _found(self, text: bytes) -> bool:
        assert self._regex is not None
        arguments = (text, self._url.regex_min_offset, self._url.regex_max_offset or None)
        try:
            if len(text) <= _AT_ONCE:
                return self._regex.matches(*arguments)
            return await asyncio.get_running_loop().run_in_executor(None, self._regex.matches, *arguments)
        except MatchFailed as error:
            raise CheckFailed(f"'{self._url.regex}': {error}") from None


def _without_port(host: str) -> str:
    """The name of a Host field."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and ":" not in name else host
