"""The tutorials work as printed: every command succeeds, and its output is that of the page."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.processes import tools_first

TUTORIALS = sorted((Path(__file__).parents[2] / "docs" / "tutorial").glob("*.md"))
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LAB = re.compile(r"lab up \S+ --name (\w+)")
PATIENCE_S = 180
CAPTURE = "-- tcpdump "
ANYTHING = "..."  # in the printed output: the rest may be anything
# The values on the page may differ from those of this run.
VARIES = re.compile(
    r"process \d+, .* ms late|since \d+ (?:s|min)\b|\d+ sent, \d+ received|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
)


def steps(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (command, lines of its output on the page) in the order of the text."""
    for block in CONSOLE.findall(text):
        for part in re.split(r"^# ", block, flags=re.MULTILINE)[1:]:
            command, *printed = part.rstrip("\n").split("\n")
            yield command, printed


def agree(printed: list[str], on_page: list[str]) -> bool:
    """Return whether the output is as on the page, except for blanks at line ends and what varies."""
    if ANYTHING in printed:
        end = printed.index(ANYTHING)
        return agree(printed[:end], on_page[:end])
    return [VARIES.sub("", line).rstrip() for line in printed] == [VARIES.sub("", line).rstrip() for line in on_page]


def run(command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does, with pylvs on PATH; a capture, which would not end, only starts."""
    environment = os.environ | {"PATH": tools_first()}
    if CAPTURE in command:
        return started(f"exec {command}", environment)
    return subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)


def started(command: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Start a capture, wait until it listens, and end it afterwards."""
    with subprocess.Popen(
        command, shell=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        on_page = ""
        for line in process.stderr:
            on_page += line
            if "listening on" in line:
                process.terminate()
        return subprocess.CompletedProcess(command, process.wait(PATIENCE_S), "", on_page)


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_works_as_printed(tutorial: Path) -> None:
    text = tutorial.read_text()
    found = LAB.search(text)
    assert found, f"{tutorial}: no lab is made"
    printed_name = found[1]
    name = f"tut{tutorial.stem}{os.getpid()}"
    shown = 0
    try:
        for command, printed in steps(text):
            done = run(re.sub(rf"\b{printed_name}\b", name, command))
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            on_page = done.stdout.replace(name, printed_name).splitlines()
            if printed:
                shown += 1
                assert agree(printed, on_page), (
                    f"{command}\nprinted:\n{chr(10).join(printed)}\nnow:\n{chr(10).join(on_page)}"
                )
    finally:
        run(f"pylvs lab list | grep -q '^{name} ' && pylvs lab down {name}")
    assert shown >= 2


def test_outputs_are_compared() -> None:
    assert list(steps("```console\n# a b\nc\n  d\n# e\n```\n")) == [("a b", ["c", "  d"]), ("e", [])]
    assert agree(["a", "b"], ["a ", "b"])
    assert agree(["a", "..."], ["a", "b", "c"])
    assert agree(["VI_1  MASTER since 9 s, priority 100"], ["VI_1  MASTER since 2 min, priority 100"])
    assert not agree(["VI_1  MASTER since 9 s, priority 100"], ["VI_1  MASTER since 9 s, priority 90"])
    assert not agree(["a"], ["a", "b"])
    assert not agree(["b", "..."], ["a", "b"])
