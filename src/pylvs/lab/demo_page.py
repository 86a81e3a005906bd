"""`pylvs lab demo --web`: a lab with traffic, and the page of its director, until ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

from rich.text import Text

from pylvs.lab.demo import Guide, console
from pylvs.lab.hosts import COMMAND, environment
from pylvs.lab.lab import Lab, build, take_down
from pylvs.lab.network import DIRECTOR, SERVER, address_of
from pylvs.lab.processes import DeferredSignals, Interrupted, defer_signals
from pylvs.lab.topologies import design
from pylvs.model.errors import Unsupported
from pylvs.system.namespaces import inside_network

PORT = 8480  # of the page, in the director
_PIECE = 1 << 16  # bytes
_POLL_S = 0.2
_END_S = 10.0  # for the daemon to stop
_CONFIGURATION = """\
global_defs {{
    web_address 127.0.0.1 {port}
    web_tokens  {tokens}
}}
virtual_server {vip} 80 {{
    delay_loop 1
    lb_algo    rr
    lb_kind    DR
    protocol   TCP
{servers}}}
"""
_SERVER = "    real_server {address} 80 {{\n        TCP_CHECK {{\n        }}\n    }}\n"
_TRAFFIC = "while :; do curl -s -o /dev/null --max-time 2 http://VIP/; sleep 0.1; done"


def page() -> None:
    """Make the lab, serve its page, and remove all of it after ctrl-C. Raises PylvsError."""
    name = f"demo{os.getpid()}"
    with defer_signals() as signals, tempfile.TemporaryDirectory(prefix="pylvs-demo-") as folder:
        lab = build(name, design("dr"))
        try:
            with _running(lab, Path(folder)) as (token, daemon):
                asyncio.run(_serve(lab, signals, token, daemon))
        except Interrupted as interrupted:
            if interrupted.args != (signal.SIGINT,):
                raise
        finally:
            take_down(name)
    console().print("The lab is removed.")


@contextlib.contextmanager
def _running(lab: Lab, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the daemon and the traffic; yield a token that may operate, and the daemon."""
    token, line = _new_token(lab)
    tokens, configuration = folder / "tokens", folder / "keepalived.conf"
    tokens.touch(0o600)
    tokens.write_text(line + "\n")
    servers = "".join(
        _SERVER.format(address=address_of(each.interfaces[0].addresses[0])) for each in lab.network.role(SERVER)
    )
    configuration.write_text(_CONFIGURATION.format(port=PORT, tokens=tokens, vip=lab.network.vip, servers=servers))
    lab.sh(DIRECTOR, "ipvsadm -C")
    run = ["pylvs", "run", "-f", str(configuration), "--state-dir", str(folder / "state")]
    client = lab.network.role("client")[0].name
    with contextlib.ExitStack() as until, (folder / "log").open("wb") as log:
        started = []
        for host, words in ((DIRECTOR, run), (client, ["sh", "-c", _TRAFFIC])):
            command = [*lab.host(host).inside(), *words]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(), start_new_session=True
            )
            until.callback(_end, process)
            started.append(process)
        yield token, started[0]


def _new_token(lab: Lab) -> tuple[str, str]:
    """Return a token that may operate, and its line for the file of tokens."""
    lines = lab.sh(DIRECTOR, "pylvs web --new-token visitor --role operate 2>&1").splitlines()
    line = next(each for each in lines if "sha256:" in each)
    return next(each for each in lines if each != line).split()[-1], line


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _serve(lab: Lab, signals: DeferredSignals, token: str, daemon: subprocess.Popen[bytes]) -> None:
    """Forward a port of this machine to the page, until a signal. Raises Interrupted, Unsupported."""
    network = lab.host(DIRECTOR).network

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            far_reader, far_writer = await _connected(network)
            with contextlib.closing(far_writer):
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    while not await _answers(network):
        signals.check()
        if daemon.poll() is not None:
            raise Unsupported(f"pylvs run of the demonstration has ended with status {daemon.returncode}")
        await asyncio.sleep(_POLL_S)
    async with serving(forward) as port:
        _explain(Guide(lab, console(), signals), f"http://127.0.0.1:{port}/#token={token}")
        while True:
            signals.check()
            await asyncio.sleep(_POLL_S)


@contextlib.asynccontextmanager
async def serving(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """Accept connections at a port of this machine, and yield the port. The end of the block ends them all at once.

    The server's own end is not used: from Python 3.12 it waits until each client has closed its connection, and an open
    page does not. asyncio does not get the tasks either, because 3.11 reports one that is cancelled as an error.
    """
    running: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await handle(reader, writer)

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(served(reader, writer))
        running[task] = writer
        task.add_done_callback(running.pop)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task, writer in list(running.items()):
            task.cancel()
            writer.transport.abort()  # a client that does not read delays no end
        await asyncio.gather(*running, return_exceptions=True)


async def _connected(network: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the page in the director's network namespace. Raises OSError."""
    with inside_network(network):
        end = socket.socket()  # it stays in this namespace
    try:
        end.setblocking(False)
        await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", PORT))
        return await asyncio.open_connection(sock=end)
    except BaseException:
        end.close()
        raise


async def _answers(network: Path) -> bool:
    try:
        _, writer = await _connected(network)
    except OSError:
        return False
    writer.close()
    return True


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
    writer.close()


def _explain(guide: Guide, url: str) -> None:
    lab, network = guide.lab, guide.lab.network
    server = network.role(SERVER)[0].name
    guide.step("The page of a director with traffic", "A client asks ten times a second. Open this in a browser:")
    guide.console.print(Text(url, style="bold green"), soft_wrap=True)
    guide.step("Break it", "In another terminal, as root. The page shows what follows, and Doctor names the cause.")
    for text, host, command in (
        (f"Stop the web server of {server}:", server, "service nginx stop"),
        ("Start it again:", server, "service nginx start"),
        ("Remove the VIP of the director:", DIRECTOR, f"ip address del {network.vip}/32 dev eth0"),
        ("Add it again:", DIRECTOR, f"ip address add {network.vip}/32 dev eth0"),
    ):
        guide.print(text)
        guide.print(f"{COMMAND} lab exec {lab.name} {host} {command}", "bold")
    guide.print("\nCtrl-C ends the demonstration, and removes the lab.", "italic")
