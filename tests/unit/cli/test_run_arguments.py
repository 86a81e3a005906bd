"""The command line of `pylvs run` means the same with click and without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from pylvs.cli import run_arguments
from pylvs.cli.daemon import run


def by_click(words: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the arguments that click's command gives to `start`."""
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(run_arguments, "start", lambda **each: given.append(each))
    run.main(words, standalone_mode=False)
    return given[0]


def test_each_option_is_one_of_click() -> None:
    options = [each for each in run.params if isinstance(each, click.Option)]
    flags = {name: each.name for each in options if each.is_flag for name in each.opts}
    values = {name: each.name for each in options if not each.is_flag for name in each.opts}
    assert (flags, values) == (run_arguments.FLAGS, run_arguments.VALUES)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "-f /etc/a.conf --strict --no-vrrp --no-checks -I",
        "-f/etc/a.conf --use-file=b.conf -i one --config-id two -ithree --dont-release-ipvs",
        "--log-format json --log-level=debug -s blue -p a -c b -r c --state-dir /nowhere/state",
        "--namespace=blue --pid=a --checkers-pid=b --vrrp-pid=c -S 3 --log-facility=user",
    ],
)
def test_it_means_the_same_as_with_click(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_arguments.parse(words.split())
    assert found is not None
    theirs = by_click(words.split(), monkeypatch)
    theirs["log_facility"] = found.get("log_facility", "") and theirs["log_facility"]
    ours = {"log_facility": "", **found}
    if ours["log_facility"]:
        ours["log_facility"] = theirs["log_facility"]  # click's command has looked its name up
    defaults = by_click([], monkeypatch)
    assert {**defaults, **ours} == theirs


@pytest.mark.parametrize(
    "words",
    ["--help", "-f", "--colour", "unknown", "--log-format xml", "--log-level 3", "-S local9", "-If x", "--"],
)
def test_everything_else_is_left_to_click(words: str) -> None:
    assert run_arguments.parse(words.split()) is None


def test_a_state_directory_that_is_a_file_is_left_to_click(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    assert run_arguments.parse(["--state-dir", str(tmp_path / "state")]) is None
