"""The commands of `./dev`: `dev` finds or installs Python and calls this, with the standard library alone.

`COMMANDS` declares each command: its usage, its purpose, whether it needs root, what must be installed, and what it
runs. `dev` reads the lines of this table for `./dev help` and for the check of root, so each command has one line.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tools.dev import environment, packages, record
from tools.dev.environment import COMPILE, RUN, TEST
from tools.dev.record import CACHE, VENV
from tools.dev.report import Stopped, say

SKIP_NOTHING = "PYLVS_TESTS_SKIP_NOTHING"  # tests/conftest.py reads it
FUZZED_FRAMES = 10_000_000
SCRIPTS = ("dev", ".ci/run", "debian/pylvs.p*", "packaging/alternatives", "tests/isolated-python")


@dataclass(frozen=True, slots=True)
class Needs:
    """What must be installed before a command: Debian packages, and what .venv is for; `beside`: both at once."""

    packages: packages.Needed
    purpose: str
    beside: bool = False


NOTHING = Needs((), "")
RUNS = Needs((), RUN)
DEMONSTRATES = Needs(packages.DEMO, RUN)
LABS = Needs(packages.LAB, RUN)
MEASURES = Needs(packages.LAB, COMPILE)
FUZZES = Needs(packages.LAB, TEST)
CHECKS = Needs((), TEST)
TESTS = Needs(packages.TEST, TEST, beside=True)
BROWSES = Needs(packages.BROWSER, TEST)
ALL = Needs((*packages.TEST, *packages.DEB, *packages.ROOTS), TEST, beside=True)
PACKS = Needs(packages.DEB, COMPILE)
RELEASES = Needs(packages.DEB, TEST)


@dataclass(frozen=True, slots=True)
class Call:
    """How ./dev was called: a text that starts it in the caller's shell, the Python, and whether dev installed that."""

    command: str
    python: str
    python_is_new: bool
    arguments: list[str]

    @property
    def from_caller(self) -> str:
        """Return what works in the shell that called dev."""
        return f"sudo {self.command}" if "SUDO_USER" in os.environ else self.command


@dataclass(frozen=True, slots=True)
class Command:
    """A command; `runs` is a module of this tree, which gets the arguments, or a function."""

    usage: str
    purpose: str
    who: bool
    needs: Needs
    runs: str | Callable[[Call], int | None]

    @property
    def names(self) -> list[str]:
        """Return the words that call it."""
        words = self.usage.split()
        return [words[0].rstrip(","), *(words[1:] if words[0].endswith(",") else [])]


# --- before a command ----------------------------------------------------------------------------------------------


def prepare(needs: Needs, call: Call) -> None:
    """Install what a command needs. Raises Stopped."""
    if not needs.purpose:
        return
    if needs.beside and packages.missing(needs.packages):
        _prepare_beside(needs, call)
    else:
        packages.need(needs.packages, lists_are_new=call.python_is_new)
    environment.prepare(needs.purpose, call.python)
    environment.enter()


def _prepare_beside(needs: Needs, call: Call) -> None:
    """Let pip compute while apt waits for network and disk. Its output appears only if it fails."""
    CACHE.mkdir(parents=True, exist_ok=True)
    say("installing into .venv beside apt: .cache/dev/python.log")
    log = CACHE / "python.log"
    with log.open("w") as file:
        process = os.fork()
        if process == 0:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            os._exit(_status_of(lambda: environment.prepare(needs.purpose, call.python)))
    packages.need(needs.packages, lists_are_new=call.python_is_new)
    _, status = os.waitpid(process, 0)
    if status:
        print(log.read_text(errors="replace"), end="", file=sys.stderr, flush=True)
        raise SystemExit(1)


def _status_of(step: Callable[[], object]) -> int:
    try:
        step()
    except Stopped as stopped:
        say(str(stopped))
        return 1
    return 0


# --- what commands run ---------------------------------------------------------------------------------------------


def replace_by(*command: str) -> NoReturn:
    """Run a program instead of this process."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and so would the program
    try:
        os.execvp(command[0], command)
    except OSError as error:
        say(f"{command[0]}: {error.strerror}")
        raise SystemExit(127 if isinstance(error, FileNotFoundError) else 126) from error


def module(name: str, *arguments: str) -> NoReturn:
    """Run a module of this tree, by the Python of .venv, instead of this process."""
    replace_by("python", "-m", name, *arguments)


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, check=False).returncode == 0


def demo(call: Call) -> None:
    undo = f"{call.command} undo"
    if call.python_is_new:
        pass  # `dev` has printed it
    elif packages.missing(packages.DEMO):
        say(f"this downloads up to 36 MB and takes half a minute to 3 minutes; {undo} removes it all")
    elif not (VENV / "stamp-project").exists():
        say(f"this downloads 8 MB for Python into .venv and takes 10 seconds to a minute; {undo} removes it")
    else:
        say("everything is installed; this takes 5 to 18 seconds")
    prepare(DEMONSTRATES, call)
    os.environ |= {"PYLVS_COMMAND": f"{call.from_caller} run pylvs", "PYLVS_REMOVAL": f"{call.from_caller} undo"}
    replace_by("pylvs", "lab", "demo", (call.arguments or ["dr"])[0])


def test(call: Call) -> None:
    if not call.arguments:
        _gate()
    os.environ[SKIP_NOTHING] = "1"  # here everything is installed: a test that cannot run is a failure
    replace_by("tests/isolated-python", "-m", "pytest", *call.arguments)


def test_all(call: Call) -> None:
    _gate("--everything", *call.arguments)


def _gate(*arguments: str) -> NoReturn:
    if not _succeeds("python", "-m", "tests.sweep"):
        say("what earlier runs left stays; the tests run all the same")
    module("tests.gate", *arguments)


def lint(_: Call) -> int:
    """Run all checks, so that one run shows all findings."""
    checks = [["ruff", "check", "-q"], ["ruff", "format", "-q", "--check"], ["mypy", "--no-error-summary"]]
    titles = ["ruff check", "ruff format --check", "mypy --strict"]
    if shutil.which("shellcheck"):
        titles.append("shellcheck")
        checks.append(["shellcheck", *(str(path) for pattern in SCRIPTS for path in sorted(Path().glob(pattern)))])
    failed = []
    for title, check in zip(titles, checks, strict=True):
        say(title)
        failed += [] if _succeeds(*check) else [title]
    if failed:
        say(f"failed: {', '.join(failed)}")
    return int(bool(failed))


def fmt(_: Call) -> int:
    _succeeds("ruff", "check", "-q", "--fix")  # what it cannot repair, lint says
    return int(not _succeeds("ruff", "format", "-q"))


def conformance(call: Call) -> None:
    say("every recording")
    os.environ["PYLVS_TESTS_EVERYTHING"] = "1"
    if not _succeeds("pytest", "-q", "-n", "4", "--dist", "worksteal", "tests/packet/test_conformance.py"):
        raise SystemExit(1)
    del os.environ["PYLVS_TESTS_EVERYTHING"]
    say("live, beside the real IPVS")
    module("tests.conformance", *call.arguments)


def interop(call: Call) -> int:
    if call.arguments[:1] == ["bfd"]:
        module("tests.interop.bfd", *call.arguments[1:])
    if call.arguments:
        module("tests.interop.vrrp", *call.arguments)
    failed = [name for name in ("vrrp", "bfd") if not _succeeds("python", "-m", f"tests.interop.{name}")]
    return int(bool(failed))


def fuzz(call: Call) -> None:
    module("tests.packet.fuzz", *(call.arguments or [str(FUZZED_FRAMES)]))


def doctor_exam(call: Call) -> int:
    """Plant each fault in a lab; arguments go to pytest, as `-k rp_filter`."""
    return int(not _succeeds("pytest", "-v", "tests/lab/doctor", *call.arguments))


def docs(_: Call) -> int:
    say("documents")
    if not _succeeds("pytest", "-q", "tests/unit/test_documents.py"):
        return 1
    say("the site, in dist/site")
    os.environ |= {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": "."}
    return int(not _succeeds("python", "-m", "mkdocs", "build"))


def web(call: Call) -> None:
    if call.arguments == ["--pictures"]:
        prepare(BROWSES, call)
        module("tests.lab.web_page.pictures")
    module("tools.web", *call.arguments)


def wheel(_: Call) -> None:
    module("tools.wheel")


def shell(_: Call) -> None:
    say("pylvs and ipvsadm of this clone come first on PATH; leave with exit")
    replace_by(os.environ.get("SHELL") or "/bin/sh")


def run(call: Call) -> None:
    if os.geteuid() == 0:
        record.note_folders()
    prepare(RUNS, call)
    os.environ["PYLVS_COMMAND"] = f"{call.from_caller} run pylvs"
    if call.arguments:
        replace_by(*call.arguments)


def undo(call: Call) -> None:
    record.undo(call.command)


# --- the table -----------------------------------------------------------------------------------------------------

ROOT, ANYONE = True, False

# fmt: off  # one line each
COMMANDS = (
    Command("demo [dr|nat|tun|ha]", "a guided tour through a small LVS; --web: its web page", ROOT, NOTHING, demo),
    Command("test [ARGUMENT...]", "lint, then every test; arguments go to pytest", ROOT, TESTS, test),
    Command("test-all [ARG]", "also what is too long for every change: see docs", ROOT, ALL, test_all),
    Command("lint", "ruff and mypy --strict", ANYONE, CHECKS, lint),
    Command("fmt", "format and repair what ruff can", ANYONE, CHECKS, fmt),
    Command("conformance [ARG]", "every recording, then live beside the real IPVS", ROOT, TESTS, conformance),
    Command("interop [--times]", "pylvs and keepalived as each other's VRRP peers", ROOT, TESTS, interop),
    Command("doctor-exam [ARG]", "does pylvs doctor name planted faults first?", ROOT, TESTS, doctor_exam),
    Command("kernels [KERNEL...]", "does it work on Debian's and Ubuntu's kernels?", ROOT, TESTS, "tests.kernels"),
    Command("fuzz [FRAMES]", "random frames, packet path beside the reference", ROOT, FUZZES, fuzz),
    Command("bench [ARGUMENT]", "measure the packet path", ROOT, MEASURES, "bench"),
    Command("bench-guard [ARG]", "is a packet dearer than bench/baseline.json says?", ROOT, MEASURES, "bench.guard"),
    Command("bench-ipvs [ARG]", "beside the real IPVS, nftables and routing", ROOT, TESTS, "tests.interop.beside"),
    Command("bench-scale [ARG]", "measure a table of ten million connections", ROOT, MEASURES, "bench.scale"),
    Command("bench-directors [ARG]", "copy connections to another director", ROOT, MEASURES, "bench.directors"),
    Command("bench-flood [ARG]", "which connections survive a flood, and what it costs", ROOT, MEASURES, "bench.flood"),
    Command("bench-failover [ARG]", "what clients notice of a failover", ROOT, TESTS, "bench.failover"),
    Command("bench-ecmp [ARG]", "which connections stay when a director dies or leaves", ROOT, TESTS, "bench.ecmp"),
    Command("bench-web [ARGUMENT]", "what open web pages and pylvs top cost the daemon", ROOT, MEASURES, "bench.web"),
    Command("docs", "check the documents, and make a site of them", ANYONE, CHECKS, docs),
    Command("web [--pictures]", "build the web page's files, by Node.js; or its pictures", ANYONE, NOTHING, web),
    Command("build, wheel", "a wheel in dist/", ANYONE, RUNS, wheel),
    Command("deb", "a Debian package in dist/, checked by lintian", ANYONE, PACKS, "tools.deb"),
    Command("package-test [ARG]", "install, upgrade and purge it in fresh Debian roots", ROOT, ALL, "tests.package"),
    Command("release [--dry-run]", "the files and the tag of a release", ANYONE, RELEASES, "tools.release"),
    Command("shell", "a shell that finds pylvs and ipvsadm", ROOT, LABS, shell),
    Command("run COMMAND...", "one command that finds pylvs and ipvsadm", ANYONE, NOTHING, run),
    Command("undo", "remove .venv, .cache, and what dev brought to the machine", ROOT, NOTHING, undo),
)
# fmt: on


def _prints_help(name: str) -> bool:
    """Print the help of a module with nothing installed; return whether it needs nothing but the standard library."""
    environment = {**os.environ, "PYTHONPATH": "src", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", name, "--help"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    if done.returncode == 0:
        sys.stdout.buffer.write(done.stdout)
    return done.returncode == 0


def main(arguments: Sequence[str]) -> int:
    """Run a command, which `dev` has looked up. Return its status."""
    own, python, name, *rest = arguments
    call = Call(own, python, bool(os.environ.pop("PYLVS_DEV_NEW_PYTHON", "")), rest)
    command = next(each for each in COMMANDS if name in each.names)
    if rest in (["--help"], ["-h"]) and isinstance(command.runs, str) and _prints_help(command.runs):
        return 0
    if command.who == ROOT and name != "undo":
        if command.needs in (TESTS, ALL):
            record.note_test_caches()
        record.note_folders()
    try:
        prepare(command.needs, call)
        if isinstance(command.runs, str):
            module(command.runs, *rest)
        return command.runs(call) or 0
    except Stopped as stopped:
        say(str(stopped))
        return 1
    except OSError as error:  # the disk is full or read-only, a folder is a file
        say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
