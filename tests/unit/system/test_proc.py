"""The MTUs of devices."""

from __future__ import annotations

import socket

from pylvs.system.proc import mtus


def test_every_device_has_an_mtu() -> None:
    found = mtus()
    assert set(found) <= {name for _, name in socket.if_nameindex()}
    assert found["lo"] > 0
