"""A bad value is one line with its option, and what to do; nothing changes."""

from __future__ import annotations

import shlex

import pytest

from pylvs.cli.main import EXIT_FAILED, EXIT_USAGE, run


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("drain 10.0.0.1 --deadline x", "--deadline: 'x' is no length of time: write 90s, 10m, 1.5h; see pylvs drain"),
        ("drain 10.0.0.1 --deadline 367d", "--deadline 367d: must be from 0 to 366 days; see pylvs drain --help"),
        ("vrrp yield --for x", "--for: 'x' is no length of time: write 90s, 10m, 1.5h; see pylvs vrrp yield --help"),
        ("vrrp yield --for", "Option '--for' requires an argument; see pylvs vrrp yield --help"),
        ("run -S x", "--log-facility: 'x' is no syslog facility: write 0 to 7, local0 to local7, user or daemon; see"),
        ("keepalived -f", "Option '-f' requires an argument; see pylvs keepalived --help"),
        ("sysctl -a foo", "-a lists all settings; leave it out, or foo; see pylvs sysctl --help"),
        (
            "mark add --dst 10.0.0.1 --src '' 1",
            "--src '': is empty; give it a value, or leave it out; see pylvs mark add",
        ),
        ("mark del --dst '' 1", "--dst '': is empty; give it a value, or leave it out; see pylvs mark del"),
    ],
)
def test_wrong_usage_names_the_option_and_the_help(command: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shlex.split(command)) == EXIT_USAGE
    assert_one_line(text, capsys)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("mark add --dst 300.1.1.1 1", "--dst 300.1.1.1: not an address, and not a prefix such as 192.0.2.0/24"),
        ("mark add --dst 10.0.0.1 --dports , 1", "--dports '': not a port, and not a range such as 8000-8010"),
        ("mark add --dst 10.0.0.1 ''", "'': a mark is a number from 0 to 4294967295"),
        ("attach ''", "'': no such device; there are: "),
        ("realserver up ''", "'': not an IP address (a VIP is given without a prefix length)"),
        ("sysctl -w net.ipv4.vs.conn_max=-1", "net.ipv4.vs.conn_max=-1: must be 0, or from 1024 to 67108864"),
        ("sysctl -w drop_entry=4", "net.ipv4.vs.drop_entry=4: must be from 0 to 3"),
        ("keepalived -V", "-V would leave addresses that no virtual router advertises; leave out -V"),
    ],
)
def test_a_refused_value_is_named(
    command: str, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("director", "rules.mark"):
        monkeypatch.setattr(f"pylvs.cli.{module}.open_director", lambda: None)
    assert run(shlex.split(command)) == EXIT_FAILED
    assert_one_line(text, capsys)


def assert_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The text begins the only line, on standard error."""
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"pylvs: {text}"), err
