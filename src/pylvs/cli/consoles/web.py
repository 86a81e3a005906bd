"""`pylvs web`: serve the web page beside a running daemon, or make a token for `web_tokens`."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlencode

import click

from pylvs.cli.common import address_and_port, state_dir
from pylvs.daemon.api.client import Client
from pylvs.daemon.tasks import signal_handlers
from pylvs.model.addresses import endpoint
from pylvs.model.errors import PylvsError
from pylvs.model.wanted import WebSettings
from pylvs.system.http.lines import json_line
from pylvs.system.logs import set_up
from pylvs.system.threads import to_thread
from pylvs.web.asked import Answer, Ask
from pylvs.web.jobs import Jobs
from pylvs.web.parent import WebParent
from pylvs.web.tokens import OPERATE, READ, ROLES, Token, digest_of, new

DEFAULT_ADDRESS = "127.0.0.1:8480"
_RETRY_S = 2.0  # of the stream of events, while no daemon answers
_MOST_UNREAD = 1000  # lines of events
_POLL_S = 0.5
_FILE = click.Path(dir_okay=False, resolve_path=True)


@click.command()
@click.option("--address", default=DEFAULT_ADDRESS, metavar="ADDRESS:PORT", show_default=True, help="Serve it there.")
@click.option("--certificate", type=_FILE, help="As web_certificate: TLS with this certificate.")
@click.option("--key", type=_FILE, help="As web_key: its key, if the certificate's file has none.")
@click.option("--tokens", type=_FILE, help="As web_tokens: who may read and operate.")
@click.option("--url", default="", metavar="URL", help="As web_url: the page's URL behind a proxy.")
@click.option("--new-token", metavar="NAME", default="", help="Print a token and its line for --tokens, and end.")
@click.option("--role", type=click.Choice(ROLES), default=READ, show_default=True, help="Of --new-token.")
@click.option("--days", type=click.IntRange(1, 3650), help="For which --new-token is valid; default: for ever.")
@state_dir
def web(
    address: str,
    certificate: str | None,
    key: str | None,
    tokens: str | None,
    url: str,
    new_token: str,
    role: str,
    days: int | None,
    state_dir: Path | None,
) -> None:
    """Serve a web page on a running daemon, until ctrl-C. It prints a link that signs in.

    The page is for this host, unless there is a certificate and a file of tokens. web_address in the configuration
    lets the daemon itself serve it.
    """
    if new_token:
        token, line = new(new_token, role, days or 0)
        click.echo(f"{line}")
        click.echo(f"pylvs: add this line to the file of web_tokens, and give {new_token} the token {token}", err=True)
        return
    client = Client(state_dir)
    where = address_and_port("--address", address, f"{DEFAULT_ADDRESS} or [::1]:8480", least=0)
    settings = WebSettings(where, certificate or "", key or "", tokens or "", url)
    if settings.refused:
        raise click.UsageError(f"--address {address} {settings.refused}".replace("web_", "--"))
    client.ask("GET", "/v1/drains")  # no daemon, or one that this user may not ask: say so at once
    set_up("text")
    asyncio.run(_serve(client, settings))


async def _serve(client: Client, settings: WebSettings) -> None:
    """Serve until a signal ends it; SIGHUP reads the files again. Raises PylvsError if the page cannot be served."""
    backend, stopping = _Backend(client), asyncio.Event()
    parent = WebParent(backend.send, backend.events, Jobs(("--state-dir", str(client.state.path)), backend.files))
    own, more = "", tuple[Token, ...]()
    if not settings.tokens:
        own, token = _own_token()
        more = (token,)
    reading = set[asyncio.Task[None]]()

    def read_again() -> None:
        task = asyncio.get_running_loop().create_task(parent.follow(settings, more))
        reading.add(task)
        task.add_done_callback(reading.discard)

    actions: dict[int, Callable[[], object]] = {
        signal.SIGINT: stopping.set,
        signal.SIGTERM: stopping.set,
        signal.SIGHUP: read_again,
    }
    try:
        with signal_handlers(actions):
            await parent.follow(settings, more)
            if parent.error:
                raise PylvsError(parent.error)
            click.echo(f"{_link(settings, parent.port)}{f'#token={own}' if own else ''}")
            await stopping.wait()
    finally:
        await parent.close()


def _link(settings: WebSettings, port: int) -> str:
    assert settings.address is not None
    return settings.url or f"http{'s' if settings.certificate else ''}://{endpoint(settings.address[0], port)}/"


class _Backend:
    """The daemon at a socket, asked in threads."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._files: tuple[str, ...] = ()

    def files(self) -> tuple[str, ...]:
        """Return the files of the daemon's configuration, as it last replied."""
        return self._files

    async def send(self, ask: Ask) -> Answer:
        return await to_thread(self._send, ask)

    def _send(self, ask: Ask) -> Answer:
        """Raises PylvsError."""
        if ask.method == "GET":
            query = f"?{urlencode(ask.given)}" if ask.given else ""
            status, reply = self._client.ask("GET", ask.path + query)
        else:
            status, reply = self._client.ask(ask.method, ask.path, dict(ask.given), ask.headers())
        if ask.path == "/v1/status" and isinstance(reply, dict) and status == HTTPStatus.OK:
            self._files = tuple(map(str, reply.get("files", ())))
        return status, json_line(reply)

    async def events(self) -> AsyncIterator[bytes]:
        """Yield lines of JSON; without a daemon, wait for the next one."""
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(line: bytes) -> None:
            if lines.qsize() < _MOST_UNREAD:
                lines.put_nowait(line)

        threading.Thread(target=self._follow, args=(loop, put), name="pylvs-events", daemon=True).start()
        while True:
            yield await lines.get()

    def _follow(self, loop: asyncio.AbstractEventLoop, put: Callable[[bytes], None]) -> None:
        """Until the loop ends: the last events at first, then new ones."""
        path = "/v1/events"
        while not loop.is_closed():
            try:
                with self._client.stream("GET", path, endless="follow" in path) as response:
                    if "follow" in path or response.status != HTTPStatus.OK:
                        for line in response:
                            loop.call_soon_threadsafe(put, line)
                    else:
                        loop.call_soon_threadsafe(put, response.read())
                path = "/v1/events?follow=true"
            except RuntimeError:  # the loop has ended
                return
            except (PylvsError, OSError, HTTPException):
                time.sleep(_RETRY_S)
            else:
                time.sleep(0 if "follow" not in path else _POLL_S)


def _own_token() -> tuple[str, Token]:
    """Return a token for as long as this command runs: with the rights of its user."""
    token, _ = new("local")
    name = f"user-{os.getuid()}"
    role = OPERATE if os.geteuid() == 0 else READ
    return token, Token(name, role, digest_of(token))
