"""Settings take the values that the kernel's sysctls take (IPVS-SEMANTICS 2.8)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.model.errors import InvalidOperation
from pylvs.model.settings import SETTINGS
from tests.packet.frames import tcp
from tests.packet.host import SENT, Host

IN_MAPS = sorted(SETTINGS.keys() - {"conn_max"})
MODES = {"drop_entry", "drop_packet", "secure_tcp"}


@pytest.fixture
def host(director_host: Host) -> Iterator[Host]:
    yield director_host
    for name in IN_MAPS:
        director_host.director.change_setting(name, SETTINGS[name].default)


@pytest.mark.parametrize("name", IN_MAPS)
def test_a_setting_takes_what_the_kernel_takes(host: Host, name: str) -> None:
    setting = SETTINGS[name]
    for value in (0, 1, 2, 3, 4, -1, (1 << 31) - 1, -1 << 31, setting.lowest, setting.highest):
        if not setting.lowest <= value <= setting.highest or (name == "sync_ports" and value & (value - 1)):
            continue
        host.director.change_setting(name, value)
        assert host.director.settings()[name] == value


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in sorted(MODES) for value in (-1, 4)])
def test_a_mode_is_one_of_four(host: Host, name: str, value: int) -> None:
    with pytest.raises(InvalidOperation, match=f"{name}={value}: must be from 0 to 3"):
        host.director.change_setting(name, value)
    assert host.director.settings()[name] == 0


@pytest.mark.parametrize(("value", "opens"), [(0, False), (1, True), (2, True), (-1, True)])
def test_a_switch_is_on_unless_it_is_0(host: Host, value: int, opens: bool) -> None:
    service = host.new_key()
    host.serve(service, 1)
    host.director.change_setting("sloppy_tcp", value)
    host.receive(tcp("A", 2000, service.port))
    assert host.director.service(service).destinations[0].active == opens


@pytest.mark.parametrize(("rate", "dropped"), [(1, 6), (3, 2), (0, 0), (-2, 6)])
def test_the_rate_of_drop_packet_may_be_0_or_negative(host: Host, rate: int, dropped: int) -> None:
    service = host.new_key()
    host.serve(service, 1)
    host.director.tables.pool.set(0, "drop_left", 0)
    host.director.change_setting("am_droprate", rate)
    host.director.change_setting("drop_packet", 3)
    done = [host.run(tcp("S", 2000 + number, service.port), "tc") for number in range(6)]
    assert sum(each.verdict not in SENT["tc"] for each in done) == dropped
