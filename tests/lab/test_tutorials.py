"""The tutorials, typed as they stand: every command works, and prints what the text says it prints."""

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
ANYTHING = "..."  # in the printed output: what follows may be anything
# Printed as it once was; now it may be another.
VARIES = re.compile(r"process \d+, .* ms late|since \d+ (?:s|min)\b|\d+ sent, \d+ heard|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def steps(text: str) -> Iterator[tuple[str, list[str]]]:
    """(command, lines that it is said to print) in the order of the text."""
    for block in CONSOLE.findall(text):
        for part in re.split(r"^# ", block, flags=re.MULTILINE)[1:]:
            command, *printed = part.rstrip("\n").split("\n")
            yield command, printed


def agree(printed: list[str], said: list[str]) -> bool:
    """Whether the output is as printed, blanks at line ends and what varies apart."""
    if ANYTHING in printed:
        end = printed.index(ANYTHING)
        return agree(printed[:end], said[:end])
    return [VARIES.sub("", line).rstrip() for line in printed] == [VARIES.sub("", line).rstrip() for line in said]


def run(command: str) -> subprocess.CompletedProcess[str]:
    """A command as a shell runs it, with pylvs on PATH; a capture, which would go on, only starts."""
    environment = os.environ | {"PATH": tools_first()}
    if CAPTURE in command:
        return started(f"exec {command}", environment)
    return subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)


def started(command: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A capture that is ended as soon as it listens."""
    with subprocess.Popen(
        command, shell=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "listening on" in line:
                process.terminate()
        return subprocess.CompletedProcess(command, process.wait(PATIENCE_S), "", said)


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_does_what_it_says(tutorial: Path) -> None:
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
            said = done.stdout.replace(name, printed_name).splitlines()
            if printed:
                shown += 1
                assert agree(printed, said), f"{command}\nprinted:\n{chr(10).join(printed)}\nnow:\n{chr(10).join(said)}"
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
