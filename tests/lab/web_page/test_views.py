"""Each part of the page in a real Chromium: roles, screens, hostile strings, long lists, and without a script."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from urllib.parse import urlencode

import axe_core_python
import pytest

from tests.lab.web_page.browser import DESKTOP, PHONE, Browser, alerts
from tests.lab.web_page.canned import Site, served
from tests.lab.web_page.proxy import proxied
from tests.web_server import HOSTILE, CannedDaemon, peer

NODE_MODULES = Path(__file__).parents[3] / "web/node_modules"
AXE = NODE_MODULES / "axe-core/axe.min.js"  # of a tree in which ./dev web has run; else an older one of PyPI
AXE_OF_PYPI = Path(axe_core_python.__file__).parent / "axe.min.js"
# What each part shows of the hostile strings: an element that has one of them as its text.
PARTS = {
    "": "main",
    "services": "tbody",
    "servers": "tbody",
    "service": "main",
    "server": "main",
    "topology": "main",
    "vrrp": "tbody",
    "peer": ".facts",
    "events": ".events",
    "problems": "tbody",
    "drops": "tbody",
    "doctor": ".findings",
    "trace": ".records",
    "configuration": ".tree",
}


@pytest.fixture
def part(browser: Browser, site: Site) -> Callable[[str], None]:
    """Return what shows a part of the page, and waits for what it shows."""
    name = site.daemon.replies["/v1/status"]["services"][0]["name"]
    queries = {
        "service": "?" + urlencode({"name": name}),
        "server": "?" + urlencode({"service": name, "server": "10.0.0.0:80"}),
    }
    site.daemon.replies["/v1/status"]["peer"] = peer(HOSTILE)
    browser.open(site.url, site.operator)

    def show(part: str) -> None:
        browser.go(f"#/{part}{queries.get(part, '')}")
        if part == "doctor":
            browser.click("Examine now")
            browser.confirm("Examine")
        elif part == "trace":
            browser.fill("input[required]", "192.0.2.7")
            browser.click("Trace", "main")
        browser.wait_text(HOSTILE[:12], PARTS[part])
        browser.until(lambda: "Loading" not in browser.text("main"), "all of it")

    return show


def test_each_part_is_accessible_and_no_hostile_string_runs(
    browser: Browser, site: Site, part: Callable[[str], None]
) -> None:
    browser.run((AXE if AXE.exists() else AXE_OF_PYPI).read_text())
    found = []
    for name in PARTS:
        part(name)
        found += violations(browser, f"#/{name}")
    assert not found, "\n".join(found)
    assert alerts(browser) == []
    assert browser.run("return document.querySelectorAll('main img, main script').length") == 0
    assert [each for each in browser.console() if "Content Security Policy" in each] == []


def violations(browser: Browser, what: str) -> list[str]:
    """Return what axe-core finds in each theme at each width, and where the page is wider than the screen."""
    script = """
        axe.run(document, {resultTypes: ["violations"]}).then((found) => arguments[0](found.violations.flatMap(
            (each) => each.nodes.map((node) => `${each.id}: ${node.html.slice(0, 160)}: ${node.failureSummary}`))));
    """
    found = []
    for size, theme in product((PHONE, DESKTOP), ("light", "dark")):  # the size of a test last
        browser.size(*size)
        browser.theme(theme)
        where = f"{what}, {theme}, {size[0]} pixels"
        found += [f"{where}: {each}" for each in browser.driver.execute_async_script(script)]
        if browser.run("return document.scrollingElement.scrollWidth > innerWidth"):
            found.append(f"{where}: is wider than the screen")
    return found


def test_a_reader_sees_no_action_and_may_do_none(browser: Browser, site: Site) -> None:
    browser.open(site.url, site.reader)
    for name, shown in (("servers", "tbody"), ("vrrp", "tbody"), ("doctor", "main"), ("configuration", ".tree")):
        browser.go(f"#/{name}")
        browser.wait_text(HOSTILE[:12] if shown != "main" else "It probes", shown)
        script = "return [...document.querySelectorAll('main button')].map((each) => each.innerText)"
        assert set(browser.run(script)) <= {"What would a reload change?"}, name
    browser.go("#/trace")
    browser.wait_text("It needs a token that may operate.")
    script = """
        fetch("api/v1/drain", {method: "POST", body: '{"server": "10.0.0.0:80"}', headers:
            {"Content-Type": "application/json", "X-Pylvs": "1"}}).then((reply) => arguments[0](reply.status));
    """
    assert browser.driver.execute_async_script(script) == 403
    assert site.edits() == []


def test_ten_thousand_servers_are_one_list_to_work_with(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path, lambda: CannedDaemon(10_000, "a text")) as site:
        browser.open(site.url, site.operator, "#/servers")
        browser.wait_text("1–100 of 10,000", ".pager")
        browser.click("Next →")
        browser.wait_text("101–200 of 10,000", ".pager")
        browser.fill(".filter input", "10.0.39.15:80")
        browser.wait_gone(".pager")
        browser.wait_text("10.0.39.15:80", "tbody")
        assert browser.run("return document.querySelectorAll('tbody tr').length") == 1
        browser.click("Check now")
        browser.confirm("Check")
        assert site.edits() == ["/v1/check-now"]
        browser.go("#/topology")
        browser.wait_text("9500 more are not drawn")


def test_without_a_script_there_are_tables(browser: Browser, site: Site) -> None:
    switch = "Emulation.setScriptExecutionDisabled"
    browser.driver.execute_cdp_cmd(switch, {"value": True})
    try:
        browser.driver.get(site.url)
        browser.until(lambda: browser.driver.current_url == f"{site.url}plain", "the page without a script")
        browser.fill("input[type=password]", site.reader)
        browser.find("button").click()
        shown = browser.wait_text("2 of 3 real servers are up")
        assert HOSTILE in shown
        browser.find("a[href*='service=']").click()
        browser.wait_text("10.0.0.2:80")
        assert browser.driver.current_url.startswith(f"{site.url}plain?service=")
    finally:
        browser.driver.execute_cdp_cmd(switch, {"value": False})


@pytest.mark.parametrize("removed", ["/lb", ""])
def test_a_proxy_may_have_the_page_below_a_path(browser: Browser, tmp_path: Path, removed: str) -> None:
    """It passes the path as it is, or without the prefix."""
    with served(tmp_path) as site:
        port = int(site.url.rpartition(":")[2].strip("/"))
        with proxied(lambda: socket.create_connection(("127.0.0.1", port)), removed) as own:
            url = f"http://127.0.0.1:{own}/lb/"
            site.settings = replace(site.settings, url=url)
            site.serve()
            browser.open(url, site.operator, "#/servers")
            browser.click("Check now")
            browser.confirm("Check")
            assert site.edits() == ["/v1/check-now"]
            assert [each["path"] for each in browser.driver.get_cookies()] == ["/lb/"]
            browser.driver.get("about:blank")
