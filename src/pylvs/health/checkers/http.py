"""HTTP_GET and SSL_GET: every page has the expected status, digest and text.

The request is keepalived's, byte for byte, because servers' rules may depend on it. Redirects are not followed. As in
keepalived each page has its own connection and the whole timeout.
"""

from __future__ import annotations

import asyncio

from pylvs.health.checkers import CheckContext
from pylvs.health.checkers.http_response import BodyTooLong, HttpResponse, ResponseReader, read_body
from pylvs.health.checkers.sockets import Deadline, Endpoint
from pylvs.health.checkers.tcp_stream import TcpStream
from pylvs.health.outcome import Outcome, Probe, ProbeFailed, constant_probe
from pylvs.model.addresses import endpoint as written
from pylvs.model.checks import HttpCheck, Url
from pylvs.model.errors import PylvsError
from pylvs.system.pcre2 import MatchFailed, Regex

_SEARCH_IN_LOOP = 1 << 16  # bytes; longer texts are searched in a thread
_CONNECTION = {"C": "close", "K": "keep-alive"}


def probe(check: HttpCheck, context: CheckContext) -> Probe:
    """Return a probe that gets the pages one after another, until one fails."""
    endpoint = Endpoint(check.target)
    try:
        pages = [_Page(check, url, endpoint, context.virtualhost) for url in check.urls]
    except PylvsError as error:
        return constant_probe(Outcome(False, str(error)))

    async def ask() -> Outcome:
        reasons = []
        for page in pages:
            try:
                reasons.append(await page.good())
            except ProbeFailed as error:
                path = f"{page.path}: " if len(pages) > 1 else ""
                raise ProbeFailed(f"{path}{error}", error.inconclusive) from None
        return Outcome(True, "; ".join(dict.fromkeys(reasons)))

    return ask


def request(check: HttpCheck, url: Url, virtualhost: str) -> bytes:
    """Return the request. A letter after the version sets Connection: C is close, K keep-alive; 1.1 alone means C."""
    version, letter = check.protocol[:3], check.protocol[3:].upper()
    connection = _CONNECTION.get(letter or ("C" if version == "1.1" else ""))
    lines = [f"GET {url.path} HTTP/{version}", "User-Agent: KeepAliveClient"]
    if connection:
        lines.append(f"Connection: {connection}")
    lines.append(f"Host: {virtualhost or written(check.target.address, check.target.port)}")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode(errors="surrogateescape")


class _Page:
    """One page of a check. Raises PylvsError for an invalid regular expression."""

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
        """Get the page, and return why it is good. Raises ProbeFailed."""
        deadline = Deadline(self._timeout_s)
        with await TcpStream.open(self._endpoint, deadline) as stream:
            stream.close_notify = self._url.tls_compliant
            if self._tls:
                await stream.start_tls(self._server_name)
            await stream.send(self._request)
            reader = ResponseReader(stream)
            response = await reader.head()
            self._judge_status(response)
            try:
                await read_body(reader, response, bool(self._digest), self._regex is not None)
            except BodyTooLong as error:
                if self._digest or self._regex:
                    raise
                response.remark = f"{error}, not read on"
        self._judge_digest(response)
        await self._judge_text(response)
        return f"status {response.status}" + (f" ({response.remark})" if response.remark else "")

    def _judge_status(self, response: HttpResponse) -> None:
        if not any(first <= response.status <= last for first, last in self._url.statuses):
            good = " ".join(f"{first}-{last}" if first != last else f"{first}" for first, last in self._url.statuses)
            raise ProbeFailed(f"status {response.status}, not {good}")

    def _judge_digest(self, response: HttpResponse) -> None:
        if self._digest and self._digest not in response.digests:
            remark = f" ({response.remark})" if response.remark else ""
            raise ProbeFailed(f"digest {response.digests[0]}, not {self._digest}{remark}")

    async def _judge_text(self, response: HttpResponse) -> None:
        """Search the regular expression in the body, and unless regex_no_match in header and body. Raises ProbeFailed.

        keepalived searches header and body if they arrive in one packet, else the body only.
        """
        if self._regex is None:
            return
        found = await self._found(response.body)
        if not found and not self._url.regex_no_match:
            found = await self._found(response.head + response.body)
        if found is self._url.regex_no_match:
            raise ProbeFailed(f"the text {'matches' if found else 'does not match'} '{self._url.regex}'")

    async def _found(self, text: bytes) -> bool:
        assert self._regex is not None
        arguments = (text, self._url.regex_min_offset, self._url.regex_max_offset or None)
        try:
            if len(text) <= _SEARCH_IN_LOOP:
                return self._regex.matches(*arguments)
            return await asyncio.get_running_loop().run_in_executor(None, self._regex.matches, *arguments)
        except MatchFailed as error:
            raise ProbeFailed(f"'{self._url.regex}': {error}") from None


def _without_port(host: str) -> str:
    """Return the name in a Host header."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and ":" not in name else host
