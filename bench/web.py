"""What open web pages and `pylvs top` cost `pylvs run`: processor time of the daemon and of its page process.

The row without pages is what the daemon costs anyway.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from bench import site
from bench.daemon import STATE, configuration, running
from bench.processes import ip_batch, processor_s
from bench.program import need_root, status_of
from pylvs.model.errors import Unsupported

_NAME = "bench-web"
_PORT = 8480
_TIMEOUT_S = 60.0
_SETTLED_S = 5.0  # after the start of daemon and pages


@contextlib.contextmanager
def _pages(number: int) -> Iterator[list[int]]:
    """Read `live` of so many pages beside the block, in threads; the list counts the overviews of each."""
    seen, connections = [0] * number, list[http.client.HTTPConnection]()

    def read(at: int, response: http.client.HTTPResponse) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError, http.client.HTTPException):
            for line in response:
                seen[at] += line == b"event: overview\n"

    try:
        for at in range(number):
            connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=_TIMEOUT_S)
            connections.append(connection)
            connection.request("GET", "/api/v1/live")
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise Unsupported(f"live: {response.status} {response.read()[:200]!r}")
            threading.Thread(target=read, args=(at, response), daemon=True).start()
        yield seen
    finally:
        for each in connections:
            each.close()


@contextlib.contextmanager
def _console(state: Path) -> Iterator[int]:
    """Run `pylvs top` in a terminal of 80x24 beside the block; yield its process."""
    near, far = os.openpty()
    with open(near, "rb", buffering=0) as screen:
        termios.tcsetwinsize(far, (24, 80))
        command = [sys.executable, "-c", "from pylvs.cli.main import main; main()", "top", "--state-dir", str(state)]
        environment = os.environ | {"TERM": "xterm", "LANG": "C.UTF-8"}
        with subprocess.Popen(command, stdin=far, stdout=far, stderr=far, env=environment) as process:
            os.close(far)
            try:
                threading.Thread(target=_drain, args=(screen,), daemon=True).start()
                yield process.pid
                if process.poll() is not None:
                    raise Unsupported(f"pylvs top ended with {process.returncode}")
            finally:
                process.terminate()


def _drain(screen: IO[bytes]) -> None:
    with contextlib.suppress(OSError, ValueError):
        while screen.read(1 << 16):
            pass


def _children(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _measure(daemon: int, pages: int, seconds: float, state: Path | None = None) -> str:
    """Return a row: shares of a core; with a `state` directory, while `pylvs top` is open."""
    with _pages(pages) as seen, _console(state) if state else contextlib.nullcontext(0) as console:
        time.sleep(_SETTLED_S)
        children = [console] if console else _children(daemon)
        before = [processor_s(each) for each in (daemon, *children)]
        read, begin = sum(seen), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - begin
        used = [processor_s(each) - was for each, was in zip((daemon, *children), before, strict=True)]
        shares = used[0] / took, sum(used[1:]) / took
        a_second = (sum(seen) - read) / pages / took if pages else 0
    what = "pylvs top" if console else f"{pages} pages"
    return f"{what:<10}{shares[0]:>8.1%}{shares[1]:>16.1%}{a_second:>20.2f}"


def main(words: Sequence[str] | None = None) -> int:
    """Print a row without pages, one with them, and one with `pylvs top`."""
    parser = argparse.ArgumentParser("bench.web", description=__doc__)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--services", type=int, default=100, help="with one server each")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row")
    given = parser.parse_args(words)

    def run() -> int:
        need_root("run it as root")
        text = f"global_defs {{\n    web_address 127.0.0.1 {_PORT}\n}}\n{configuration(given.services)}"
        with tempfile.TemporaryDirectory(prefix="pylvs-bench-") as folder, site.new_site("web"):
            ip_batch("link set lo up")
            with running(Path(folder), text, "--no-checks") as daemon:
                print(f"{'open':<10}{'daemon':>8}{'its processes':>16}{'samples a second':>20}")
                for pages in (0, given.pages):
                    print(_measure(daemon.process.pid, pages, given.seconds), flush=True)
                print(_measure(daemon.process.pid, 0, given.seconds, Path(folder, STATE)), flush=True)
                print("The process beside the daemon in the last row is pylvs top itself.")
        return 0

    return status_of(_NAME, run)


if __name__ == "__main__":
    sys.exit(main())
