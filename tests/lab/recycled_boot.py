"""Boot the hosts of a lab, as `pylvs.lab.boot` does; some directors have tables before their first command.

The last argument names the loads of directors, which this process has inherited.
"""

from __future__ import annotations

import json
import sys
from unittest import mock

from pylvs.lab import boot
from pylvs.lab.hosts import LabHost
from pylvs.lab.network import Host, Network
from pylvs.model.errors import os_text
from tests.recycled import Load, Stock

_configure = boot._configure


def main() -> None:
    """Boot all hosts; print why that failed."""
    stocks = {host: _stock(text) for host, text in json.loads(sys.argv.pop()).items()}

    def configure(lab: str, network: Network, host: Host, lab_host: LabHost) -> None:
        _configure(lab, network, host, lab_host)
        if host.name in stocks:
            stocks[host.name].make()

    with mock.patch.object(boot, "_configure", configure):
        try:
            boot.main()
        except OSError as error:
            sys.exit(os_text(error))


def _stock(text: str) -> Stock:
    load = Load.inherited(text)
    return Stock({load.connections: load})
