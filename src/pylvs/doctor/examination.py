"""Run all probes beside each other, within a deadline, and return the diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, Queue
from threading import Thread
from time import monotonic

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, Severity, diagnosis
from pylvs.doctor.probes import (
    address,
    checks,
    daemon,
    data_plane,
    file,
    forwarding,
    marks,
    neighbours,
    own_addresses,
    quiesced,
    real_server,
    routers,
    server,
    source_check,
    table,
    traffic,
)
from pylvs.model.dataclass import replace
from pylvs.model.errors import PylvsError, text_of

Probe = Callable[[Facts], Iterable[Finding]]

# Every probe of this program. One that does not apply to this host returns nothing.
PROBES: Sequence[Probe] = (
    address.findings,
    server.findings,
    source_check.findings,
    table.findings,
    marks.findings,
    routers.findings,
    neighbours.findings,
    own_addresses.findings,
    *data_plane.PROBES,
    *real_server.PROBES,
    forwarding.findings,
    daemon.findings,
    checks.findings,
    file.findings,
    traffic.findings,
    quiesced.findings,
)


def examine(facts: Facts, probes: Sequence[Probe] = PROBES) -> list[Finding]:
    """Return the diagnosis. A probe that fails or does not end in time is a finding of its own."""
    results: Queue[tuple[Probe, list[Finding]]] = Queue()
    for probe in probes:
        Thread(target=_run, args=(probe, facts, results), name=_name(probe), daemon=True).start()
    waiting, found, deadline = list(probes), list[Finding](), monotonic() + facts.limit_s
    while waiting:
        try:
            probe, some = results.get(timeout=max(deadline - monotonic(), 0))
        except Empty:
            break
        waiting.remove(probe)
        found += some
    return diagnosis(_joined([*found, *map(_late, waiting)]))


def _joined(found: Iterable[Finding]) -> Iterator[Finding]:
    """Yield findings; subjects that were not examined for one reason are one finding."""
    by_reason = dict[str, list[Finding]]()
    for finding in found:
        if finding.id == "not_examined":
            by_reason.setdefault(finding.evidence, []).append(finding)
        else:
            yield finding
    for same in by_reason.values():
        subjects = sorted(each.title.partition(":")[0] for each in same)
        yield replace(same[0], title=f"{', '.join(subjects)}: not examined")


def _run(probe: Probe, facts: Facts, results: Queue[tuple[Probe, list[Finding]]]) -> None:
    """Put the findings of a probe into the queue; those before an error count, too."""
    found = list[Finding]()
    try:
        found.extend(probe(facts))
    except (PylvsError, OSError, MemoryError) as error:
        found.append(_failed(probe, text_of(error)))
    except Exception as error:
        found.append(_failed(probe, f"{type(error).__name__}: {error}: this is a bug"))
    results.put((probe, found))


def _name(probe: Probe) -> str:
    """Return the subject of a probe: the name of its module, and of the package of several."""
    return probe.__module__.rpartition("probes.")[2].replace(".", " ").replace("_", " ")


def _failed(probe: Probe, text: str) -> Finding:
    return Finding(
        id="not_examined",
        severity=Severity.INFO,
        layer=Layer.ADVICE,
        title=f"{_name(probe)}: not examined",
        evidence=text,
        why="What is wrong there is not among these findings.",
        fix="Remove the cause, and run pylvs doctor again.",
    )


def _late(probe: Probe) -> Finding:
    return _failed(probe, "the examination did not end in time")
