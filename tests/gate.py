"""`python -m tests.gate`: run every phase of the tests, repeat what may be repeated, and print a ledger.

    python -m tests.gate [--only PHASE,...]
    python -m tests.gate --everything [--part N/PARTS | --only PHASE,...]

A phase that fails does not stop the next one. Tests that wait for other programs run beside the phases that compute.
Tests marked `real_clock` run alone, after all that compute or wait. Those that fail run once more in a new process. The
run fails if one fails again, if more than MOST_REPEATED needed a second attempt, or if the kernel became tainted. The
gate repeats nothing else. With --everything the phases are divided into parts, of which those run that have no record
(tests/parts.py). Other code may repeat a boot of a guest, or a replay that was too slow to be compared. The
same ledger lists these repetitions.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, NoReturn
from xml.etree import ElementTree

from tests import ledger, parts, passed_before
from tests.conftest import CPU, EVERYTHING, RANDOM, SHARE, SKIP_NOTHING, cpu_s
from tests.parts import Part
from tests.termination import unwind_on_sigterm

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".cache" / "dev" / "gate"
PARTS = ROOT / ".cache" / "dev" / "parts"
TAINTED = Path("/proc/sys/kernel/tainted")
ISOLATED = (
    "tests/isolated-python"  # each worker has its own processes, mounts and /run, so that names of hosts do not collide
)
PACKAGE = "tests/interop/test_package.py"
NETWORKS = "tests/unit/vrrp/simulation/test_simulation.py"  # their seeds, too, are random where examples are
COMPUTING, WAITING = 3, 5  # workers of tests that compute, and of tests that wait for other programs
BOOTING = 2  # workers of tests that boot guests: where they are emulated, each takes a whole CPU for minutes
MOST_REPEATED = 2
SHOWN_FILES = 8  # of a phase, whose tests cost most
PHASE_LIMIT_S = 4 * 3600  # a phase of test-all may take hours; pytest limits each test
NO_TESTS = 5  # pytest's status if it collects nothing
CLOCK_ROUNDS = 20  # of the real_clock tests beside busy CPUs, in test-all


@dataclass(frozen=True, slots=True)
class Phase:
    """A command.

    `pytest`: it runs pytest, whose results are counted. `background`: it begins first and runs beside the others, and
    its output comes at its end. `lowest_priority`: it takes only CPU time that no other process wants. `alone`: it
    begins after all others but those at the lowest priority have ended. `beside_load`: every CPU is busy at the same
    time. `may_be_empty`: pytest may find no test. Then its output is hidden, because CI takes pytest's "no tests ran"
    for the end of a run without tests.
    """

    name: str
    command: Sequence[str]
    pytest: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    background: bool = False
    lowest_priority: bool = False
    alone: bool = False
    beside_load: bool = False
    may_be_empty: bool = False

    @property
    def report(self) -> Path:
        """Return the file of pytest's report."""
        return FOLDER / f"{self.name.replace(' ', '-').replace('/', '-of-')}.xml"

    @property
    def log(self) -> Path:
        """Return the file of the output that is printed at the phase's end, or not at all."""
        return self.report.with_suffix(".log")

    def share(self, number: int, of: int) -> Phase:
        """Return the phase with every so many of its tests."""
        share = f"{number}/{of}"
        return replace(self, name=f"{self.name} {share}", environment={**self.environment, SHARE: share})

    @property
    def arguments(self) -> list[str]:
        """Return the command with its report."""
        return [*self.command, f"--junitxml={self.report}"] if self.pytest else list(self.command)


@dataclass(frozen=True, slots=True)
class Started:
    """A phase that runs; `output` is a file if its output comes at its end, or not at all."""

    phase: Phase
    process: subprocess.Popen[bytes]
    output: IO[bytes] | None
    began: float


@dataclass(slots=True)
class Result:
    """The result of a phase."""

    phase: Phase
    status: int
    wall_s: float
    cpu_s: float
    passed: int = 0
    passed_before: int = 0  # so many of the passed ones, in an earlier run with the same code
    skipped: int = 0
    failed: list[Failure] = field(default_factory=list)
    files: dict[str, float] = field(default_factory=dict)  # CPU seconds of their tests

    @property
    def may_be_repaired(self) -> bool:
        """Return whether only tests failed that may run once more."""
        return self.status == 1 and bool(self.failed) and all(failure.nodeid for failure in self.failed)


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed test; `nodeid` only if it may run once more."""

    name: str
    nodeid: str
    reason: str
    seconds: float


def _isolated(name: str, workers: int, *arguments: str, background: bool = False, alone: bool = False) -> Phase:
    command = ["pytest", "-q", "-m", "not real_clock", "--tx", f"{workers}*popen//python={ISOLATED}", *arguments]
    return Phase(name, command, pytest=True, background=background, alone=alone)


def _unit(
    name: str, marks: str, environment: Mapping[str, str] | None = None, path: str = "tests/unit", at_rest: bool = False
) -> Phase:
    """Return a phase of unit tests; `at_rest`: in the background at the lowest priority."""
    command = ["pytest", "-q", "-n", "auto", "--dist", "worksteal", "-m", marks, path]
    return Phase(name, command, pytest=True, environment=environment or {}, background=at_rest, lowest_priority=at_rest)


def _real_clocks(name: str, beside_load: bool = False) -> Phase:
    command = [ISOLATED, "-m", "pytest", "-q", "-m", "real_clock", "tests"]
    return Phase(name, command, pytest=True, alone=True, beside_load=beside_load, may_be_empty=True)


def phases() -> list[Phase]:
    """Return the phases of the gate, cheap ones first. The tests that wait run beside those that compute.

    The tests that boot guests have a phase of their own. Among the others they would come last, one after the other.
    """
    boots = [f"tests/interop/test_{name}.py" for name in ("adoption", "kernels", "systemd")]
    waits = ["tests/packet/test_conformance.py", "tests/interop", "tests/lab"]
    for each in (*boots, PACKAGE):
        waits += ["--ignore", each]
    computes = ["tests/packet", "--ignore", "tests/packet/test_conformance.py"]
    return [
        Phase("lint", ["./dev", "lint"]),
        _unit("unit", "not real_clock and not nightly"),
        _isolated("packet", COMPUTING, "--dist", "loadfile", *computes),
        _isolated("guests", BOOTING, "--dist", "worksteal", *boots, background=True),
        _isolated("interop", WAITING, "--dist", "worksteal", *waits, background=True),
        _real_clocks("real clock"),
    ]


def nightly_phases() -> list[Phase]:
    """Return the phases that `./dev test-all` adds. The simulations compute for hours, while long recordings wait.

    The package's daemon runs alone: on an emulated processor that others keep busy, it exceeds its own time limits.
    Each commit has a seed of its own, so one that passed passes again.
    """
    seed = str(_seed_of_the_commit())
    return [
        _unit("random examples", "hypothesis and not real_clock and not nightly", {RANDOM: "1"}),
        _unit("random networks", "not real_clock and not nightly", {RANDOM: "1"}, NETWORKS),
        Phase("fuzz", ["python", "-m", "tests.packet.fuzz", "2000000", "--seed", seed]),
        _isolated("package", BOOTING, "--dist", "worksteal", PACKAGE, alone=True),
        Phase("live conformance", ["python", "-m", "tests.conformance", "--seed", seed], alone=True),
        *(_real_clocks(f"real clock busy {n + 1}", beside_load=True) for n in range(CLOCK_ROUNDS)),
        _unit("simulations", "nightly and not real_clock", at_rest=True),
    ]


SHARES = 4  # of the phases interop and simulations
PROSE = ("CHANGELOG.md", "CONTRIBUTING.md", "docs/*.svg", "docs/architecture.md", "docs/developing.md")
UNIT_TESTS = "tests/unit/*test_*.py"  # in all directories: a pattern's asterisk matches slashes, too


def nightly_parts() -> list[Part]:
    """Return the parts of `./dev test-all`. Tests that compute fill the time of those that wait."""
    clocks = [phase.name for phase in nightly_phases() if phase.beside_load]
    interop = [f"interop {number}/{SHARES}" for number in range(1, SHARES + 1)]
    simulations = [f"simulations {number}/{SHARES}" for number in range(1, SHARES + 1)]
    return [
        Part(["lint", "unit", "random examples", "random networks", "guests"]),
        Part(["packet", "fuzz", interop[0]], (*PROSE, UNIT_TESTS)),
        *(Part([*pair], PROSE) for pair in zip(interop[1:], simulations[:-1], strict=True)),
        Part(["package", "live conformance", "real clock", *clocks, simulations[-1]], PROSE),
    ]


def phases_by_name() -> dict[str, Phase]:
    """Return all phases of `./dev test-all`, and the shares of them that its parts have."""
    found = {phase.name: phase for phase in (*phases(), *nightly_phases())}
    for name in "interop", "simulations":
        if name in found:
            shares = [found[name].share(number, SHARES) for number in range(1, SHARES + 1)]
            found |= {phase.name: phase for phase in shares}
    return found


def _seed_of_the_commit() -> int:
    """Return a number that depends on the commit; 0 outside a repository."""
    done = subprocess.run(["git", "rev-parse", "--short=8", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return 0 if done.returncode else int(done.stdout, 16)


# --- one phase -----------------------------------------------------------------------------------------------------


def run(phase: Phase) -> Result:
    """Run a phase to its end, and count its tests."""
    with started(phase) as running:
        return finish(running)


@contextlib.contextmanager
def started(phase: Phase) -> Iterator[Started]:
    """Start a phase; leaving the block ends it."""
    say(f"{phase.name}: {' '.join(phase.command)}{', in the background' if phase.background else ''}")
    phase.report.unlink(missing_ok=True)
    command = [*(("nice", "-n", "19") if phase.lowest_priority else ()), *phase.arguments]
    environment = os.environ | dict(phase.environment)
    with contextlib.ExitStack() as until:
        hidden = phase.background or phase.may_be_empty
        output = until.enter_context(phase.log.open("w+b")) if hidden else None
        if phase.beside_load:
            until.enter_context(_busy())
        process = until.enter_context(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        )
        until.callback(process.send_signal, signal.SIGTERM)
        yield Started(phase, process, output, time.monotonic())


def finish(running: Started) -> Result:
    """Wait for the end of a phase, print its output if that comes at its end, and count its tests."""
    phase = running.phase
    if phase.background:
        say(f"{phase.name}: waiting for its end")
    cpu = cpu_s(resource.RUSAGE_CHILDREN)  # a child counts when it is reaped
    try:
        status = running.process.wait(PHASE_LIMIT_S)
    except subprocess.TimeoutExpired:
        say(f"stopped after {PHASE_LIMIT_S} s")
        status = 1
    if phase.may_be_empty and status == NO_TESTS:
        say("no test is marked")
        status = 0
    elif running.output is not None:
        running.output.seek(0)
        print(running.output.read().decode(errors="replace"), end="", flush=True)
    result = Result(phase, status, time.monotonic() - running.began, cpu_s(resource.RUSAGE_CHILDREN) - cpu)
    if phase.pytest:
        _count(phase.report, result)
    say(f"{phase.name}: took {result.wall_s:.0f} s and {result.cpu_s:.0f} CPU s{_dearest(result)}")
    return result


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    """Keep every CPU busy until the block ends."""
    burners = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], stdin=subprocess.DEVNULL)
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def _count(report: Path, result: Result) -> None:
    """Read pytest's report; a missing report, or one without tests, is a failure."""
    try:
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        result.failed.append(Failure(result.phase.name, "", f"pytest wrote no report: {error}", result.wall_s))
        return
    for case in cases:
        seconds = float(case.get("time", "0"))
        file = f"{case.get('classname', '').replace('.', '/')}.py"
        name = f"{file}::{case.get('name')}"
        result.files[file] = result.files.get(file, 0.0) + float(_property(case, CPU) or 0)
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if bad is not None:
            result.failed.append(Failure(name, _property(case, "real_clock"), bad.get("message", ""), seconds))
        elif case.find("skipped") is not None:
            result.skipped += 1
        else:
            result.passed += 1
            result.passed_before += bool(_property(case, passed_before.PROPERTY))


def _dearest(result: Result) -> str:
    """Return the files whose tests used most CPU time, for the line of a phase."""
    dearest = sorted(result.files.items(), key=lambda each: -each[1])[:SHOWN_FILES]
    files = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in dearest)
    return f"; the tests of {files}" if files else ""


def _property(case: ElementTree.Element, name: str) -> str:
    return next((each.get("value", "") for each in case.iter("property") if each.get("name") == name), "")


# --- the second attempt --------------------------------------------------------------------------------------------


def repeat(results: Sequence[Result]) -> bool:
    """Run failed tests of real clocks once more, alone.

    Return whether each passed and not too many needed it.
    """
    failures = [failure for result in results for failure in result.failed if failure.nodeid]
    if not failures:
        return True
    if len(failures) > MOST_REPEATED:
        say(f"{len(failures)} tests of real clocks failed; {MOST_REPEATED} may run a second time, so none does")
        return False
    good = True
    for failure in failures:
        second = run(Phase("again", [ISOLATED, "-m", "pytest", "-q", failure.nodeid], pytest=True))
        ledger.record(failure.nodeid, failure.reason, failure.seconds, second.wall_s)
        good = good and second.status == 0 and second.passed == 1
    return good


# --- the whole -----------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Print a line of the gate, in order with the phases' output."""
    print(f"gate: {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if everything passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.gate", description="run every phase of the tests")
    parser.add_argument("--everything", action="store_true", help="also what leaves the gate: nightly tests and phases")
    parser.add_argument("--only", default="", help="phases to run, by name, separated by commas")
    parser.add_argument("--part", default="", help="one part of --everything, as 3/6; default: those without a record")
    given = parser.parse_args(arguments)
    if given.part and (given.only or not given.everything):
        parser.error("--part is for --everything, without --only")
    unwind_on_sigterm()
    if given.everything:
        os.environ[EVERYTHING] = "1"
        if not given.only:
            return _run_parts(given.part, parser.error)
    chosen = phases() + (nightly_phases() if given.everything else [])
    if given.only:
        names = given.only.split(",")
        if unknown := set(names) - {phase.name for phase in chosen}:
            parser.error(f"no phase {', '.join(sorted(unknown))}; there are {', '.join(p.name for p in chosen)}")
        chosen = [phase for phase in chosen if phase.name in names]
    return run_all(chosen)


def _run_parts(only: str, refuse: Callable[[str], NoReturn]) -> int:
    """Run one part, or all that have no record, one after the other. Return 0 if all passed."""
    every = {f"{number}/{len(found)}": part for found in [nightly_parts()] for number, part in enumerate(found, 1)}
    if only and only not in every:
        refuse(f"no part {only}; there are {', '.join(every)}")
    records, phases_of = parts.Records(PARTS, ROOT), phases_by_name()
    results = {}
    for number, part in every.items():
        if only and number != only:
            continue
        if not only and (passed := records.passed(part)):
            results[number] = passed
            say(f"part {number} has {passed}: {', '.join(part.phases)}")
            continue
        say(f"part {number}: {', '.join(part.phases)}")
        before, began = parts.digest_of(part, ROOT), time.monotonic()
        status, seconds = run_all([phases_of[name] for name in part.phases]), time.monotonic() - began
        results[number] = "FAILED" if status else f"passed in {seconds:.0f} s"
        if status:
            records.forget(part)
        else:
            records.write(part, before, seconds)
        if seconds > parts.MOST_S:
            say(f"part {number} took more than {parts.MOST_S // 60} minutes: divide it in tests/gate.py")
    for number, result in results.items():
        say(f"part {number} {result}")
    return int("FAILED" in results.values())


def run_all(chosen: list[Phase]) -> int:
    """Run phases, and report. Return 0 if everything passed."""
    chosen.sort(key=lambda phase: phase.alone)  # the others fill the time until the background has finished
    FOLDER.mkdir(parents=True, exist_ok=True)
    book = FOLDER / "ledger.jsonl"
    book.unlink(missing_ok=True)
    os.environ[ledger.LEDGER] = str(book)
    os.environ[SKIP_NOTHING] = "1"  # everything is installed: a test that cannot run is a failure

    began, taint, steal = time.monotonic(), TAINTED.read_text(), ledger.steal_s()
    results: list[Result] = []
    with contextlib.ExitStack() as until:
        background = [until.enter_context(started(phase)) for phase in chosen if phase.background]
        for phase in chosen:
            if phase.alone:
                results += [finish(each) for each in background if not each.phase.lowest_priority]
                background = [each for each in background if each.phase.lowest_priority]
            if not (phase.background or (phase.beside_load and _nothing_is_marked(results))):
                results.append(run(phase))
        results += map(finish, background)
    tainted = TAINTED.read_text() != taint
    repaired = not tainted and repeat(results)
    bad = [result for result in results if result.status and not (repaired and result.may_be_repaired)]
    _report(results, repaired, book, time.monotonic() - began, ledger.steal_s() - steal)
    if tainted:
        say(f"the kernel became tainted: {taint.strip()} -> {TAINTED.read_text().strip()} (/proc/sys/kernel/tainted)")
    if bad or tainted or not repaired:
        say(f"FAILED: {', '.join(result.phase.name for result in bad) or 'a second attempt, or the kernel'}")
        return 1
    say("all tests passed")
    return 0


def _nothing_is_marked(results: Sequence[Result]) -> bool:
    """Return whether the phase of real_clock tests ran without finding one."""
    return any(each.phase.may_be_empty and not (each.passed or each.failed or each.status) for each in results)


def _report(results: Sequence[Result], repaired: bool, book: Path, wall_s: float, steal_s: float) -> None:
    say("phase                  passed failed skipped  wall s   CPU s")
    for result in results:
        counts = f"{result.passed:7} {len(result.failed):6} {result.skipped:7}" if result.phase.pytest else " " * 22
        mark = "" if not result.status else f"  exit {result.status}"
        say(f"{result.phase.name:22}{counts} {result.wall_s:7.0f} {result.cpu_s:7.0f}{mark}")
        if result.passed_before:
            say(f"  {result.passed_before} of them passed with the same code before, and were not played again")
    for result in results:
        for failure in result.failed:
            say(f"failed: {failure.name}: {(failure.reason.splitlines() or [''])[0][:200]}")
    passed, failed = sum(each.passed for each in results), sum(len(each.failed) for each in results)
    if repaired:
        again = sum(bool(failure.nodeid) for each in results for failure in each.failed)
        passed, failed = passed + again, failed - again
    say(f"{wall_s:.0f} s in all, of which the hypervisor took {steal_s:.0f} CPU s; load {os.getloadavg()[0]:.1f}")
    entries = ledger.read(book)
    say(f"ledger: {len(entries)} repeated" if entries else "ledger: nothing was repeated")
    for entry in entries:
        say(f"  {entry}")
    print(f"total: {passed} passed, {failed} failed, {sum(each.skipped for each in results)} skipped", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt as interruption:
        say(f"interrupted: {interruption}")
        sys.exit(1)
