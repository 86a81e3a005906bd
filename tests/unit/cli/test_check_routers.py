"""`pylvs check` on virtual routers: the line that sums up, and what programs get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pylvs.cli.main import run

TEXT = """\
global_defs {
    dynamic_interfaces
}
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    prioritee 200
    virtual_ipaddress { 192.0.2.1 }
}
"""


def test_virtual_routers_are_counted_and_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keepalived.conf"
    file.write_text(TEXT)
    assert run(["check", str(file)]) == 5
    printed = capfd.readouterr().err.splitlines()
    assert printed == [
        f"{file}:7:5: warning: prioritee is not known in vrrp_instance and is ignored; did you mean 'priority'?",
        f"{file}: 0 services, 0 real servers, 1 virtual router; 1 warning",
    ]
    assert run(["check", "--json", str(file)]) == 5
    assert json.loads(capfd.readouterr().out)["virtual_routers"] == ["VI_1"]
