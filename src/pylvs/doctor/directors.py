"""Compare the tables of several directors: what a backup has in another way shows at the take-over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from pylvs.dataplane.director import open_reader
from pylvs.doctor.commands import named
from pylvs.doctor.finding import Finding, Layer, Severity, server_subject
from pylvs.lab.lab import Lab
from pylvs.lab.network import DIRECTOR
from pylvs.model.dataclass import replace
from pylvs.model.rows import ServiceRow
from pylvs.model.service import is_probe_mark
from pylvs.system.namespaces import inside_network


def findings(lab: Lab) -> Iterator[tuple[str, Finding]]:
    """Yield the hosts of a lab whose tables differ from those of another director, and how. Raises PylvsError."""
    hosts = lab.network.role(DIRECTOR)
    tables: dict[str, Sequence[ServiceRow]] = {}
    for host in hosts if len(hosts) > 1 else ():
        with inside_network(lab.host(host.name).network):
            director = open_reader()
            if director.state.exists:
                tables[host.name] = director.services()
            director.close()
    yield from of_tables(tables)


def of_tables(tables: Mapping[str, Sequence[ServiceRow]]) -> Iterator[tuple[str, Finding]]:
    """Yield the directors that lack services of another one, or have them in another way."""
    for (one, mine), (other, theirs) in combinations(tables.items(), 2):
        here, there = _by_key(mine), _by_key(theirs)
        for name, with_name, lacks in (
            (other, one, here.keys() - there.keys()),
            (one, other, there.keys() - here.keys()),
        ):
            if lacks:
                yield name, _lacks(sorted(lacks), with_name)
        for key in sorted(here.keys() & there.keys()):
            yield from _differs(key, (one, here[key]), (other, there[key]))


def _by_key(rows: Sequence[ServiceRow]) -> dict[str, ServiceRow]:
    return {str(row.service.key): row for row in rows if not is_probe_mark(row.service.key.mark)}


def _lacks(keys: Sequence[str], other: str) -> Finding:
    return Finding(
        id="directors_differ",
        severity=Severity.WARNING,
        layer=Layer.TABLE,
        title=f"the table lacks {named(keys, 'service')}, which {other} has",
        evidence=f"ipvsadm -Ln here and on {other}",
        why="As master this director does not forward packets to these services.",
        fix="Write the same services into the file of both, and reload.",
        about=frozenset(keys),
    )


def _differs(key: str, mine: tuple[str, ServiceRow], theirs: tuple[str, ServiceRow]) -> Iterator[tuple[str, Finding]]:
    """Yield other settings of a service, and servers that only one director has."""
    (one, here), (other, there) = mine, theirs
    if replace(here.service, key=there.service.key) != there.service:
        yield (
            other,
            Finding(
                id="directors_differ",
                severity=Severity.WARNING,
                layer=Layer.TABLE,
                title=f"{key} has another scheduler, flags or persistence than on {one}",
                evidence=f"here: {_settings(there)}; on {one}: {_settings(here)}",
                why="After a take-over the service behaves in another way: clients may get other servers.",
                fix="Write the same settings into the file of both, and reload.",
                about=frozenset({key}),
            ),
        )
    servers = [{each.destination.key: each.destination for each in row.destinations} for row in (here, there)]
    for name, with_name, lacks in (
        (other, one, servers[0].keys() - servers[1].keys()),
        (one, other, servers[1].keys() - servers[0].keys()),
    ):
        if lacks:
            yield (
                name,
                Finding(
                    id="directors_differ",
                    severity=Severity.WARNING,
                    layer=Layer.TABLE,
                    title=f"{key} lacks {named(sorted(map(str, lacks)), 'server')}, which {with_name} has",
                    evidence=f"ipvsadm -Ln here and on {with_name}",
                    why="As master this director has fewer servers. Either its file lacks them, or its checks fail.",
                    fix="Write the same servers into the file of both. pylvs status names failed checks.",
                    about=frozenset(server_subject(key, each.address) for each in lacks),
                    symptom=True,
                ),
            )


def _settings(row: ServiceRow) -> str:
    service = row.service
    persistent = f", persistent {service.timeout_s} s" if service.timeout_s else ""
    return f"{service.scheduler}{persistent}, flags {int(service.flags):#x}"
