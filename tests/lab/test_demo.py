"""The guided tour without a terminal, and its interruption."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest

from tests.lab.support import PYLVS, parts, remains
from tests.waiting import PATIENCE_S, until


def tour(*words: str) -> subprocess.Popen[str]:
    """Start a tour. The name of its lab has the PID."""
    return subprocess.Popen([*PYLVS, "lab", "demo", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("words", [["dr"], ["nat"], ["tun"], ["dr", "--ipv6"], ["tun", "--ipv6"]])
def test_the_tour_shows_what_it_explains(words: list[str]) -> None:
    with tour(*words) as process:
        shown, error = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, error) == (0, "")
    assert f"lab demo{process.pid}: " in shown
    output = re.findall(r"This is (rs\d) server!", shown)
    assert sorted(output[:6]) == ["rs1", "rs1", "rs2", "rs2", "rs3", "rs3"]
    assert shown.splitlines()[-1] == f"pylvs lab up {words[0]}"
    if words == ["dr"]:
        assert "Changed: destination MAC, source MAC, TTL, header checksum." in shown
    if words == ["dr", "--ipv6"]:
        assert "Changed: destination MAC, source MAC, hop limit." in shown
    assert "\x1b" not in shown
    assert remains(f"demo{process.pid}") == []


@pytest.mark.parametrize("step", [0, 1, 2, 4, 6])
def test_an_interrupted_tour_removes_its_lab(step: int) -> None:
    """Interrupted while the lab is made, and at the beginning of a step."""
    with tour("dr") as process:
        assert process.stdout is not None
        if step:
            assert any(line.startswith(f"{step}. ") or f" {step}. " in line for line in process.stdout)
        else:
            until(lambda: parts(f"demo{process.pid}"), "it is begun")
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert remains(f"demo{process.pid}") == []
