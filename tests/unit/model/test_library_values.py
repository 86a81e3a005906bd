"""Values of the library as dictionaries, and the position of a wrong one."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pylvs

SERVERS = [
    pylvs.Server("10.0.0.1", 80, weight=3, upper=9, lower=2),
    pylvs.Server("10.0.0.2", 80, forwarding="tun", tunnel=pylvs.Tunnel("gue", 6080, checksum=True)),
]
SERVICES = [
    pylvs.Service("tcp", "192.0.2.1", 80, SERVERS, scheduler="sh", flags=pylvs.Flag.FALLBACK | pylvs.Flag.PORT),
    pylvs.Service("udp", "2001:db8::1", 0, persistence=pylvs.Persistence(60, 64, "")),
    pylvs.Service("tcp", "192.0.2.1", 80, persistence=pylvs.Persistence(60, "255.0.255.0")),
    pylvs.Service.of_mark(7, [pylvs.Server("2001:db8::2", 0)], version=6, flags=pylvs.Flag.ONE_PACKET),
]


@pytest.mark.parametrize("service", SERVICES, ids=lambda each: str(each.key))
def test_a_dictionary_of_json_types_is_inverted(service: pylvs.Service) -> None:
    assert pylvs.Service.from_dict(json.loads(json.dumps(service.to_dict()))) == service
    for each in service.servers:
        assert pylvs.Server.from_dict(json.loads(json.dumps(each.to_dict()))) == each


def test_what_has_a_default_may_be_left_out() -> None:
    assert pylvs.Server.from_dict({"address": "10.0.0.1", "port": 80}) == pylvs.Server("10.0.0.1", 80)
    assert pylvs.Service.from_dict({"mark": 7}) == pylvs.Service.of_mark(7)
    found = pylvs.Service.from_dict({"protocol": "tcp", "address": "192.0.2.1", "port": 80, "persistence": None})
    assert found == pylvs.Service("tcp", "192.0.2.1", 80)


WEB: dict[str, Any] = {"protocol": "tcp", "address": "192.0.2.1", "port": 80}
ONE: dict[str, Any] = {"address": "10.0.0.1", "port": 80}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (7, "service: 7: must be a dictionary with protocol, address, port"),
        ({"address": "192.0.2.1", "port": 80}, "protocol: None: is missing; a service has: protocol, address, "),
        (WEB | {"servers": 7}, "servers: 7: must be a list"),
        (WEB | {"servers": [ONE, {"port": 80}]}, "servers[1]: address: None: is missing; a server has: "),
        (WEB | {"servers": [ONE | {"wieght": 1}]}, "servers[0]: wieght: 1: is unknown; a server has: "),
        (WEB | {"servers": [ONE | {"weight": -1}]}, "servers[0]: 10.0.0.1:80: weight: -1: must be a whole number"),
        (WEB | {"servers": [ONE | {"address": "x"}]}, "servers[0]: address: 'x': must be an IPv4 or IPv6 address"),
        (
            WEB | {"servers": [ONE | {"forwarding": "tun", "tunnel": {"kind": "gue"}}]},
            "servers[0]: tunnel: port: 0: must be a whole number from 1 to 65535",
        ),
        (WEB | {"servers": [ONE | {"port": 81}]}, "TCP 192.0.2.1:80: 10.0.0.1:81: port: 81: forwarding="),
        (WEB | {"persistence": {"timeout_s": 0}}, "persistence: timeout_s: 0: must be a whole number"),
        (WEB | {"flags": ["FALLBAKC"]}, "flags: 'FALLBAKC': must be one of: one_packet, fallback, "),
        (WEB | {"scheduler": "robin"}, "TCP 192.0.2.1:80: scheduler: 'robin': must be one of: "),
        ({"mark": 7, "port": 80}, "port: 80: is unknown; a service has: mark, version, "),
    ],
)
def test_a_wrong_value_names_its_position(data: Any, text: str) -> None:
    with pytest.raises(pylvs.InvalidValue) as caught:
        pylvs.Service.from_dict(data)
    assert str(caught.value).startswith(text)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.path) == (str(caught.value), caught.value.path)


def test_mypy_finds_a_misspelled_word(tmp_path: Path) -> None:
    wrong = ('pylvs.Server("10.0.0.1", 80, forwarding="drr")', 'pylvs.Service("tpc", "192.0.2.1", 80)')
    right = ('pylvs.Server("10.0.0.1", 80, forwarding="dr")', 'pylvs.Tunnel("gre")')
    (tmp_path / "program.py").write_text("\n".join(["import pylvs", *wrong, *right, 'pylvs.Tunnel("gree")\n']))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "program.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    lines = [line.split(":")[1] for line in done.stdout.splitlines() if ": error: " in line]
    assert lines == ["2", "3", "6"], done.stdout + done.stderr
