"""The sysctls as text: their names, bounds and the pair that is one setting of the kernel."""

from __future__ import annotations

import pytest

from pylvs.model.errors import InvalidOperation
from pylvs.model.settings import SETTINGS, parse_changes, parse_setting, shown_value

DEFAULTS = {name: setting.default for name, setting in SETTINGS.items()}


@pytest.mark.parametrize(
    ("value", "changes"),
    [
        ("3 50", {"sync_threshold": 3, "sync_period": 50}),
        (" 0  1 ", {"sync_threshold": 0, "sync_period": 1}),
        ("7\t0", {"sync_threshold": 7, "sync_period": 0}),
        ("49", {"sync_threshold": 49}),
    ],
)
def test_a_threshold_has_a_period(value: str, changes: dict[str, int]) -> None:
    parsed = parse_changes(f"net.ipv4.vs.sync_threshold={value}", DEFAULTS)
    assert {setting.name: number for setting, number in parsed} == changes


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("50", "must be less than the period, 50"),
        ("5 5", "must be less than the period, 5"),
        ("-1 5", "must be from 0 to"),
        ("1 2 3", "has two numbers"),
        ("1 x", "'x' is not a whole number"),
        ("", "'' is not a whole number"),
    ],
)
def test_a_threshold_is_less_than_its_period(value: str, error: str) -> None:
    with pytest.raises(InvalidOperation, match=error):
        parse_changes(f"sync_threshold={value}", DEFAULTS)


def test_a_pair_is_shown_as_the_kernel_does() -> None:
    assert shown_value("sync_threshold", DEFAULTS) == "3 50"
    assert shown_value("sync_retries", DEFAULTS) == "0"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("sync_ports=3", "must be a power of two"),
        ("sync_ports=0", "must be from 1 to 64"),
        ("sync_ports=128", "must be from 1 to 64"),
        ("sync_version=2", "must be from 0 to 1"),
        ("sync_retries=4", "must be from 0 to 3"),
        ("sync_refresh_period=-1", "must be from 0 to"),
    ],
)
def test_a_setting_of_the_sync_daemons_has_bounds(text: str, error: str) -> None:
    with pytest.raises(InvalidOperation, match=error):
        parse_setting(text)
