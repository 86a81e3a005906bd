"""Errors end in one place: one line on stderr, an exit status, no trace."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import NoReturn

import click
import pytest

from pylvs import __version__
from pylvs.cli import group, main
from pylvs.model.errors import NoSuchDevice


def command_that(raises: BaseException | None = None, result: object = None) -> click.Command:
    """Return a command with one option that raises this or returns this."""

    def callback(mode: str | None) -> object:
        if raises is not None:
            raise raises
        return result

    return click.Command(
        "probe", callback=callback, params=[click.Option(["--mode"], type=click.Choice(["tc", "xdp"]))]
    )


@pytest.fixture(params=[False, True], ids=["", "click-8.1"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Runner:
    """Return a runner with the installed click, and with one that lacks what click 8.1 of Debian 12 lacks."""
    if request.param and hasattr(click.exceptions, "NoArgsIsHelpError"):
        monkeypatch.delattr(click.exceptions, "NoArgsIsHelpError")
        monkeypatch.setattr("click.core.NoArgsIsHelpError", print_help_and_exit)
    return Runner(monkeypatch, capfd)


def print_help_and_exit(context: click.Context) -> NoReturn:
    """Do what click 8.1 does for a group without a command; later versions raise an error."""
    click.echo(context.get_help())
    context.exit()


class Runner:
    """Runs `pylvs probe ...` where probe is a given command; status, stdout, stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capfd = capfd

    def __call__(self, command: click.Command, *arguments: str) -> tuple[int, str, str]:
        module = ModuleType("pylvs_probe")
        module.probe = command  # type: ignore[attr-defined]  # made for this test
        self.monkeypatch.setitem(sys.modules, "pylvs_probe", module)
        self.monkeypatch.setattr(group, "COMMANDS", {"probe": ("pylvs_probe", "probe", "A probe.")})
        status = main.run(list(arguments))
        return status, *self.capfd.readouterr()


def test_a_command_that_works_prints_nothing_of_its_own(run: Runner) -> None:
    assert run(command_that(), "probe") == (0, "", "")


def test_a_number_that_a_command_returns_is_the_exit_status(run: Runner) -> None:
    assert run(command_that(result=7), "probe") == (7, "", "")


def test_what_a_user_can_cause_is_one_line_and_status_1(run: Runner) -> None:
    error = NoSuchDevice("eth7: no such device;\n  there are: lo, eth0")
    assert run(command_that(error), "probe") == (1, "", "pylvs: eth7: no such device; there are: lo, eth0\n")


def test_a_terminal_obeys_nothing_of_what_was_typed(run: Runner) -> None:
    error = NoSuchDevice("\x1b[31m\udcff: no such device")
    assert run(command_that(error), "probe") == (1, "", "pylvs: \ufffd[31m\ufffd: no such device\n")


def test_a_missing_file_is_named(run: Runner) -> None:
    assert run(command_that(FileNotFoundError(2, "No such file or directory", "plan.toml")), "probe") == (
        1,
        "",
        "pylvs: plan.toml: No such file or directory\n",
    )


def test_a_bug_is_reported_as_one_with_how_to_see_more(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, err = run(command_that(KeyError("slot")), "probe")
    assert (status, out) == (1, "")
    assert err == "pylvs: KeyError: 'slot': this is a bug; run with PYLVS_DEBUG=1 for the trace\n"
    monkeypatch.setenv("PYLVS_DEBUG", "1")
    assert "Traceback" in run(command_that(KeyError("slot")), "probe")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prob"], "No such command 'prob'"),
        (["probe", "--mod"], "No such option"),
        (["probe", "--mode", "x"], "Invalid value for '--mode'"),
        (["probe", "left", "over"], "Got unexpected extra arguments"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(run: Runner, arguments: list[str], message: str) -> None:
    status, out, err = run(command_that(), *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"pylvs: {message}")
    assert err.count("\n") == 1
    assert "--help" in err


def test_an_interrupt_is_quiet_and_status_130(run: Runner) -> None:
    status, out, err = run(command_that(KeyboardInterrupt()), "probe")
    assert (status, out, err.strip()) == (130, "", "")


def test_help_lists_commands_without_importing_them(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} was imported"))
    status, out, err = run(command_that(), "--help")
    assert (status, err) == (0, "")
    assert "probe  A probe." in out


def test_without_a_command_the_help_is_printed(run: Runner) -> None:
    """By click 8.1 on stdout, as done; later as wrong usage."""
    status, out, err = run(command_that())
    assert (status, bool(out), bool(err)) in ((0, True, False), (2, False, True))
    assert "probe  A probe." in out + err


def test_the_package_is_the_command() -> None:
    words = [sys.executable, "-m", "pylvs", "--version"]
    assert subprocess.check_output(words, text=True).startswith(f"pylvs {__version__}")
