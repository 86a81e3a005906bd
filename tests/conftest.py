"""Settings of all tests: which tests need root, and what happens without it."""

from __future__ import annotations

import fcntl
import gc
import math
import os
import resource
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pylvs.bpf.kernel import CONNECTIONS
from pylvs.system.processes import shortage
from tests.running import register
from tests.termination import allow_interrupts, unwind_on_sigterm

RANDOM = "PYLVS_TESTS_RANDOM"  # with it, examples are different each time

# Examples have no deadline, because the machine may be busy. They are the same each time, so that a failure means a
# change.
settings.register_profile("pylvs", deadline=None, derandomize=RANDOM not in os.environ)
settings.load_profile("pylvs")

shortage.STEADY_S = math.inf  # a shortage that a test plays does not end the process of the tests

HERE = Path(__file__).parent
NEED_ROOT = ("packet", "lab", "interop")  # folders whose tests make network namespaces and load BPF
SKIP_NOTHING = "PYLVS_TESTS_SKIP_NOTHING"  # set by ./dev test, which installs everything
CPU = "cpu_s"  # in junit's report, for tests/gate.py
_CPU_BEFORE = pytest.StashKey[float]()
EVERYTHING = "PYLVS_TESTS_EVERYTHING"  # set by ./dev test-all
SHARE = "PYLVS_TESTS_SHARE"  # set by ./dev test-all for a part of a phase: "2/4" is every fourth test, from the second


def pytest_configure() -> None:
    """Remove namespaces when `timeout` or Ctrl-C ends the run; the workers of xdist run this, too.

    tests/sweep.py removes what a killed run left, by the records of test runs.
    """
    unwind_on_sigterm()
    allow_interrupts()
    register()
    for name in "PYLVS_COMMAND", "PYLVS_REMOVAL":  # `./dev run pytest` sets them for labs of its user
        os.environ.pop(name, None)
    os.environ.setdefault(CONNECTIONS, "32768")  # not a 24th of memory for each network namespace


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let the workers of xdist collect one after the other: the first one compiles the tests for all of them."""
    with open(__file__, "rb") as shared:
        if "PYTEST_XDIST_WORKER" in os.environ:
            fcntl.flock(shared, fcntl.LOCK_EX)
        return (yield)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `./dev test-all` runs, and skip tests that need root without it."""
    if EVERYTHING not in os.environ:
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        if nightly:
            config.hook.pytest_deselected(items=nightly)
            items[:] = [item for item in items if not item.get_closest_marker("nightly")]
    if share := os.environ.get(SHARE):
        number, of = map(int, share.split("/"))
        config.hook.pytest_deselected(items=[item for index, item in enumerate(items) if index % of != number - 1])
        items[:] = items[number - 1 :: of]
    for item in items:
        for name in "nightly", "real_clock":
            marker = item.get_closest_marker(name)
            if marker and not (len(marker.args) == 1 and isinstance(marker.args[0], str)):
                raise pytest.UsageError(f"{item.nodeid}: {name} takes the reason, and nothing else")
        if item.get_closest_marker("real_clock"):
            item.user_properties.append(("real_clock", item.nodeid))  # into junit's report, for tests/gate.py
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root: network namespaces and BPF")
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.relative_to(HERE).parts[0] in NEED_ROOT:
            item.add_marker(skip)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin to count the CPU time of a test, with its fixtures and its processes that end."""
    item.stash[_CPU_BEFORE] = cpu_s()


def cpu_s(*whose: int) -> float:
    """Return the CPU time of this process, or of its children that have ended, as resource.getrusage names them."""
    used = map(resource.getrusage, whose or (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """If nothing may be skipped, turn a skip into a failure with the missing requirement.

    A test marked `may_be_skipped` may still be skipped on a developer's machine, but not in continuous integration.
    """
    report = yield
    if call.when == "teardown":
        report.user_properties.append((CPU, f"{cpu_s() - item.stash[_CPU_BEFORE]:.3f}"))
    lenient = item.get_closest_marker("may_be_skipped") and not os.environ.get("CI")
    allowed = hasattr(report, "wasxfail") or lenient
    if report.skipped and not allowed and os.environ.get(SKIP_NOTHING):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped where nothing may be: {call.excinfo and call.excinfo.value}"
    return report


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the source tree."""
    return HERE.parent


@pytest.fixture
def public_path() -> Iterator[Path]:
    """Return an empty directory that all users may enter.

    Every pytest that starts makes the parents of `tmp_path` private again, also those of tests that run.
    """
    with tempfile.TemporaryDirectory(prefix="pylvs-public-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="session")
def _modules_are_no_garbage() -> Iterator[None]:
    """Exclude from garbage collection what existed before the first test, because it would take most of the time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def _leaks_are_found_where_they_were_made(_modules_are_no_garbage: None) -> Iterator[None]:
    """Collect garbage after each module.

    Open tasks, coroutines and sockets warn when they are collected, and a warning is a failure. Without this, the
    failure would be that of the test which runs during a later collection. A Director and its Editor refer to each
    other and hold open maps.
    """
    yield
    gc.collect()
