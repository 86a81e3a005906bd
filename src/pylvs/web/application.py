"""The page's URLs: who may use them, what they reply, and headers that keep a browser from running what it shows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pylvs import __version__
from pylvs.model.dataclass import dataclass, field
from pylvs.system.http.server import Refusal, Request, Response, Stream, json_response
from pylvs.system.logs import one_line
from pylvs.web import plain
from pylvs.web.asked import EDITS
from pylvs.web.daemon import Daemon, Who, decoded
from pylvs.web.files import Files
from pylvs.web.live import CONTENT_TYPE, Hub, frame
from pylvs.web.rings import REACH_S
from pylvs.web.snapshot import Given, number
from pylvs.web.tokens import OPERATE, READ, Token, find
from pylvs.web.views import LIVE, Views, encoded

COOKIE = "pylvs_token"
HEADER = "x-pylvs"  # a page of another site cannot send it without asking first, and is refused
API = "/api/v1/"
HTML = "text/html; charset=utf-8"
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_NO_STORE = {"Cache-Control": "no-store"}
_FAILED_S = 1.0  # a wrong token is answered after that
_MOST_FORM = 4096  # bytes
_MOST_RECORDS = 1000  # that wait for the client; a trace has at most 200
_POLL_S = 5.0  # for the client and the token of a trace, without samples
_DRAWN = ("file", "findings", "effective")


@dataclass(frozen=True, slots=True)
class Session:
    """Who sent a request. Without tokens in force, each user of this host reads."""

    who: str = ""
    role: str = ""
    until: float | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the parent has configured."""

    tls: bool = False
    url: str = ""
    tokens: Sequence[Token] | None = None

    @property
    def prefix(self) -> str:
        """The path of `url` without its last slash."""
        return urlsplit(self.url).path.rstrip("/")

    @property
    def secure(self) -> bool:
        return self.tls or self.url.startswith("https:")


class Application:
    """Handles the requests of browsers."""

    def __init__(self, daemon: Daemon, log: Callable[[str, str], None], files: Files) -> None:
        """`log` gets a level and a line; `files` are those of the page."""
        self.settings = Settings()
        self._daemon, self._log = daemon, log
        self._views = Views(daemon)
        self._hub = Hub(self._views)
        self._files = files
        self._examining: asyncio.Task[None] | None = None

    async def handle(self, request: Request) -> Response | Stream:
        """Return the response with the headers for browsers. Raises nothing that is refused."""
        try:
            response = await self._routed(request)
        except Refusal as refusal:
            response = self._refused(request, refusal)
        headers = {**_NO_STORE, **response.headers, **SECURITY}
        if isinstance(response, Stream):
            return Stream(response.parts, response.content_type, response.close, {**headers, "X-Accel-Buffering": "no"})
        return Response(response.body, response.status, response.content_type, headers)

    @staticmethod
    def _refused(request: Request, refusal: Refusal) -> Response:
        if API in request.path or request.method == "POST":
            return refusal.response()
        return Response(plain.problem(refusal.text), refusal.status, HTML)

    async def _routed(self, request: Request) -> Response | Stream:
        """Raises Refusal."""
        if request.method not in ("GET", "HEAD", "POST"):
            text = f"{request.method[:20]}: use GET or POST"
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, text, {"Allow": "GET, HEAD, POST"})
        self._check_host(request)
        path = self._within(request.path)
        if path is None:
            return Response(b"", HTTPStatus.PERMANENT_REDIRECT, HTML, {"Location": self.settings.prefix + "/"})
        if path.startswith(API):
            return await self._api(request, path.removeprefix(API))
        if request.method == "POST":
            raise Refusal(HTTPStatus.NOT_FOUND, "there is no such page")
        if path == "/plain":
            return await self._plain(request)
        name = path.removeprefix("/") or "index.html"
        found = self._files.response(name, request.headers.get("if-none-match", ""))
        if found is not None:
            return found
        if name == "index.html":
            return await self._plain(request)
        raise Refusal(HTTPStatus.NOT_FOUND, "there is no such page")

    def _within(self, path: str) -> str | None:
        """Return a path without the prefix, which a proxy may have removed; None for the prefix without a slash."""
        prefix = self.settings.prefix
        if prefix and path == prefix:
            return None
        return path.removeprefix(prefix) if prefix and path.startswith(prefix + "/") else path

    def _check_host(self, request: Request) -> None:
        """Refuse another name of this host while no token is needed: a foreign page could have chosen it.

        That is DNS rebinding: the browser would show our replies to that page. Raises Refusal.
        """
        if self.settings.tokens is not None:
            return
        name = _host_name(request.headers.get("host", ""))
        if name and name in ("localhost", urlsplit(self.settings.url).hostname):
            return
        with contextlib.suppress(ValueError):
            if ip_address(name).is_loopback:
                return
        text = "this page is for localhost; with a proxy, write its URL as web_url"
        raise Refusal(HTTPStatus.MISDIRECTED_REQUEST, text)

    # --- who ---

    def session(self, request: Request) -> tuple[Session, str]:
        """Return who sent a request, and why that is not known."""
        if self.settings.tokens is None:
            return Session(role=READ), ""
        presented = _presented(request.headers)
        found, state = find(self.settings.tokens, presented, time.time())
        if found is None:
            return Session(), f"the token is {state}: sign in again" if presented else "sign in with a token"
        return Session(found.name, found.role, found.until, presented), ""

    def _signed_in(self, request: Request) -> Session:
        """Raises Refusal."""
        session, problem = self.session(request)
        if problem:
            raise Refusal(HTTPStatus.UNAUTHORIZED, problem, {"WWW-Authenticate": 'Bearer realm="pylvs"'})
        return session

    def _encoded(self, session: Session) -> dict[str, Any]:
        return {
            "who": session.who,
            "role": session.role,
            "until": session.until,
            "needs_token": self.settings.tokens is not None,
            "version": __version__,
            "secure": self.settings.secure,
            "operations": session.role == OPERATE,
        }

    def _check_origin(self, request: Request) -> None:
        """Refuse what a page of another site sends. Raises Refusal."""
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        if site is not None:
            is_own = site in ("same-origin", "none")
        elif origin is not None:
            schemes = ("http://", "https://")  # a proxy may have ended TLS
            hosts = [request.headers.get("host", ""), urlsplit(self.settings.url).netloc]
            is_own = origin in [scheme + host for scheme in schemes for host in hosts if host]
        else:
            return  # no browser
        if not is_own:
            raise Refusal(HTTPStatus.FORBIDDEN, "the request comes from another site; with a proxy, set web_url")

    # --- the API ---

    async def _api(self, request: Request, name: str) -> Response | Stream:
        """Raises Refusal."""
        if request.method == "POST":
            return await self._posted(request, name)
        if name == "session":
            return json_response(self._encoded(self.session(request)[0]))
        session = self._signed_in(request)
        if name == "live":
            return self._live(request, session)
        if name == "trace":
            return self._trace(request, session)
        if name == "configuration":
            return json_response(await self._configuration(request, session))
        return Response(await self._views.encoded(name, request.query) + b"\n")

    async def _posted(self, request: Request, name: str) -> Response:
        """Raises Refusal."""
        self._check_origin(request)
        if name == "login":
            return await self._login(request)
        if HEADER not in request.headers:
            raise Refusal(HTTPStatus.FORBIDDEN, f"send the header {HEADER}: 1, as the page does")
        if name == "logout":
            return json_response({}, headers={"Set-Cookie": self._cookie("", 0)})
        session = self._signed_in(request)
        if session.role != OPERATE:
            more = "" if self.settings.tokens is not None else ", and web_tokens"
            raise Refusal(HTTPStatus.FORBIDDEN, f"{name[:50]}: that needs a token with the role operate{more}")
        content = _json_object(request)
        if name == "doctor":
            return self._examine(request, session)
        if name not in EDITS:
            raise Refusal(HTTPStatus.NOT_FOUND, f"there is no operation {name[:100]}")
        status, body = await self._daemon.ask("POST", EDITS[name], content, self._who(request, session))
        self._daemon.wake()
        return Response(body, status)

    async def _login(self, request: Request) -> Response:
        """Raises Refusal."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        is_form = kind == "application/x-www-form-urlencoded"
        if is_form:
            form = dict(parse_qsl(request.body[:_MOST_FORM].decode(errors="replace")))
        else:
            if HEADER not in request.headers:
                raise Refusal(HTTPStatus.FORBIDDEN, f"send the header {HEADER}: 1, as the page does")
            form = _json_object(request)
        token = str(form.get("token", "")).strip()
        found, state = find(self.settings.tokens or (), token, time.time())
        if found is None:
            self._log("warning", f"sign-in with a token that is {state}, from {_client(request)}")
            await asyncio.sleep(_FAILED_S)
            text = f"the token is {state}"
            if is_form:
                return Response(plain.sign_in(text, "login"), HTTPStatus.UNAUTHORIZED, HTML)
            raise Refusal(HTTPStatus.UNAUTHORIZED, text)
        self._log("info", f"{found.name} signed in, from {_client(request)}")
        life_s = None if found.until is None else max(1, int(found.until - time.time()))
        headers = {"Set-Cookie": self._cookie(token, life_s)}
        if is_form:
            return Response(b"", HTTPStatus.SEE_OTHER, HTML, {**headers, "Location": "../../plain"})
        return json_response(self._encoded(Session(found.name, found.role, found.until)), headers=headers)

    def _cookie(self, value: str, life_s: int | None) -> str:
        parts = [f"{COOKIE}={value}", f"Path={self.settings.prefix}/", "HttpOnly", "SameSite=Strict"]
        parts += [] if life_s is None else [f"Max-Age={life_s}"]
        return "; ".join([*parts, "Secure"] if self.settings.secure else parts)

    @staticmethod
    def _who(request: Request, session: Session) -> Who:
        return {"token": session.token, "client": _client(request)}

    def _live(self, request: Request, session: Session) -> Stream:
        """Raises Refusal."""
        query = dict(request.query)
        view = query.pop("view", "")
        if view and view not in LIVE:
            raise Refusal(HTTPStatus.NOT_FOUND, f"there is no live view {view[:100]}")
        hello = {"session": self._encoded(session), "history_s": REACH_S, "period_s": self._daemon.period_s}
        return Stream(self._hub.page(hello, view, query, lambda: self.session(request)[1]), CONTENT_TYPE)

    async def _configuration(self, request: Request, session: Session) -> dict[str, Any]:
        """Return what `pylvs check --show` finds in the file on disk, and how it differs. Raises Refusal."""
        status = self._views.snapshot.status
        reply = await self._daemon.run("configuration", {}, self._who(request, session), lambda _: None)
        found = decoded(*reply)
        names = "files", "loaded_at", "errors", "differs"
        return {**{name: status[name] for name in names}, **{name: found.get(name) for name in _DRAWN}}

    def _examine(self, request: Request, session: Session) -> Response:
        """Begin `pylvs doctor`. Raises Refusal."""
        if self._examining is not None and not self._examining.done():
            raise Refusal(HTTPStatus.CONFLICT, "doctor runs already: wait for its end")
        who = self._who(request, session)
        self._views.doctor = {**self._views.doctor, "running": True, "by": session.who}
        self._examining = asyncio.get_running_loop().create_task(self._examination(session.who, who))
        return json_response({"running": True}, HTTPStatus.ACCEPTED)

    async def _examination(self, name: str, who: Who) -> None:
        report, error = None, ""
        try:
            report = decoded(*await self._daemon.run("doctor", {}, who, lambda _: None))
        except Refusal as refusal:
            error = refusal.text
        finally:
            found = {"running": False, "at": time.time(), "by": name, "report": report, "error": error}
            self._views.doctor = found

    def _trace(self, request: Request, session: Session) -> Stream:
        """Raises Refusal."""

        def problem() -> str:
            present, reason = self.session(request)
            return reason or ("" if present.role == OPERATE else "trace: that needs a token with the role operate")

        if reason := problem():
            raise Refusal(HTTPStatus.FORBIDDEN, reason)
        self._check_origin(request)
        return Stream(self._records(request.query, self._who(request, session), problem), CONTENT_TYPE)

    async def _records(self, given: Given, who: Who, problem: Callable[[], str]) -> AsyncIterator[bytes]:
        """Yield the records of a trace, and at last why it ended. It ends with its client, and with a `problem`."""
        records: deque[str] = deque()
        with self._hub.opened() as more:

            def put(record: str) -> None:
                if len(records) < _MOST_RECORDS:
                    records.append(record)
                more.set()

            def ended(task: asyncio.Task[tuple[int, bytes]]) -> None:
                if not task.cancelled():
                    task.exception()  # the loop reports an error that nothing takes, and that ends this process
                more.set()

            running = asyncio.get_running_loop().create_task(self._daemon.run("trace", dict(given), who, put))
            running.add_done_callback(ended)
            try:
                while not (reason := problem()):
                    more.clear()
                    if records:
                        yield frame("record", records.popleft().encode())
                        continue
                    if running.done():
                        reason = _end_of(running)
                        break
                    yield b":\n\n"  # a client that has disconnected is noticed by what it gets
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_POLL_S):
                            await more.wait()
                yield frame("end", encoded({"reason": reason}))
            finally:
                running.cancel()

    # --- the plain page ---

    async def _plain(self, request: Request) -> Response:
        _, problem = self.session(request)
        if problem:
            return Response(plain.sign_in(problem, "api/v1/login"), HTTPStatus.UNAUTHORIZED, HTML)
        self._daemon.wake()
        given = {"at": str(number(request.query, "at", 0, 10_000_000))}
        snapshot, state = self._views.snapshot, self._daemon.state.encoded()
        if "service" in request.query:
            view = await self._views.service({"name": request.query["service"], **given})
            return Response(plain.service(state, snapshot.at, view), content_type=HTML)
        events = (await self._views.events({"limit": "50"}))["events"]
        services = snapshot.view_services(given)
        return Response(plain.overview(state, snapshot.overview, services, snapshot.drains, events), content_type=HTML)


def _end_of(running: asyncio.Task[tuple[int, bytes]]) -> str:
    """Return why a trace has ended."""
    try:
        decoded(*running.result())
    except Refusal as refusal:
        return refusal.text
    return "the end of the trace: its time or its number of packets"


def _presented(headers: Mapping[str, str]) -> str:
    """Return the token of a request: of a program's Authorization, or of a browser's cookie."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    for pair in headers.get("cookie", "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _client(request: Request) -> str:
    """Return the client's address, and what a proxy claims."""
    claimed = one_line(request.headers.get("x-forwarded-for", ""))[:100]
    return f"{request.user} for {claimed}" if claimed else str(request.user)


def _host_name(text: str) -> str:
    """Return the name of a Host field, without port and brackets."""
    try:
        return urlsplit(f"//{text}").hostname or ""
    except ValueError:
        return ""


def _json_object(request: Request) -> dict[str, Any]:
    """Raises Refusal."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if request.body.strip() and kind != "application/json":  # a form of another site cannot have it
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
    try:
        content = json.loads(request.body) if request.body.strip() else {}
    except (ValueError, RecursionError):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the body is no JSON") from None
    if not isinstance(content, dict):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the body must be a JSON object")
    return content
