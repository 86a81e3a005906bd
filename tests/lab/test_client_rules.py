"""Client rules of the operator in a real daemon: clients meet them at once, and they survive reloads and restarts."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from pylvs.lab.lab import Lab
from pylvs.model.errors import Unsupported
from tests.lab.conftest import MakeLab
from tests.lab.daemons import Daemon, daemon
from tests.lab.test_daemon import web_lab

ELSEWHERE = "198.51.100.0/24"
RULES = f"    client_rules {{\n        deny {ELSEWHERE}\n    }}\n"


def is_served(lab: Lab) -> bool:
    """Return whether a new connection of the client gets a reply."""
    return "server!" in lab.sh("client", f"curl -s --max-time 3 http://{lab.network.vip}/ || true")


def change(running: Daemon, what: str, **given: object) -> int:
    service = f"TCP {running.lab.network.vip}:80"
    status, _ = running.client.ask("POST", f"/v1/client-rules/{what}", {"service": service, **given})
    return status


def listed(running: Daemon) -> list[tuple[str, str]]:
    with running.client.stream("GET", "/v1/client-rules") as response:
        assert response.status == 200
        return [(each["rule"], each["origin"]) for each in map(json.loads, response)]


def test_clients_meet_the_rules_of_the_operator(make_lab: MakeLab, tmp_path: Path) -> None:
    lab, text = web_lab(make_lab)
    client = lab.network.role("client")[0].interfaces[0].addresses[0].partition("/")[0]
    text = text.replace("    delay_loop 1\n", f"    delay_loop 1\n{RULES}")
    of_file = (f"deny {ELSEWHERE}", "file")
    own = (f"deny {client}/32", "operator")
    command = f"pylvs filter %s -t {lab.network.vip}:80 --override --state-dir {tmp_path}/state"
    with daemon(lab, tmp_path, text) as running:
        assert listed(running) == [of_file]
        assert is_served(lab)
        assert change(running, "add", rules=[f"deny {client}"]) == 200
        assert not is_served(lab)
        assert sorted(listed(running)) == sorted([of_file, own])
        assert running.client.ask("POST", "/v1/reload")[0] == 200
        assert not is_served(lab)
        for number in signal.SIGKILL, signal.SIGTERM:
            running.stop(number)
            running.start()
            assert not is_served(lab), number
        status, reply = running.client.ask("GET", "/v1/status")
        assert (status, reply["differs"]) == (
            200,
            [f"client rules of {lab.network.vip}:80 tcp by the operator: deny {client}/32"],
        )
        lab.sh("director", f"{command % 'del'} {client}")
        assert is_served(lab)
        lab.sh("director", f"{command % 'add'} deny 0.0.0.0/0")
        assert not is_served(lab)
        lab.sh("director", f"{command % 'del'} --all")
        assert is_served(lab)
        for words, reason in (
            (f"{command % 'del'} {ELSEWHERE}", f"its rule is in {running.configuration}: change client_rules there"),
            (f"{command % 'add'} deny 10.0.0.1/8", "has bits behind its prefix"),
        ):
            with pytest.raises(Unsupported, match=re.escape(reason)):
                lab.sh("director", words)
        assert listed(running) == [of_file]
