"""The page of a real daemon in a real Chromium: what an operator does with it, and a restart of the daemon."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab.conftest import MakeLab
from tests.lab.daemons import Daemon, daemon
from tests.lab.web_page.browser import Browser
from tests.lab.web_page.proxy import forwarded
from tests.waiting import until
from tests.web_server import token_file

PORT = 8480
SERVER = "10.0.0.21:80"
RULE = "[aria-label='Client rules'] tbody tr:first-child"
ROUTER = """
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    advert_int 0.1
    version 3
    virtual_ipaddress {
        10.0.0.150
    }
}
"""
SERVICE = """
virtual_server 10.0.0.100 80 {
    delay_loop 1
    lb_algo rr
    lb_kind DR
    protocol TCP
    real_server 10.0.0.21 80 {
        weight 1
        TCP_CHECK {
        }
    }
    real_server 10.0.0.22 80 {
        weight 1
        TCP_CHECK {
        }
    }
}
"""


def test_an_operator_does_all_of_it(browser: Browser, make_lab: MakeLab, tmp_path: Path) -> None:
    """Check now, weight, drain, enable, disable, rules, reload with what it changes, yield, doctor, trace; restart."""
    lab = make_lab("dr", 2)
    lab.sh("director", "ipvsadm -C")
    _, alice = token_file(tmp_path / "tokens")
    text = f"global_defs {{\nweb_address 127.0.0.1 {PORT}\nweb_tokens {tmp_path}/tokens\n}}\n{ROUTER}{SERVICE}"
    with daemon(lab, tmp_path, text) as running, forwarded(lab, PORT) as port:
        browser.open(f"http://127.0.0.1:{port}/", alice)
        browser.wait_text("All 2 servers answer their checks.", ".verdict")
        operate_a_server(browser, running)
        override_client_rules(browser, running)
        reload(browser, running)
        yield_a_router(browser, running)
        examine_and_trace(browser, running)
        browser.go("#/events")
        browser.wait_text("operated", ".events")
        assert "alice" in browser.wait_text("vrrp/yield", ".events")
        assert running.stop() == 0
        browser.wait_text("No connection to the page's server", ".banner")
        running.start()
        browser.wait_text("live", ".live")
        browser.wait_gone(".banner")
        browser.driver.get("about:blank")


def servers(running: Daemon) -> dict[str, Any]:
    found = running.client.ask("GET", "/v1/status")[1]["services"][0]["servers"]
    return {each["server"]: each for each in found}


def until_server(running: Daemon, holds: Callable[[Any], bool]) -> None:
    until(lambda: holds(servers(running).get(SERVER)), running.log)


def operate_a_server(browser: Browser, running: Daemon) -> None:
    browser.go("#/servers")
    first = "tbody tr:first-child"
    browser.click("Check now", first)
    browser.confirm("Check")
    browser.wait_text(f"{SERVER} is being checked.", ".toast")
    browser.click("Weight", first)
    browser.fill("dialog input[type=number]", "7")
    browser.confirm("Set weight")
    until_server(running, lambda server: server["weight"] == 7)
    browser.wait_text("7 of 1", first)
    browser.click("Weight", first)
    browser.find("dialog [type=checkbox]").click()
    browser.confirm("Set weight")
    until_server(running, lambda server: server["weight"] == 1)
    browser.click("Drain", first)
    browser.find("dialog option[value='']").click()
    browser.confirm("Drain")  # without connections, the drain may be complete before a sample
    until_server(running, lambda server: server["standing"] != "enabled")
    browser.click("Enable", first)
    browser.confirm("Enable")
    browser.wait_text("up", first)
    until_server(running, lambda server: server["standing"] == "enabled")
    browser.click("Disable", first)
    browser.confirm("Disable")
    browser.wait_text("disabled", first)
    until_server(running, lambda server: server["standing"] == "disabled")
    browser.click("Enable", first)
    browser.confirm("Enable")
    until_server(running, lambda server: server["standing"] == "enabled")


def override_client_rules(browser: Browser, running: Daemon) -> None:
    browser.go("#/services")
    browser.find("tbody a").click()
    browser.wait_text("None: every client may connect.")
    browser.click("Add", "main")
    browser.fill("dialog textarea", "deny 203.0.113.0/24\nlimit 0.0.0.0/0 20 a day")
    browser.click("Add", "dialog footer")
    browser.wait_text("20", "dialog [role=alert]")
    browser.fill("dialog textarea", "deny 203.0.113.0/24\nlimit 0.0.0.0/0 20/s")
    browser.confirm("Add")
    browser.wait_text("2 rules hold.", ".toast")
    browser.wait_text("limit 0.0.0.0/0 20/s")
    browser.click("Delete", RULE)
    browser.confirm("Delete")
    browser.wait_text("is deleted.", ".toast")
    rules = running.client.ask("GET", "/v1/client-rules/page")[1]
    assert rules["total"] == 1


def reload(browser: Browser, running: Daemon) -> None:
    browser.go("#/configuration")
    text = running.configuration.read_text()
    running.configuration.write_text(text.replace("lb_algo rr", "lb_algo nonsense"))
    browser.click("Reload", "main")
    browser.wait_text("nonsense", "dialog")
    browser.click("Reload", "dialog footer")
    browser.wait_text("nonsense", "dialog [role=alert]")
    browser.click("Cancel", "dialog footer")
    browser.wait_gone("dialog")
    running.configuration.write_text(text.replace("lb_algo rr", "lb_algo wrr"))
    browser.click("Reload", "main")
    browser.wait_text("wrr", "dialog .differences")
    browser.confirm("Reload")
    browser.wait_text("The configuration is reloaded.", ".toast")
    until(lambda: any("wrr" in line for line in running.listing()), running.log)


def yield_a_router(browser: Browser, running: Daemon) -> None:
    browser.go("#/vrrp")
    browser.wait_text("this director")
    browser.click("Yield", "main")
    browser.confirm("Yield")
    browser.wait_text("VI_1 yields.", ".toast")
    browser.wait_text("yielded by the operator")
    browser.click("Resume", "main")
    browser.confirm("Resume")
    browser.wait_text("this director")


def examine_and_trace(browser: Browser, running: Daemon) -> None:
    browser.go("#/doctor")
    browser.click("Examine now")
    browser.confirm("Examine")
    browser.wait_text("asked by alice", "main")
    browser.go("#/trace")
    browser.fill("input[required]", "10.0.0.5")
    browser.click("Trace", "main")
    browser.wait_text("Waiting for packets", "main")
    until(lambda: traced(browser, running), lambda: f"{browser.text()}\n{running.log()}")
    assert "10.0.0.100" in browser.text(".records")
    until(lambda: stopped(browser), browser.text)


def traced(browser: Browser, running: Daemon) -> bool:
    """Send a request, and return whether the page shows its packets.

    The first one may come before pylvs traces. Each has about ten packets, and a trace ends after a hundred: the next
    one is sent after a while. Without any for 30 s the trace has ended, and there is another one.
    """
    browser.press("Trace", "main")
    running.lab.sh("client", "curl -s --max-time 30 http://10.0.0.100/")
    with contextlib.suppress(AssertionError):
        until(lambda: browser.text(".records"), patience_s=5.0)
    return bool(browser.text(".records"))


def stopped(browser: Browser) -> bool:
    """Press Stop, unless the trace has ended by itself."""
    browser.press("Stop", "main")
    return browser.text("main [role=status]").startswith(("stopped", "the end of the trace"))
