"""Which entry programs a state holds: those of TC from the beginning, each other one once a device needs it."""

from __future__ import annotations

import os
from ipaddress import ip_address

import pytest

from pylvs.dataplane import attach, attachments, follow, libbpf, load, takeover
from pylvs.model.dataclass import replace
from pylvs.model.destination import Destination, DestinationKey, Method
from pylvs.model.errors import Unsupported
from tests.packet.frames import tcp
from tests.packet.host import OWN4, TC_REDIRECT, XDP_TX, Host, key, new_host


def held(host: Host) -> set[str]:
    """The entry programs that are pinned."""
    return {name for name in load.ENTRIES if os.path.exists(host.director.state.pin_path(name))}


def attached(host: Host) -> tuple[str, bool]:
    """How d0 is attached, and whether at TC egress, too."""
    (found,) = (each for each in attach.attached(host.director.state) if each.device == "d0")
    return found.mode, bool(found.egress)


def test_a_program_is_loaded_when_a_device_first_needs_it() -> None:
    with new_host(mode="tc") as host:
        host.serve(key(80), 1)
        assert held(host) == {load.TC}
        assert host.run(tcp("S", sport=4000, dport=80), "tc").verdict == TC_REDIRECT
        with host.director.batch():
            attachments.request(host.director.reader, "d0", "generic")
        assert (held(host), attached(host)) == ({load.TC, load.XDP}, ("generic", False))
        done = host.run(tcp("A", sport=4000, dport=80), "xdp")
        assert done.verdict == XDP_TX, "a connection that TC has made is carried by XDP"
        host.director.add_destination(key(80), Destination(DestinationKey(ip_address(OWN4), 80), Method.MASQ))
        assert (held(host), attached(host)) == ({load.TC, load.XDP, load.EGRESS}, ("generic", True))


def test_a_new_program_brings_what_the_devices_need() -> None:
    with new_host(mode="generic") as host:
        host.serve(key(80), 1)
        before = held(host)
        with host.director.batch():
            follow.swap_programs(host.director.tables)
        assert held(host) == before == {load.TC, load.XDP}
        host.forwarded(tcp("S", sport=4000, dport=80))


def test_another_pylvs_adds_no_program_to_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with new_host(mode="tc") as host:
        other = replace(takeover.ours(), digest="0123456789abcdef", version="9.9")
        with host.director.state.lock():
            monkeypatch.setattr(takeover, "running", lambda _: other)
            with pytest.raises(Unsupported, match=r"those of pylvs 9\.9 .*pylvs_xdp"):
                load.open_entry(host.director.state, load.XDP)
            os.close(load.open_entry(host.director.state, load.TC))
        assert held(host) == {load.TC}


def test_a_state_without_its_programs_is_told() -> None:
    with new_host(mode="tc") as host:
        libbpf.unpin(host.director.state.pin_path(load.TC))
        with pytest.raises(Unsupported, match="pylvs down"):
            load.open_entry(host.director.state, load.TC)
