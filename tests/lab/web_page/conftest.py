"""One browser for all tests of a process, and the page over a canned daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.web_page.browser import CHROMIUM, DRIVER, Browser, chromium
from tests.lab.web_page.canned import Site, served

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let these tests be skipped on Ubuntu, where no package brings Chromium."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.may_be_skipped)


@pytest.fixture(scope="session")
def chromium_of_all() -> Iterator[Browser]:
    for path in CHROMIUM, DRIVER:
        if not os.path.exists(path):
            pytest.skip(f"{path} is not installed")
    with chromium() as found:
        yield found


@pytest.fixture
def browser(chromium_of_all: Browser) -> Browser:
    """Return the browser, which knows no token."""
    chromium_of_all.forget()
    return chromium_of_all


@pytest.fixture
def site(site_of_module: Site) -> Site:
    """Return the page of a daemon with a hostile string in every field that others supply."""
    site_of_module.edits()
    return site_of_module


@pytest.fixture(scope="module")
def site_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(tmp_path_factory.mktemp("site")) as found:
        yield found
