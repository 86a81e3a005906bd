"""--mss-clamp, which the kernel's ipvsadm lacks: parsed, listed, and saved as it is read."""

from __future__ import annotations

import pytest

from pylvs.ipvsadm.listing import rule_lines, scheduling
from pylvs.ipvsadm.options import OptionError
from pylvs.ipvsadm.parsing import parse
from pylvs.model.rows import ServiceRow
from tests.unit.ipvsadm.replaying import NAMES

ADD = ["-A", "-t", "192.0.2.1:80", "-s", "mh"]


def test_a_clamp_is_listed_and_saved_as_it_is_read() -> None:
    service = parse([*ADD, "--mss-clamp", "1360"], NAMES).service()
    assert service.mss_clamp == 1360
    assert scheduling(service) == "mh mss-clamp 1360"
    (line,) = rule_lines([ServiceRow(service)], lambda address, port, _: f"{address}:{port}")
    assert parse(line.split(), NAMES).service() == service


def test_without_the_option_there_is_none() -> None:
    service = parse(ADD, NAMES).service()
    assert (service.mss_clamp, scheduling(service)) == (0, "mh")


@pytest.mark.parametrize("value", ["0", "535", "65536", "-1", "large", ""])
def test_a_clamp_out_of_range_is_refused(value: str) -> None:
    with pytest.raises(OptionError, match=r"illegal MSS clamp \(from 536 to 65535\) specified"):
        parse([*ADD, f"--mss-clamp={value}"], NAMES)


def test_other_commands_do_not_take_it() -> None:
    with pytest.raises(OptionError, match="Illegal 'mss-clamp' option with the 'delete-service' command"):
        parse(["-D", "-t", "192.0.2.1:80", "--mss-clamp", "1360"], NAMES)
