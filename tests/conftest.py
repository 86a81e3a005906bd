"""What all tests share: which of them need root, and what then happens without it."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.running import register
from tests.termination import unwind_on_sigterm

RANDOM = "PYLVS_TESTS_RANDOM"  # whoever sets it gets other examples each time

# Examples take as long as the machine lets them: what they find counts, not when. They are the same each time, so that
# a failure tells of a change.
settings.register_profile("pylvs", deadline=None, derandomize=RANDOM not in os.environ)
settings.load_profile("pylvs")

HERE = Path(__file__).parent
NEED_ROOT = ("packet", "lab", "interop")  # folders whose tests make network namespaces and load BPF
SKIP_NOTHING = "PYLVS_TESTS_SKIP_NOTHING"  # set by ./dev test, which has installed everything
EVERYTHING = "PYLVS_TESTS_EVERYTHING"  # set by ./dev test-all


def pytest_configure() -> None:
    """A run that is ended by `timeout` leaves no namespaces; xdist's workers come by here, too.

    What a run that was killed leaves is removed by tests/sweep.py, which asks who has registered.
    """
    unwind_on_sigterm()
    register()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `./dev test-all` runs, and skip tests that need root where there is none."""
    if EVERYTHING not in os.environ:
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        if nightly:
            config.hook.pytest_deselected(items=nightly)
            items[:] = [item for item in items if not item.get_closest_marker("nightly")]
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where nothing may be skipped, a skip is a failure that says what is missing.

    A test marked `may_be_skipped` may still be skipped on a developer's machine, and never by continuous integration.
    """
    report = yield
    lenient = item.get_closest_marker("may_be_skipped") and not os.environ.get("CI")
    allowed = hasattr(report, "wasxfail") or lenient
    if report.skipped and not allowed and os.environ.get(SKIP_NOTHING):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped where nothing may be: {call.excinfo and call.excinfo.value}"
    return report


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return HERE.parent
