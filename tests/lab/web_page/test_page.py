"""The web page in a real Chromium, over a canned daemon with hostile strings in every field that others supply."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from urllib.parse import urlencode

from tests.lab.web_page.browser import DESKTOP, PHONE, Browser
from tests.lab.web_page.canned import Site
from tests.waiting import until
from tests.web_server import client_rules, peer

LOADS, ACTIONS = 8, 2  # more loads than a browser has connections to a host; actions after each


def test_each_action_is_answered_however_many_pages_the_browser_keeps(browser: Browser, site: Site) -> None:
    """A browser keeps pages that one has left, with their streams, and opens six connections to a host."""
    browser.open(site.url, site.operator)
    for number in range(LOADS):
        browser.driver.get(f"{site.url}?load={number}#/servers")
        for _ in range(ACTIONS):
            browser.click("Check now")
            browser.confirm("Check")
    assert site.edits() == ["/v1/check-now"] * LOADS * ACTIONS


def test_a_page_in_the_background_leaves_its_connection_to_others(browser: Browser, site: Site) -> None:
    browser.open(site.url, site.operator)
    first = browser.driver.current_window_handle
    until(lambda: site.connections() == 1, "the stream of the first page")
    browser.driver.switch_to.new_window("tab")
    until(lambda: site.connections() == 0, "no stream of a page in the background")
    browser.driver.close()
    browser.driver.switch_to.window(first)
    browser.wait_text("live", ".live")
    until(lambda: site.connections() == 1, "the stream of the first page again")


def test_a_link_signs_in_where_the_page_is_open(browser: Browser, site: Site) -> None:
    browser.open(site.url, site.reader, "#/servers")
    browser.wait_text("reader, read", ".who")
    browser.run("window.location.hash = arguments[0]", f"#token={site.operator}")
    browser.wait_text("alice, operate", ".who")
    assert browser.driver.current_url == f"{site.url}#/servers"


def test_a_refused_link_shows_why_and_leaves_no_token_in_the_address(browser: Browser, site: Site) -> None:
    past = site.token("bob", "read", "2020-01-01")
    for token, reason in (("wrong", "the token is unknown"), ("%E0%A4%A", "the token is unknown"), (past, "expired")):
        browser.driver.get("about:blank")
        browser.driver.get(f"{site.url}#token={token}")
        assert reason in browser.wait_text(reason, ".signin [role=alert]")
        assert browser.driver.current_url == site.url
    browser.fill(".signin input", "no-such-token")
    browser.click("Sign in")
    browser.wait_text("the token is unknown", ".signin [role=alert]")
    browser.fill(".signin input", site.reader)
    browser.click("Sign in")
    browser.wait_text("reader, read", ".who")
    browser.run("window.location.hash = '#token=wrong'")
    assert "You are still signed in" in browser.wait_text("the token is unknown", "main .banner")
    browser.click("Close", ".banner")
    browser.wait_gone("main .banner")


def test_a_token_that_expires_ends_the_page_with_the_reason(browser: Browser, site: Site) -> None:
    browser.open(site.url, site.operator)
    lines = site.tokens()
    site.expire()
    try:
        browser.wait_text("the token is expired: sign in again", ".signin [role=alert]")
    finally:
        site.write_tokens(lines)


def test_a_page_reports_that_its_server_or_daemon_is_gone_and_recovers(browser: Browser, site: Site) -> None:
    browser.open(site.url, site.operator)
    os.kill(site.process, signal.SIGSTOP)  # until the parent kills it for its silence, as a network that loses packets
    browser.wait_text("No connection to the page's server", ".banner")
    browser.wait_text("live", ".live")
    browser.wait_gone(".banner")
    site.daemon.down = "no pylvs run answers at /run/pylvs.sock; start it"
    browser.wait_text(site.daemon.down, ".banner")
    assert "Packets are forwarded without it" in browser.text(".banner")
    browser.wait_text("no data", ".live")
    site.daemon.down = ""
    browser.wait_text("live", ".live")
    browser.wait_gone(".banner")


def test_a_stream_that_is_silent_for_long_is_opened_again(browser: Browser, site: Site) -> None:
    browser.open(site.url, site.reader)
    browser.run(
        "const Real = EventSource; window.opened = 0;"
        "window.EventSource = class extends Real { constructor(url) { super(url); window.opened++; } };"
        "const now = Date.now; Date.now = () => now() + 100 * performance.now();"  # the clock of the page runs fast
    )
    site.daemon.hangs = True
    try:
        browser.until(lambda: browser.run("return window.opened"), "another stream")
    finally:
        site.daemon.hangs = False


def test_a_stream_that_is_refused_is_asked_for_seldom(browser: Browser, site: Site) -> None:
    """A proxy may answer it with an error, or the server has too many."""
    browser.open(site.url, site.reader)
    browser.run(
        "window.opened = []; window.EventSource = class extends EventTarget { static CLOSED = 2; readyState = 2;"
        "constructor() { super(); opened.push(performance.now()); setTimeout(() => this.onerror?.()); } close() {} };"
    )
    browser.go("#/servers")
    browser.until(lambda: browser.run("return opened.length > 2"), "three streams")
    times = browser.run("return opened")
    assert all(later - former > 1500 for former, later in pairwise(times)), times  # ms; a slow machine takes longer


def test_a_dialog_stays_when_its_row_leaves_and_when_a_phone_is_turned(browser: Browser, site: Site) -> None:
    service = site.daemon.replies["/v1/status"]["services"][0]
    servers = service["servers"]
    browser.open(site.url, site.operator, "#/servers?sort=down")
    browser.click("Drain", "tbody tr:first-child")
    title = browser.wait_text("Drain 10.0.0.2:80", "dialog h2")
    try:
        service["servers"] = servers[:2]
        browser.until(lambda: browser.run("return document.querySelectorAll('tbody tr').length") == 2, "two rows")
        browser.size(*PHONE)
        assert browser.run("return document.querySelector('dialog').matches(':modal')")
        assert browser.run("return document.querySelector('dialog').getBoundingClientRect().width") > 100
        assert browser.text("dialog h2") == title
    finally:
        service["servers"] = servers
        browser.size(*DESKTOP)
    browser.go("#/events")
    browser.wait_gone("dialog")


def test_the_dialog_of_an_action_that_fails_shows_why(browser: Browser, site: Site) -> None:
    browser.open(site.url, site.operator, "#/servers")
    browser.click("Check now")
    browser.find("dialog[open]")
    site.daemon.refused = "10.0.0.0:80: the service has no such server"
    try:
        browser.click("Check", "dialog[open] footer")
        browser.wait_text(site.daemon.refused, "dialog [role=alert]")
    finally:
        site.daemon.refused = ""
    browser.click("Check", "dialog[open] footer")
    browser.wait_gone("dialog")
    browser.wait_text("10.0.0.0:80 is being checked", ".toast")


def test_client_rules_are_added_and_only_those_of_operators_deleted(browser: Browser, site: Site) -> None:
    name, replies = site.daemon.replies["/v1/status"]["services"][0]["name"], site.daemon.replies
    target, kept, page = f"#/service?{urlencode({'name': name})}", dict(replies), "/v1/client-rules/page"
    try:
        replies[page] = client_rules(name, "192.0.2.0/24", "203.0.113.0/24")
        browser.open(site.url, site.reader, target)
        browser.wait_text("deny 203.0.113.0/24")
        buttons = "return [...document.querySelectorAll('main button')].map((each) => each.innerText)"
        assert not {"Add", "Delete"} & set(browser.run(buttons))
        browser.open(site.url, site.operator, target)
        browser.wait_text("deny 192.0.2.0/24")
        replies[page] = client_rules(name, "192.0.2.0/24")
        browser.click("Delete", "main")  # the only button of this name
        browser.confirm("Delete")
        browser.wait_text("The rule of 203.0.113.0/24 is deleted.", ".toast")
        replies[page] = client_rules(name)
        replies["/v1/client-rules/add"] = {"problem": "the table is full"}
        browser.click("Add", "main")
        browser.fill("dialog textarea", "deny 198.51.100.0/24")
        browser.click("Add", "dialog footer")
        browser.wait_text("the table is full", "dialog [role=alert]")
        replies["/v1/client-rules/add"] = {"problem": ""}
        browser.confirm("Add")
        browser.wait_text("None: every client may connect.")
        given = [(each.path, each.given) for each in site.daemon.edits()]
        rules = ("/v1/client-rules/add", {"service": name, "rules": ["deny 198.51.100.0/24"]})
        assert given == [("/v1/client-rules/delete", {"service": name, "prefixes": ["203.0.113.0/24"]}), rules, rules]
        site.daemon.absent.add(page)
        browser.open(site.url, site.operator, target)
        browser.wait_text("it is older than this page", ".error")
    finally:
        site.daemon.absent.clear()
        replies.clear()
        replies.update(kept)


def test_doctor_and_the_copy_of_connections_begin_after_a_confirmation(browser: Browser, site: Site) -> None:
    site.daemon.replies["/v1/status"]["peer"] = peer("")
    try:
        browser.open(site.url, site.operator, "#/peer")
        browser.click("Copy connections", ".card")
        assert site.edits() == []
        browser.confirm("Copy")
        browser.wait_text("The copy has begun.", ".toast")
        assert site.edits() == ["/v1/peer/copy"]
    finally:
        site.daemon.replies["/v1/status"]["peer"] = None
    browser.go("#/doctor")
    browser.click("Examine now")
    browser.find("dialog[open]")
    assert browser.json("api/v1/doctor")["at"] is None
    browser.confirm("Examine")
    until(lambda: browser.json("api/v1/doctor")["at"] is not None, "the examination's end")


def test_drops_have_the_rate_at_which_each_reason_is_counted(browser: Browser, site: Site) -> None:
    reasons = site.daemon.replies["/v1/drops"]["reasons"]
    browser.open(site.url, site.reader, "#/drops")
    browser.wait_text("dropped", "tbody")
    before, rate = reasons[0]["count"], "[aria-label=Reasons] td:nth-child(4)"
    reasons[0]["count"] += 100_000
    try:
        browser.until(lambda: browser.text(rate) not in ("", "–", "0"), "a rate")
    finally:
        reasons[0]["count"] = before


def test_two_checks_of_one_kind_have_a_row_each(browser: Browser, site: Site) -> None:
    server = site.daemon.replies["/v1/status"]["services"][0]["servers"][0]
    one = server["checks"][0]
    server["checks"] = [{**one, "reason": "the first"}, {**one, "reason": "the second"}]
    try:
        name = site.daemon.replies["/v1/status"]["services"][0]["name"]
        browser.open(site.url, site.reader)
        browser.run(
            "window.location.hash = '#/server?' + new URLSearchParams({server: arguments[0], service: arguments[1]})",
            server["server"],
            name,
        )
        browser.wait_text("the second")
        server["checks"] = [{**one, "reason": "the third"}, *server["checks"]]
        for reason in "the first", "the second", "the third":
            browser.wait_text(reason)
        rows = browser.run("return [...document.querySelectorAll('[aria-label=Checks] tbody tr')].length")
        assert rows == 3
    finally:
        server["checks"] = [one]
