"""The health engine compared with the real keepalived on the real IPVS: the same tables and the same script calls.

Both read the same configuration, and the same happens to the same real servers. The engine runs in simulated time with
planned results of checks. keepalived runs in user-mode Linux with sockets that listen or do not. What it did is
recorded; `./dev test-all` runs it again.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pylvs.config.compile import document as building
from pylvs.config.language.parser import read_text
from pylvs.health.engine import Engine
from pylvs.health.events import Event, QuorumGained, QuorumLost, ServerDown, ServerUp
from pylvs.health.probes import Outcome, Probe
from pylvs.model.checks import Check, MiscCheck, TcpCheck
from pylvs.model.wanted import Configuration, WantedRow, WantedServer, WantedService
from tests.conformance.recorded import answer
from tests.conformance.script import in_guest, why_no_guest
from tests.interop import keepalived
from tests.unit.health.clock import FakeTimeLoop

SCRIPT = Path(__file__).with_name("keepalived_in_guest.py")
SEED = Path(__file__).parents[1] / "lab/seeds/keepalived/keepalived.conf"
SETTLED_S = 120  # of simulated time after each step
WEIGHT_0 = 2  # the exit status of a dynamic script for this weight


@dataclass(frozen=True)
class Step:
    """An event: servers start or stop to listen, scripts return other values, a new configuration, the end.

    `come` and `go` are addresses of the machine.
    """

    up: Sequence[str] = ()
    down: Sequence[str] = ()
    say: Mapping[str, int] = field(default_factory=dict)
    come: Sequence[str] = ()
    go: Sequence[str] = ()
    conf: str = ""
    end: bool = False


@dataclass(frozen=True)
class Plan:
    """A case: addresses of the machine, and steps, of which the first has the configuration.

    If it is `silent`, the configuration names no scripts.
    """

    addresses: Sequence[str]
    steps: Sequence[Step]
    silent: bool = False


def server(number: int, weight: int = 1, more: str = "") -> str:
    """Return a real server with a TCP check whose scripts record its number."""
    return f"""
    real_server 10.0.0.{number} 80 {{
        weight {weight}
        notify_up "FOLDER/note {number} up" root
        notify_down "FOLDER/note {number} down" root
        {more}
        TCP_CHECK {{
            connect_timeout 5
        }}
    }}"""


def scripted(number: int, weight: int, *scripts: str) -> str:
    """Return a real server whose weight two scripts set."""
    checks = "".join(
        f'MISC_CHECK {{\n misc_path "FOLDER/answer {each}"\n misc_timeout 30\n misc_dynamic\n user root\n }}\n'
        for each in scripts
    )
    return server(number, weight).replace("TCP_CHECK {\n            connect_timeout 5\n        }", checks)


def service(body: str, *servers: str, head: str = "10.9.0.1 80") -> str:
    """Return a whole file with one service."""
    return f"""\
virtual_server {head} {{
    delay_loop 2
    warmup 0
    lb_algo rr
    lb_kind DR
    protocol TCP
    quorum_up "FOLDER/note quorum up" root
    quorum_down "FOLDER/note quorum down" root
    {body}
    {"".join(servers)}
}}
"""


def group(*entries: str, kind: str = "DR") -> str:
    """Return a whole file with a group that has one server with a port."""
    lines = "\n    ".join(entries)
    block = f"virtual_server_group G {{\n    {lines}\n}}\n"
    return block + service("", server(1), head="group G").replace("lb_kind DR", f"lb_kind {kind}")


def here(*numbers: int) -> list[str]:
    """Return real servers by number."""
    return [f"10.0.0.{number}:80" for number in numbers]


FOUR = [f"10.0.0.{number}" for number in range(1, 5)]
INHIBIT = "inhibit_on_failure"
PLANS = {
    "the tutorial's configuration": Plan(
        ["192.168.67.129", "192.168.67.130"],
        [
            Step(up=["192.168.67.129:80", "192.168.67.130:80"], conf=SEED.read_text()),
            Step(down=["192.168.67.129:80"]),
            Step(up=["192.168.67.129:80"]),
            Step(down=["192.168.67.129:80", "192.168.67.130:80"]),
            Step(up=["192.168.67.130:80"]),
        ],
        silent=True,
    ),
    "quorum, hysteresis, a sorry server, one that inhibits": Plan(
        FOUR,
        [
            Step(
                up=here(1, 2, 3, 4),
                conf=service(
                    "quorum 2\nhysteresis 1\nsorry_server 10.0.0.99 80",
                    server(1),
                    server(2, more=INHIBIT),
                    server(3),
                    server(4),
                ),
            ),
            Step(down=here(1)),
            Step(down=here(3)),
            Step(down=here(4)),
            Step(down=here(2)),
            Step(up=here(1)),
            Step(up=here(2)),
            Step(up=here(3)),
        ],
    ),
    "a sorry server that inhibits": Plan(
        FOUR,
        [
            Step(
                up=here(1, 2, 3),
                conf=service(
                    "quorum 2\nsorry_server 10.0.0.99 80\nsorry_server_inhibit\nomega",
                    server(1),
                    server(2, more=INHIBIT),
                    server(3),
                ),
            ),
            Step(down=here(1, 2)),
            Step(up=here(1)),
            Step(end=True),
        ],
    ),
    "no sorry server": Plan(
        FOUR,
        [
            Step(up=here(1, 2, 3), conf=service("quorum 2", server(1, 2), server(2), server(3, 0))),
            Step(down=here(1)),
            Step(down=here(2)),
            Step(up=here(1)),
            Step(end=True),
        ],
    ),
    "alpha with a dead server": Plan(
        FOUR,
        [
            Step(up=here(1), conf=service("alpha\nretry 3", server(1), server(2), server(3, more=INHIBIT))),
            Step(up=here(2)),
            Step(down=here(1, 2)),
        ],
    ),
    "alpha without a quorum": Plan(
        FOUR,
        [
            Step(conf=service("alpha\nquorum 2\nsorry_server 10.0.0.99 80", server(1), server(2))),
            Step(up=here(1)),
            Step(up=here(2)),
        ],
    ),
    "a quorum that the start does not reach": Plan(
        FOUR, [Step(up=here(1, 2, 3), conf=service("quorum 2\nhysteresis 1", server(1), server(2), server(3, 0)))]
    ),
    "a dead server at the start": Plan(
        FOUR, [Step(up=here(1), conf=service("retry 3", server(1), server(2))), Step(up=here(2))]
    ),
    "a firewall mark": Plan(
        FOUR,
        [
            Step(up=here(1, 2), conf=service("", server(1), server(2), head="fwmark 7")),
            Step(down=here(2)),
        ],
    ),
    "a group of two ports and a mark": Plan(  # its reload leaves entries that were removed in the table
        FOUR, [Step(up=here(1), conf=group("10.9.0.1 80", "10.9.0.2 443", "fwmark 7"))]
    ),
    "a group of two ports by a tunnel": Plan(
        FOUR, [Step(up=here(1), conf=group("10.9.0.1 8080", "10.9.0.2 443", kind="TUN"))]
    ),
    "a group of two ports by NAT": Plan(
        FOUR, [Step(up=here(1), conf=group("10.9.0.1 8080", "10.9.0.2 443", "fwmark 7", kind="NAT"))]
    ),
    "checks only while the address is here": Plan(
        FOUR,
        [
            Step(up=here(1), conf=service("ha_suspend", server(1), server(2))),
            Step(come=["10.9.0.1"]),
            Step(up=here(2)),
            Step(go=["10.9.0.1"]),
            Step(down=here(1)),
            Step(come=["10.9.0.1"]),
        ],
    ),
    "weights that scripts set": Plan(
        FOUR,
        [
            Step(say={"a": 0, "b": 0}, conf=service("quorum 8", scripted(1, 10, "a", "b"))),
            Step(say={"a": 22}),
            Step(say={"b": 7}),
            Step(say={"a": WEIGHT_0}),
            Step(say={"a": 1}),
            Step(say={"a": 0}),
        ],
    ),
    "reloads": Plan(
        FOUR,
        [
            Step(up=here(1, 2, 3), conf=service("retry 2", server(1), server(2), server(3))),
            Step(conf=service("retry 2", server(1, 5), server(2))),
            Step(down=here(2)),
            Step(conf=service("retry 2", server(1, 5), server(2), server(4))),
            Step(conf=service("retry 2\nlb_algo wlc", server(1), server(2))),
            Step(conf=service("retry 2", server(1), head="10.9.0.2 80")),
        ],
    ),
}


def written(rows: Sequence[WantedRow]) -> dict[str, dict[str, int]]:
    """Return the table in the format of the guest."""
    found = {}
    for row in rows:
        name = str(row.service.key)
        weights = {str(each.key): each.weight for each in row.destinations}
        found[f"{name} {row.service.scheduler}"] = weights
    return found


def script_calls(events: Sequence[Event]) -> Iterator[str]:
    """Return the script calls of these events."""
    for event in events:
        match event:
            case ServerUp():
                yield f"{event.server.address.packed[-1]} up"
            case ServerDown():
                yield f"{event.server.address.packed[-1]} down"
            case QuorumGained():
                yield "quorum up"
            case QuorumLost() if not event.silent:
                yield "quorum down"


class Ours:
    """The engine, with planned servers and scripts."""

    def __init__(self) -> None:
        self.listening: set[str] = set()
        self.script_values: dict[str, int] = {}
        self.events: list[Event] = []

    def play(self, plan: Plan) -> list[dict[str, Any]]:
        """Return the table and the notifications after each step."""
        loop = FakeTimeLoop()
        engine: Engine | None = None
        seen = []
        here = set(plan.addresses)
        for step in plan.steps:
            here = here - set(step.go) | set(step.come)
            self.listening = self.listening - set(step.down) | set(step.up)
            self.script_values |= step.say
            self.events.clear()
            if step.conf and engine is None:
                engine = Engine(configuration(step.conf), self.probe_of)
                engine.on_event(self.events.append)
                engine.set_host_addresses(set(map(ip_address, here)))
                loop.call_soon(engine.start)
            elif step.conf and engine is not None:
                engine.replace(configuration(step.conf))
            assert engine is not None
            engine.set_host_addresses(set(map(ip_address, here)))
            if step.end:
                engine.announce_stop()
            else:
                loop.pass_(SETTLED_S)
            notes = [] if plan.silent else sorted(script_calls(self.events))
            seen.append({"table": {} if step.end else written(engine.desired_rows()), "notes": notes})
        assert engine is not None
        loop.run_until_complete(engine.close())
        loop.close()
        return seen

    def probe_of(self, check: Check, service: WantedService, server: WantedServer) -> Probe:
        async def probe() -> Outcome:
            await asyncio.sleep(0.001)
            if isinstance(check, MiscCheck):
                status = self.script_values[check.script.arguments[-1]]
                return Outcome(status != 1, str(status), status - WEIGHT_0 if status >= WEIGHT_0 else None)
            assert isinstance(check, TcpCheck)
            return Outcome(str(check.target) in self.listening, "listens or not")

        return probe


def configuration(text: str) -> Configuration:
    """Return the parsed file, with existing scripts."""
    with tempfile.TemporaryDirectory(prefix="pylvs-keepalived.") as folder:
        for name in ("note", "answer"):
            Path(folder, name).write_text("#!/bin/sh\n")
            Path(folder, name).chmod(0o755)
        document, findings = read_text(text.replace("FOLDER", folder))
        assert not findings
        return building.build(document)[0]


def guests(plan: Plan, expected: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the plan for the guest."""
    steps = []
    before: dict[str, Any] | None = None
    for step, after in zip(plan.steps, expected, strict=True):
        quiet = before is not None and before["table"] == after["table"]
        steps.append({**asdict(step), **after, "quiet": quiet})
        before = after
    return {"addresses": list(plan.addresses), "steps": steps}


@pytest.mark.timeout(3600)  # four boots of 800 s, if each of them dies
def test_tables_and_script_calls_are_those_of_keepalived() -> None:
    ours = {name: Ours().play(plan) for name, plan in PLANS.items()}
    theirs = answer(
        "health",
        {name: asdict(plan) for name, plan in PLANS.items()},
        lambda: in_guest(SCRIPT, [guests(plan, ours[name]) for name, plan in PLANS.items()]),
        why_no_guest() or keepalived.why_not(),
    )
    for (name, expected), found in zip(ours.items(), theirs, strict=True):
        steps = enumerate(zip(PLANS[name].steps, expected, found["seen"], strict=True), 1)
        for number, (step, one, other) in steps:
            if step.end and set(other["notes"]) <= set(one["notes"]):
                other["notes"] = one["notes"]  # keepalived kills running scripts when it stops
            assert one == other, f"{name}, step {number}: keepalived's log:\n{found['log']}"
