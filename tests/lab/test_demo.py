"""The guided tour, as it is for somebody without a terminal, and for somebody who has seen enough."""

from __future__ import annotations

import re
import signal
import subprocess
import time

import pytest

from tests.lab.support import PYLVS, remains


def tour(*words: str) -> subprocess.Popen[str]:
    """A tour under way. Its lab is called after the process."""
    return subprocess.Popen([*PYLVS, "lab", "demo", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("words", [["dr"], ["nat"], ["tun"], ["dr", "--ipv6"], ["tun", "--ipv6"]])
def test_the_tour_shows_what_it_says(words: list[str]) -> None:
    with tour(*words) as process:
        shown, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (0, "")
    assert f"lab demo{process.pid}: " in shown
    said = re.findall(r"This is (rs\d) server!", shown)
    assert sorted(said[:6]) == ["rs1", "rs1", "rs2", "rs2", "rs3", "rs3"]
    if words == ["dr"]:
        assert "Changed: destination MAC, source MAC, TTL, header checksum." in shown
    if words == ["dr", "--ipv6"]:
        assert "Changed: destination MAC, source MAC, hop limit." in shown
    assert "\x1b" not in shown
    assert remains(f"demo{process.pid}") == []


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.8, 1.5])
def test_an_interrupted_tour_leaves_nothing_behind(seconds: float) -> None:
    with tour("dr") as process:
        while not remains(f"demo{process.pid}") and process.poll() is None:
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=30)
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert "Traceback" not in complaint
    assert remains(f"demo{process.pid}") == []
