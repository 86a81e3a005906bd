"""The doctor's exam: plant one fault in a healthy lab, and see which cause `pylvs doctor` names first.

The doctor's own command then has to mend it: after it clients get answers, and the doctor finds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pylvs.lab.lab import Lab, build, take_down
from pylvs.lab.network import SERVER
from pylvs.lab.plan import read_overrides
from pylvs.lab.topologies import design
from tests.lab.conftest import new_name
from tests.lab.support import PYLVS, answers
from tests.waiting import PATIENCE_S

DIRECTOR = "director"
LIMIT_S = "60"  # of an examination: the machine may be busy
REQUEST = "curl -s -o /dev/null --max-time %s http://VIP/"
# Several at a time, each for a part of the time that the doctor looks: it sees some on a busy machine as well.
REQUESTS = f"for each in 1 2 3; do (while :; do {REQUEST % 0.3}; sleep 0.1; done) & done; wait"

ENDLESS_REQUESTS = f"setsid sh -c '{REQUESTS}' >/dev/null 2>&1 & echo $! >/run/requests"
END_REQUESTS = "kill -- -$(cat /run/requests)"


@dataclass(frozen=True)
class Fault:
    """A fault to plant in a lab.

    `script` runs on `host`; `cause` is the id of the finding that must come first; `words` are in its title, evidence
    or command. `on` is the host that runs the doctor. `cure` mends what the doctor has no command for; None: its
    command must. `requests`: the doctor sees it in traffic alone, of so many requests, which may fail. `steady`: the
    client sends requests until the fault is mended. `rest` runs on `host` at the end: what the fault added, and
    no mistake is. `noticed` waits on `on` until
    a daemon knows of the fault, and `settled` until what was mended works. `named`: the addresses that the user names.
    """

    name: str
    host: str
    script: str
    cause: str
    words: tuple[str, ...] = ()
    on: str = DIRECTOR
    cure: str | None = None
    requests: int = 0
    steady: bool = False
    rest: str = ""
    noticed: str = ""
    settled: str = ""
    named: tuple[str, ...] = ()


@contextmanager
def built(topology: str = "dr", version: int = 4, **plan: str) -> Iterator[Lab]:
    """Yield a healthy lab with two real servers, and remove it."""
    name = new_name()
    try:
        yield build(name, design(topology, 2, version, read_overrides(plan)))
    finally:
        take_down(name)


def diagnosed(lab: Lab, host: str = DIRECTOR, *arguments: str) -> list[dict[str, Any]]:
    """Return the findings of the doctor on a host."""
    done = lab.run(host, [*PYLVS, "doctor", "--json", "--limit", LIMIT_S, *arguments], seconds=PATIENCE_S)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)["findings"]
    assert isinstance(found, list)
    assert done.returncode == bool(found)
    return found


def table_of(lab: Lab) -> str:
    """Return what explains a failed request: services, connections, and drops of the director."""
    return lab.sh(DIRECTOR, "ipvsadm -Ln; ipvsadm -Lnc; pylvs drops; pylvs sysctl -a 2>&1")


def request(lab: Lab, count: int) -> None:
    """Send requests of a client one after the other; they may fail."""
    lab.run("client", ["sh", "-c", f"for n in $(seq {count}); do {REQUEST % 1}; done"])


def _addresses(lab: Lab) -> dict[str, str]:
    """Return the hosts by their addresses."""
    return {
        text.partition("/")[0]: host.name
        for host in lab.network.hosts
        for card in host.interfaces
        for text in card.addresses
    }


def examine(lab: Lab, fault: Fault) -> None:
    """Plant a fault, assert that its cause comes first, mend it, and assert that the lab is healthy again."""
    plant(lab, fault)
    mend(lab, fault, recognized(lab, fault))
    settle(lab, fault)
    healthy(lab, fault.on, *fault.named)
    lab.sh(fault.host, fault.rest)


def examine_pair(lab: Lab, first: Fault, second: Fault) -> None:
    """Plant two faults, and assert that each cause comes first in its turn; then the lab is healthy again."""
    plant(lab, first)
    plant(lab, second)
    mend(lab, first, recognized(lab, first))
    settle(lab, first)
    mend(lab, second, recognized(lab, second))
    settle(lab, second)
    healthy(lab, second.on)
    for fault in (first, second):
        lab.sh(fault.host, fault.rest)


def plant(lab: Lab, fault: Fault) -> None:
    """Make the fault, with the traffic that shows it."""
    lab.sh(fault.host, fault.script)
    request(lab, fault.requests)
    if fault.steady:
        lab.sh("client", ENDLESS_REQUESTS)
    lab.sh(fault.on, fault.noticed)


def recognized(lab: Lab, fault: Fault) -> dict[str, Any]:
    """Return the first finding, which is that of the fault."""
    found = diagnosed(lab, fault.on, *fault.named)
    assert found, "the doctor found nothing"
    first = found[0]
    assert first["id"] == fault.cause, [(each["title"], each["evidence"]) for each in found]
    for word in fault.words:
        assert word in " ".join(str(first[name]) for name in ("title", "evidence", "fix", "fix_command", "fix_host"))
    return first


def settle(lab: Lab, fault: Fault) -> None:
    """Wait until a mended fault shows no more."""
    if fault.steady:
        lab.sh("client", END_REQUESTS)
    lab.sh(fault.on, fault.settled)


def healthy(lab: Lab, host: str, *arguments: str) -> None:
    """Assert that clients get answers, and that the doctor finds nothing."""
    seen = answers(lab, len(lab.network.role(SERVER)))
    assert seen, "the lab has no server"
    assert all(each.startswith("This is rs") for each in seen), (seen, table_of(lab))
    left = diagnosed(lab, host, *arguments)
    assert left == [], [(each["title"], each["evidence"]) for each in left]


def mend(lab: Lab, fault: Fault, finding: dict[str, Any]) -> None:
    """Run the finding's command on the host that it names, or the cure."""
    if fault.cure is not None:
        lab.sh(fault.host, fault.cure)
        return
    assert finding["fix_command"], "the doctor has no command"
    host = fault.on if finding["fix_host"] == "here" else _addresses(lab)[finding["fix_host"]]
    lab.sh(host, finding["fix_command"])
