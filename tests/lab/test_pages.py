"""The commands of README, the tutorials and the how-tos work as printed, on the hosts of a lab."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pylvs.lab.hosts import environment
from pylvs.lab.lab import Lab, open_lab
from tests.lab.pages import MACHINE, ROOT, WITHOUT_A_LAB, Page, Step, agree, read
from tests.processes import tools_first

TUTORIALS = sorted((ROOT / "docs" / "tutorial").glob("*.md"))
HOW_TOS = sorted(path for path in (ROOT / "docs" / "how-to").glob("*.md") if path.name not in WITHOUT_A_LAB)
IN_THE_GATE = {"no-answer.md", "real-servers.md"}
PATIENCE_S = 180
EVENT_S = 90  # until a listing shows what is on the page
PAUSE_S = 0.2
NO_PEER = "Error: Peer netns reference is invalid."  # ip prints it in a lab: the other end is where ip cannot look
UNCHANGED = "nothing is changed"  # of a command that got no reply in time, on a busy machine
FOLDER = "/var/tmp"  # where commands run: a lab's host has its own
NAMED_LAB = re.compile(r"lab up \S+ --name (\w+)")
# Commands that run until they are interrupted, and what they print when they are ready.
ENDLESS = re.compile(
    r"\btcpdump (?!.*-c )|\bpylvs (?:run|watch|events --follow)\b|\bpylvs trace (?!.*--synthetic)|\bhttp\.server\b"
)
CAPTURE = re.compile(r"\btcpdump ")
INSIDE = re.compile(r"^pylvs lab exec \S+ \S+ -- ")  # what follows runs on a host of the lab
# Commands without an effect: they run again until they print what is on the page.
LISTING = re.compile(
    r"^(?:pylvs (?:status|show|history|events|check-now|vrrp status|vrrp why|realserver status|mark list)"
    r"|ipvsadm -\S*L|ip -?\w* ?(?:addr|neigh|route|link)\b|ss |cat |grep )"
)


class Follower:
    """Follow a page: run each step on its host, and compare its output."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.name = name
        found = NAMED_LAB.search(page.path.read_text())
        self.printed_name = found[1] if found else ""
        self._endless: list[tuple[Step, subprocess.Popen[str], Path]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="pylvs-page-")

    def __enter__(self) -> Follower:
        if self.page.lab:
            done = self._machine(f"{self.page.lab} --name {self.name}")
            assert done.returncode == 0, done.stdout
        return self

    def __exit__(self, *error: object) -> None:
        for _, process, _ in self._endless:
            process.terminate()
            process.wait(PATIENCE_S)
        self._machine(f"pylvs lab list | grep -q '^{self.name} ' && pylvs lab down {self.name}")
        self._folder.cleanup()

    def follow(self, step: Step) -> None:
        """Run a step. Raises AssertionError if it has another output or exit status than on the page."""
        if step.file:
            done = self._run(Step(step.host, f"cat >{step.file}"), step.command)
            assert done.returncode == 0, f"{self.page.name}: {step.file}: {done.stdout}"
        elif ENDLESS.search(step.command) or (CAPTURE.search(step.command) and " -c " in step.command):
            self._begin(step)
        else:
            self._compare(step)

    def _compare(self, step: Step) -> None:
        deadline = time.monotonic() + EVENT_S
        while True:
            done = self._run(step)
            lines = done.stdout.replace(self.name, self.printed_name or self.name).splitlines()
            lines = [line for line in lines if line != NO_PEER]
            if done.returncode == step.status and (not step.printed or agree(step.printed, lines)):
                return
            again = LISTING.search(INSIDE.sub("", step.command)) or UNCHANGED in done.stdout
            if not again or time.monotonic() > deadline:
                wanted = "\n".join(step.printed)
                raise AssertionError(
                    f"{self.page.name}: {step.host}# {step.command}: exit status {done.returncode}, not {step.status}, "
                    f"or another output\non the page:\n{wanted}\nnow:\n{done.stdout}"
                )
            time.sleep(PAUSE_S)

    def _run(self, step: Step, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command as in a terminal: both outputs in one."""
        if step.host == MACHINE:
            return self._machine(step.command)
        return subprocess.run(
            [*self._lab().host(step.host).inside(), "sh", "-c", f"cd {FOLDER}\n{step.command}"],
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            env=environment(),
        )

    def _machine(self, command: str) -> subprocess.CompletedProcess[str]:
        assert re.search(r"\bpylvs lab |^sleep ", command), f"{self.page.name}: {command}: its prompt names no host"
        if self.printed_name:
            command = re.sub(rf"\b{self.printed_name}\b", self.name, command)
        return subprocess.run(
            command,
            shell=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            env=os.environ | {"PATH": tools_first()},
            cwd=ROOT,
        )

    def _lab(self) -> Lab:
        return open_lab(self.name)

    def _begin(self, step: Step) -> None:
        """Start a command that does not end by itself, and wait until it is ready."""
        output = Path(self._folder.name) / str(len(self._endless))
        words = ["sh", "-c", f"cd {FOLDER}; exec {step.command}"]
        if step.host != MACHINE:
            words = [*self._lab().host(step.host).inside(), *words]
        else:
            words[2] = re.sub(rf"\b{self.printed_name}\b", self.name, words[2])
        with output.open("w") as file:
            process = subprocess.Popen(
                words,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                env=environment(os.environ | {"PATH": tools_first()}),
            )
        self._endless.append((step, process, output))
        ready = {"tcpdump": "listening on", "run": ": ready", "trace": ": tracing ", "http.server": "Serving HTTP"}
        wanted = next((text for word, text in ready.items() if re.search(rf"\b{word}\b", step.command)), "")
        self._until(lambda: wanted in output.read_text(), f"{step.command}: {wanted}", output)

    def finish(self) -> None:
        """Compare what the commands that do not end by themselves have printed."""
        for step, _, output in self._endless:
            if step.printed:
                self._until(
                    lambda step=step, output=output: agree(step.printed, output.read_text().splitlines()),
                    f"{step.command}\n{chr(10).join(step.printed)}",
                    output,
                )

    def _until(self, holds: object, what: str, output: Path) -> None:
        deadline = time.monotonic() + EVENT_S
        assert callable(holds)
        while not holds():
            assert time.monotonic() < deadline, f"{self.page.name}: not printed: {what}\nnow:\n{output.read_text()}"
            time.sleep(PAUSE_S)


@contextlib.contextmanager
def followed(path: Path) -> Iterator[Page]:
    """Follow all steps of a page, then remove its lab."""
    page = read(path)
    name = f"page{os.getpid()}"
    with Follower(page, name) as follower:
        for step in page.steps:
            follower.follow(step)
        follower.finish()
        yield page


def _documents() -> Iterator[object]:
    yield pytest.param(ROOT / "README.md", id="README")
    for path in TUTORIALS:
        yield pytest.param(path, id=path.stem)
    for path in HOW_TOS:
        marks = []
        if path.name not in IN_THE_GATE:
            marks.append(
                pytest.mark.nightly("a lab for each page; the gate follows README, the tutorials and two how-tos")
            )
        yield pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", list(_documents()))
def test_a_page_works_as_printed(path: Path) -> None:
    with followed(path) as page:
        shown: Sequence[Step] = [step for step in page.steps if step.printed]
    if path in TUTORIALS:
        assert len(shown) >= 2
