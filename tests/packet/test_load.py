"""A state loads the programs of TC first, and other entry programs when a device needs them. The cost is bounded."""

from __future__ import annotations

import ctypes
import os
import struct
from ipaddress import ip_address
from unittest import mock

import pytest

from pylvs.bpf import libbpf
from pylvs.bpf.libbpf import BpfObject
from pylvs.dataplane import load
from pylvs.dataplane.devices import attach, attachments
from pylvs.dataplane.state import BYPASS, EGRESS, ENTRIES, ON_DEMAND, SIP, STORE, TC, XDP, State, own_build
from pylvs.dataplane.upgrade import upgrade
from pylvs.model.dataclass import replace
from pylvs.model.errors import Busy, NoSpace, Unsupported
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, VirtualService
from tests.packet.frames import tcp
from tests.packet.host import OWN4, SERVERS, TC_REDIRECT, Host, key, new_host


def held(host: Host) -> set[str]:
    """Return the pinned programs of devices, and those that are loaded on demand."""
    return {name for name in (*ENTRIES, *ON_DEMAND) if os.path.exists(host.director.state.loaded_path(name))}


def attached(host: Host) -> tuple[str, bool]:
    """Return how d0 is attached, and whether at TC egress, too."""
    (found,) = (each for each in attach.attached(host.director.state) if each.device == "d0")
    return found.mode, bool(found.egress)


def test_a_program_is_loaded_when_a_device_first_needs_it() -> None:
    with new_host(mode="tc") as host:
        host.serve(key(80), 1)
        assert held(host) == {TC}
        assert host.run(tcp("S", sport=4000, dport=80), "tc").verdict == TC_REDIRECT
        with host.director.batch():
            attachments.request(host.director.tables, "d0", "generic")
        assert (held(host), attached(host)) == ({TC, XDP}, ("generic", False))
        host.forwarded(tcp("A", sport=4000, dport=80), "xdp")  # XDP knows the connection that TC has made
        host.director.add_destination(key(80), Destination(DestinationKey(ip_address(OWN4), 80), Method.MASQ))
        assert (held(host), attached(host)) == ({TC, XDP, EGRESS}, ("generic", True))


def test_programs_of_few_services_are_loaded_with_the_first_of_them_and_stay() -> None:
    with new_host(mode="tc") as host:
        director = host.director
        plain = VirtualService(key(80, Protocol.UDP), "rr", ServiceFlag.PERSISTENT, 360)
        director.add_service(plain)
        director.change_setting("cache_bypass", 0)
        assert held(host) == {TC}
        director.edit_service(replace(plain, engine="sip"))
        assert held(host) == {TC, SIP}
        director.change_setting("cache_bypass", 1)
        assert held(host) == {TC, SIP, BYPASS}
        director.delete_service(plain.key)
        with director.batch():
            upgrade.swap_programs(director.tables)
        assert held(host) == {TC, SIP, BYPASS}


def test_a_program_is_not_added_to_those_of_another_load() -> None:
    """Nothing changes. A device runs another load if an upgrade could not attach it again."""
    with new_host(mode="tc") as host:
        director, plain = host.director, VirtualService(key(80, Protocol.UDP), "rr", ServiceFlag.PERSISTENT, 360)
        with mock.patch.object(attach, "attach", side_effect=Busy("d0: has a foreign program")):
            with director.batch():
                upgrade.swap_programs(director.tables)
            with pytest.raises(Busy, match="d0: runs programs of another load, which lack persistence engine sip"):
                director.add_service(replace(plain, engine="sip"))
            with pytest.raises(Busy, match="d0: runs programs of another load, which lack cache_bypass"):
                director.change_setting("cache_bypass", 1)
            assert (held(host), director.services(), director.settings()["cache_bypass"]) == ({TC}, [], 0)
        director.change_setting("cache_bypass", 0)  # an edit attaches d0 again
        director.add_service(replace(plain, engine="sip"))
        assert held(host) == {TC, SIP}


def test_a_service_whose_program_cannot_be_loaded_keeps_no_others_from_a_batch() -> None:
    with new_host(mode="tc") as host:
        director = host.director
        services = [VirtualService(key(port, Protocol.UDP), "rr", ServiceFlag.PERSISTENT, 360) for port in (80, 81, 82)]
        with mock.patch.object(BpfObject, "load", side_effect=NoSpace("no memory")), director.batch():
            director.add_service(services[0])
            with pytest.raises(NoSpace, match="no memory"):
                director.add_service(replace(services[1], engine="sip"))
            director.add_service(services[2])
        assert {row.service.key.port for row in director.services()} == {80, 82}
        assert held(host) == {TC}


def verified(descriptor: int) -> int:
    """Return how many instructions the verifier processed for a program (struct bpf_prog_info)."""
    info = ctypes.create_string_buffer(256)
    size = ctypes.c_uint32(len(info))
    libbpf.check(libbpf.library().bpf_obj_get_info_by_fd(descriptor, info, ctypes.byref(size)), "asking for a program")
    return int(struct.unpack_from("<I", info, 216)[0])


@pytest.mark.parametrize(
    ("entry", "most"),
    [(TC, 318_000), (SIP, 68_000), (BYPASS, 31_000), (XDP, 184_000), (EGRESS, 37_000), (STORE, 28_500)],
)
def test_the_verifier_processes_few_instructions(entry: str, most: int) -> None:
    with new_host(mode="tc"), load.open_object(4096, load.new_seeds(), (entry,)) as opened:
        opened.load()
        loaded = [name for name in opened.programs() if load._entry_of(name) == entry]
        assert sum(verified(opened.program_fd(name)) for name in loaded) < most


def test_each_destination_has_its_own_counters() -> None:
    """Per-CPU memory of several destinations is one element of a map."""
    with new_host(mode="tc") as host:
        services = [key(port) for port in (80, 81, 82)]
        for each in services:
            host.serve(each, SERVERS)
        for number, service in enumerate(services, 1):
            for client in range(number * SERVERS):
                done = host.run(tcp("S", sport=4000 + client, dport=service.port), "tc")
                assert done.verdict == TC_REDIRECT
        wanted = {each: [number] * SERVERS for number, each in enumerate(services, 1)}
        at_once, one_by_one = host.director.services(), map(host.director.service, services)
        for rows in at_once, one_by_one:
            found = {row.service.key: [each.counters.connections for each in row.destinations] for row in rows}
            assert found == wanted


def test_a_new_build_loads_what_the_devices_need() -> None:
    with new_host(mode="generic") as host:
        host.serve(key(80), 1)
        before = held(host)
        with host.director.batch():
            upgrade.swap_programs(host.director.tables)
        assert held(host) == before == {TC, XDP}
        host.forwarded(tcp("S", sport=4000, dport=80))


def test_another_pylvs_adds_no_program_to_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with new_host(mode="tc") as host:
        other = replace(own_build(), digest="0123456789abcdef", version="9.9")
        with host.director.state.lock():
            monkeypatch.setattr(State, "build", lambda _: other)
            with pytest.raises(Unsupported, match=r"those of pylvs 9\.9 .*pylvs_xdp"):
                load.open_entry(host.director.state, XDP)
            os.close(load.open_entry(host.director.state, TC))
        with pytest.raises(Unsupported, match=r"those of pylvs 9\.9 .*can add cache_bypass; use that one"):
            host.director.change_setting("cache_bypass", 1)
        assert held(host) == {TC}


def test_a_state_without_its_programs_is_reported() -> None:
    with new_host(mode="tc") as host:
        libbpf.unpin(host.director.state.loaded_path(TC))
        with pytest.raises(Unsupported, match="pylvs down"):
            load.open_entry(host.director.state, TC)
