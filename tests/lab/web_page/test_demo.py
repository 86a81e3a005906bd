"""`./dev demo --web`: the page of a lab that its visitor may break."""

from __future__ import annotations

import re
import signal
import subprocess

from tests.lab.support import PYLVS, remains
from tests.lab.web_page.browser import Browser
from tests.waiting import PATIENCE_S, until

WHEN = "main [aria-live] p"  # the number of findings, and the time of the examination


def examined(browser: Browser) -> str:
    """Return the findings of one more examination. On a busy machine one may miss what the next one finds."""
    before = browser.text(WHEN)
    browser.click("Examine now")
    browser.confirm("Examine")
    until(lambda: browser.text(WHEN) not in ("", before), browser.text)
    return browser.text(".findings")


def test_a_visitor_breaks_a_director_and_the_page_shows_it(browser: Browser) -> None:
    command = [*PYLVS, "lab", "demo", "--web"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            name, shown = f"demo{process.pid}", ""
            for line in process.stdout:
                shown += line
                if "Ctrl-C" in line:
                    break
            url, token = re.findall(r"(http://\S+/)#token=(\S+)", shown)[0]
            browser.open(url, token)
            browser.wait_text("All 3 servers answer their checks.", ".verdict")
            browser.until(lambda: browser.json("api/v1/overview")["rates"]["connections"] > 0, "traffic")
            commands = re.findall(rf"lab exec {name} (\S+ .*)", shown)
            assert [each.split()[0] for each in commands] == ["rs1", "rs1", "director", "director"]
            subprocess.run([*PYLVS, "lab", "exec", name, *commands[0].split()], check=True, timeout=PATIENCE_S)
            browser.wait_text("1 server down", ".verdict")
            subprocess.run([*PYLVS, "lab", "exec", name, *commands[2].split()], check=True, timeout=PATIENCE_S)
            browser.go("#/doctor")
            until(lambda: "10.0.0.100" in examined(browser), browser.text)
        finally:
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, error) == (0, "")
    assert "The lab is removed." in out
    assert remains(name) == []
