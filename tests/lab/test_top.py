"""`pylvs top` with a real daemon and a real table: by Textual's pilot, and in a real terminal at 80x24."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from textual.pilot import Pilot

from pylvs.lab.hosts import environment
from pylvs.system.namespaces import inside_network
from pylvs.top.app import Top
from pylvs.top.feed import Feed
from tests.lab.conftest import MakeLab
from tests.lab.daemons import Daemon, daemon
from tests.waiting import PATIENCE_S, until, until_async

TEXT = """
virtual_server VIP 80 {
    delay_loop 1
    lb_algo rr
    lb_kind DR
    protocol TCP
    real_server RS1 80 {
        TCP_CHECK {
        }
    }
    real_server RS2 80 {
        TCP_CHECK {
        }
    }
}
"""
Play = Callable[[Top, Pilot[None]], Awaitable[None]]


@contextmanager
def running(make_lab: MakeLab, folder: Path) -> Iterator[Daemon]:
    """Run a daemon with a service of two servers."""
    lab = make_lab("dr", 2)
    lab.sh("director", "ipvsadm -C")
    text = TEXT.replace("VIP", lab.network.vip)
    for number, host in enumerate(lab.network.role("realserver"), 1):
        text = text.replace(f"RS{number}", host.interfaces[0].addresses[0].partition("/")[0])
    with daemon(lab, folder, text) as made:
        yield made


def played(feed: Feed, play: Play) -> None:
    """Open the console at 80x24, and play a test in it."""

    async def run() -> None:
        app = Top(feed, feed.first())
        async with app.run_test(size=(80, 24)) as pilot:
            await play(app, pilot)

    asyncio.run(run())


def screen(app: Top) -> str:
    return "\n".join(app._canvas.render_line(y).text.rstrip() for y in range(app.size.height))


async def shows(app: Top, pilot: Pilot[None], pattern: str) -> str:
    """Wait until the screen has a pattern; return the screen."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            while not re.search(pattern, screen(app), re.MULTILINE):
                await pilot.pause(0.05)
        except asyncio.CancelledError:
            print(f"{pattern!r} is not in:\n{screen(app)}")
            raise
    return screen(app)


def test_drain_enable_and_weight_of_a_real_server(make_lab: MakeLab, tmp_path: Path) -> None:
    with running(make_lab, tmp_path) as made:

        async def play(app: Top, pilot: Pilot[None]) -> None:
            await shows(app, pilot, r"10\.0\.0\.21:80 +up ")
            await pilot.press("N", "down", "w", *"7", "enter", "y")
            await shows(app, pilot, r"10\.0\.0\.21:80 +up +7 ")
            # The console has the weight of the daemon's desired state; an edit gives it to the table.
            await until_async(lambda: any("10.0.0.21:80" in line and " 7 " in line for line in made.listing()))
            await pilot.press("d")
            await shows(app, pilot, "New connections go to 1 other server")
            await pilot.press("y")
            await shows(app, pilot, r"10\.0\.0\.21:80 +(drained|disabled)")
            await shows(app, pilot, "drain began")
            await pilot.press("e", "y")
            await shows(app, pilot, r"10\.0\.0\.21:80 +up +7 ")
            await pilot.press("w", *"auto", "enter", "y")
            await shows(app, pilot, r"10\.0\.0\.21:80 +up +1 ")

        played(Feed(tmp_path / "state"), play)


def test_traffic_and_a_server_that_fails_are_seen(make_lab: MakeLab, tmp_path: Path) -> None:
    with running(make_lab, tmp_path) as made:
        vip = made.lab.network.vip

        async def play(app: Top, pilot: Pilot[None]) -> None:
            await shows(app, pilot, r"10\.0\.0\.22:80 +up ")
            client = subprocess.Popen(
                [*made.lab.host("client").inside(), "sh", "-c", f"while :; do curl -s http://{vip}/ >/dev/null; done"],
                env=environment(),
                start_new_session=True,
            )
            try:
                await shows(app, pilot, r"^Conn/s [1-9]")
                await pilot.press("N", "enter")
                await shows(app, pilot, r"conn/s +\S+ +\S*[▂-█]")
                await pilot.press("escape")
            finally:
                os.killpg(client.pid, signal.SIGKILL)
                client.wait()
            made.lab.sh("rs2", "ip link set eth0 down")
            text = await shows(app, pilot, r"^!! +10\.0\.0\.22:80 +DOWN")
            assert "!! 1 down" in text
            await shows(app, pilot, r"server down 10\.0\.0\.22:80")

        played(Feed(tmp_path / "state"), play)


def test_a_daemon_that_ends_and_returns_while_the_console_is_open(make_lab: MakeLab, tmp_path: Path) -> None:
    with running(make_lab, tmp_path) as made:

        async def play(app: Top, pilot: Pilot[None]) -> None:
            await shows(app, pilot, r"10\.0\.0\.21:80 +up ")
            assert made.process is not None
            made.process.kill()
            await asyncio.to_thread(made.process.wait)
            await shows(app, pilot, r"^!! since .*no pylvs run answers")
            assert "10.0.0.21:80" in screen(app), "what was read last stays"
            await asyncio.to_thread(made.start)
            # The table may be read before the status, which has the process.
            text = await shows(app, pilot, rf"\A pylvs top.*process {made.process.pid}, up")
            assert "!! since" not in text

        played(Feed(tmp_path / "state"), play)


def test_without_a_daemon_the_table_alone(make_lab: MakeLab) -> None:
    lab = make_lab("dr", 2)
    vip = lab.network.vip
    lab.sh("director", f"ipvsadm -C; ipvsadm -A -t {vip}:80 -s rr; ipvsadm -a -t {vip}:80 -r 10.0.0.21 -g -w 5")

    async def play(app: Top, pilot: Pilot[None]) -> None:
        text = await shows(app, pilot, r"10\.0\.0\.21:80 +in table +5 ")
        assert "no pylvs run: the table alone" in text
        lab.sh("director", f"ipvsadm -e -t {vip}:80 -r 10.0.0.21 -g -w 0")
        await shows(app, pilot, r"^!! v TCP \S+ +EMPTY")
        await pilot.press("N", "down", "d")
        await shows(app, pilot, "need pylvs run")

    with inside_network(lab.host("director").network):
        played(Feed(None), play)


class Terminal:
    """A terminal of 80 columns and 24 lines, by tmux, which runs a command."""

    def __init__(self, folder: Path, command: str) -> None:
        self._words = ("tmux", "-u", "-S", str(folder / "tmux"))
        self._environment = environment() | {"LANG": "C.UTF-8", "TERM": "xterm"}
        self._run("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", command)

    def _run(self, *words: str) -> str:
        done = subprocess.run([*self._words, *words], env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def press(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def screen(self, *words: str) -> str:
        return self._run("capture-pane", "-p", *words)

    def shows(self, pattern: str) -> str:
        """Wait until the screen has a pattern; return the screen."""
        until(lambda: re.search(pattern, self.screen(), re.MULTILINE), lambda: f"{pattern!r} in:\n{self.screen()}")
        return self.screen()

    def close(self) -> None:
        self._run("kill-server")


def test_in_a_real_terminal(make_lab: MakeLab, tmp_path: Path) -> None:
    with running(make_lab, tmp_path) as made:
        words = " ".join(f"'{each}'" for each in made.lab.host("director").inside())
        terminal = Terminal(tmp_path, f"{words} pylvs top --state-dir '{tmp_path}/state'; echo ended $?; sleep 1000")
        try:
            text = terminal.shows(r"10\.0\.0\.21:80 +up ")
            assert text.startswith(" pylvs top  director")
            assert all(len(line) <= 80 for line in text.splitlines())
            colours = set(re.findall(r"\x1b\[([0-9;]*)m", terminal.screen("-e")))
            assert colours <= {"0", "1", "7", "0;1", "0;7", "1;7", "1;31", "31", "35", "39", "39;49", "0;1;7", "49"}, (
                "the terminal's own colours"
            )
            made.lab.sh("rs2", "ip link set eth0 down")
            terminal.shows(r"^!! +10\.0\.0\.22:80 +DOWN")
            assert re.search(r"\x1b\[[0-9;]*31m", terminal.screen("-e")), "red"
            terminal.press("N", "Down", "d")
            terminal.shows("drain 10.0.0.21:80 of")
            terminal.press("n")
            terminal.shows("nothing is changed")
            terminal.press("/", "2", "2")
            terminal.shows("^filter: 22_")
            terminal.press("Escape")
            terminal.shows("q +1/3")
            terminal.press("q")
            assert "ended 0" in terminal.shows("^ended")
        finally:
            terminal.close()


def test_the_output_is_no_terminal(make_lab: MakeLab, tmp_path: Path) -> None:
    with running(make_lab, tmp_path) as made:
        done = made.lab.run("director", ["pylvs", "top", "--state-dir", str(tmp_path / "state")])
        assert done.returncode == 1
        assert done.stderr.startswith("pylvs: pylvs top needs a terminal")
        assert len(done.stderr.splitlines()) == 1
