"""Examine a lab from outside: run the doctor in each host, and merge what they find.

Each host knows itself; a director only infers what is wrong with a real server. So what a host finds about itself
replaces what a director inferred about it. Clients and routers show which link addresses they have learned.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import subprocess
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from time import monotonic

from pylvs.doctor import directors, lab_expects
from pylvs.doctor.facts import LIMIT_S
from pylvs.doctor.finding import HERE, Finding, Layer, Severity, Subject, diagnosis
from pylvs.doctor.probes.data_plane.empty import NO_SERVICE
from pylvs.lab.hosts import environment
from pylvs.lab.lab import Lab
from pylvs.lab.network import CLIENT, DIRECTOR, ROUTER, SERVER, Host, address_of
from pylvs.model.addresses import Address, endpoint, family_of
from pylvs.model.dataclass import dataclass, replace
from pylvs.netlink import links, neighbours
from pylvs.system.namespaces import inside_network
from pylvs.system.processes import command

GRACE_S = 25.0  # beyond the limit of an examination: several Pythons start beside each other
CONNECTIONS = 4  # for each real server: fewer show no pattern in the connection table
CONNECT_S = 1.5  # a SYN that was lost is repeated after 1 s
INFERRED = {  # what a director infers from silence or from an error; the real server itself knows better
    *("server_silent", "vip_packets_lost", "reply_lost", "server_firewall", "tunnel_rp_filter", "neighbour_silent"),
    *("server_not_decapsulating", "nat_reply_path", "not_listening", "server_lacks_vip"),
    "vrrp_two_masters",
    *("not_listening_on_vip", "server_answers_arp", "tunnel_way_silent", "server_unreachable"),
    "server_rate_limit",
    *("server_tunnel_source", "reply_source_differs", "reply_through_director"),
}


OF_A_PART = {"server_rate_limit"}  # a warning that explains errors


@dataclass(frozen=True, slots=True)
class OfHost:
    """A finding, and the host that has it."""

    host: str
    finding: Finding


def examine_lab(lab: Lab, vips: Collection[Address] = (), limit_s: float = LIMIT_S) -> list[Finding]:
    """Return the diagnosis of a lab. Raises PylvsError, OSError."""
    names = {address_of(text): host.name for host in lab.network.hosts for text in _addresses(host)}
    seen = (*_wrong_neighbours(lab), *directors.findings(lab))
    found = [OfHost(host, finding) for host, finding in seen]
    found += _examined(lab, lab.network.hosts, vips, limit_s)
    behind = lab_expects.behind_routers(lab.network)
    first = diagnosis(merged(found, names, behind))
    if any(map(is_cause, first)):
        return first
    unanswered = list(_unanswered(lab))
    if not unanswered and not any(finding.symptom for finding in first):
        return first
    again = _examined(lab, lab.network.hosts, vips, limit_s)  # the table has new connections now
    again += [OfHost(host, finding) for host, finding in seen]
    second = diagnosis(merged(again, names, behind))
    if any(map(is_cause, second)):
        return second
    both = diagnosis([*unanswered, *second])
    return sorted(both, key=lambda finding: finding.id != "client_unanswered")  # what failed, then other symptoms


def is_cause(finding: Finding) -> bool:
    """Return whether a finding explains why clients get no answer, or a part of them."""
    return not finding.symptom and (finding.severity is Severity.ERROR or finding.id in OF_A_PART)


def _examined(lab: Lab, hosts: Iterable[Host], vips: Collection[Address], limit_s: float) -> list[OfHost]:
    """Return what the doctor finds in these hosts, beside each other."""
    deadline = monotonic() + limit_s + GRACE_S

    def given(host: Host) -> str:
        named = vips or lab_expects.own_addresses(lab.network, host)
        fields = {
            "limit_s": limit_s,
            "vips": list(map(str, named)),
            "expected": lab_expects.of(lab.network, host).as_dict(),
        }
        return json.dumps(fields)

    running = {
        host.name: subprocess.Popen(
            [*lab.host(host.name).inside(), *command("pylvs.doctor", given(host))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for host in hosts
        if host.role != CLIENT  # it has nothing of its own to examine
    }
    return [OfHost(host, finding) for host, process in running.items() for finding in _finished(process, deadline)]


def _addresses(host: Host) -> list[str]:
    return [text for card in host.interfaces for text in card.addresses]


def _finished(process: subprocess.Popen[str], deadline: float) -> list[Finding]:
    """Return what the doctor of a host has found."""
    try:
        output, errors = process.communicate(timeout=max(deadline - monotonic(), 0.1))
        return [Finding.from_dict(fields) for fields in json.loads(output)]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        reason = "the examination did not end in time"
    except ValueError:
        reason = errors.strip().rpartition("\n")[2] or f"its exit status is {process.returncode}"
    return [
        Finding(
            id="not_examined",
            severity=Severity.INFO,
            layer=Layer.ADVICE,
            title="not examined",
            evidence=reason,
            why="What is wrong there is not among these findings.",
            fix="Remove the cause, and run pylvs doctor again.",
        )
    ]


# --- merging -------------------------------------------------------------------------------------------------------


def merged(
    found: Sequence[OfHost], names: Mapping[str, str], behind: Mapping[str, Collection[str]] | None = None
) -> Iterator[Finding]:
    """Yield the findings of all hosts, with the names of hosts; `names`: the hosts by their addresses.

    What a host finds about itself replaces what another host inferred about it, and explains symptoms of it
    elsewhere. So does what a router finds about itself; `behind`: the real servers behind each router.
    """
    knowing = {of.host: of.host for of in found if is_cause(of.finding)}  # who knows what is wrong, by host
    for router, servers in (behind or {}).items():
        knowing |= dict.fromkeys(servers, router) if router in knowing else {}
    explained, kept = defaultdict[str, set[Subject]](set), list[OfHost]()
    for of in found:
        about = concerned(of, names)
        inferred = of.finding.id in INFERRED and about not in (of.host, "")
        if inferred and about in knowing:
            explained[knowing[about]] |= of.finding.about | of.finding.explains
        else:
            kept.append(of)
        for subject in of.finding.about:
            server = names.get(subject.rpartition(" -> ")[2], "")
            if of.finding.symptom and server in knowing:
                explained[knowing[server]].add(subject)
    for of in kept:
        more = explained[of.host] if is_cause(of.finding) else set()
        yield named(replace(of, finding=replace(of.finding, explains=of.finding.explains | more)), names)


def concerned(of: OfHost, names: Mapping[str, str]) -> str:
    """Return the host that a finding is about: the one to mend, or the one whose address the title has."""
    if of.finding.fix_host == HERE:
        return of.host
    if of.finding.fix_host in names:
        return names[str(of.finding.fix_host)]
    words = (word.rstrip(",:;") for word in of.finding.title.split())
    addresses = (part for word in words for part in (word, word.rpartition(":")[0].strip("[]")))  # without its port
    return next((names[address] for address in addresses if address in names), of.host)


def named(of: OfHost, names: Mapping[str, str]) -> Finding:
    """Return a finding with the name of the host that it is about, and the address of that to mend."""
    finding, host = of.finding, concerned(of, names)
    where = finding.fix_host
    if where == HERE:
        where = next((address for address, name in names.items() if name == of.host), None)
    seen = finding.evidence if host == of.host else f"from {of.host}: {finding.evidence}"
    return replace(finding, title=f"{host}: {finding.title}", evidence=seen, fix_host=where)


# --- neighbours ----------------------------------------------------------------------------------------------------


def _wrong_neighbours(lab: Lab) -> Iterator[tuple[str, Finding]]:
    """Yield the hosts that know an address by another link address than that of the host that has it."""
    vip = ip_address(lab.network.vip)
    owners = {
        ip_address(address_of(text)): {bytes.fromhex(card.mac.replace(":", ""))}
        for host in lab.network.hosts
        for card in host.interfaces
        for text in card.addresses
    }
    for host in lab.network.role(DIRECTOR):
        with inside_network(lab.host(host.name).network):
            for device in links.devices():
                for address in device.addresses:
                    if address == vip or address in owners:
                        owners.setdefault(address, set()).add(device.mac)
    macs = _macs(lab.network.hosts)
    for host in [*lab.network.role(CLIENT), *lab.network.role(ROUTER), *lab.network.role(SERVER)]:
        with inside_network(lab.host(host.name).network):
            known, static = neighbours.link_addresses(), neighbours.permanent()
            devices = {device.index: device for device in links.devices()}
        for (index, address), mac in known.items():
            if host.role == SERVER and (address == vip or (index, address) in static):
                continue  # it sends nothing there, or its own doctor sees it
            if address in owners and mac not in owners[address] and address not in devices[index].addresses:
                yield host.name, _wrong_neighbour(address, devices[index].name, mac, macs.get(mac), address == vip)


def _macs(hosts: Iterable[Host]) -> dict[bytes, str]:
    return {bytes.fromhex(card.mac.replace(":", "")): host.name for host in hosts for card in host.interfaces}


def _wrong_neighbour(address: Address, device: str, mac: bytes, owner: str | None, virtual: bool) -> Finding:
    right = "the director" if virtual else "the host that has it"
    return Finding(
        id="wrong_neighbour",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"it sends packets to {address} to {owner or 'no host'}, not to {right}",
        evidence=f"ip neigh show {address}: lladdr {mac.hex(':')} on {device}",
        why="It has a wrong link address: a static entry, or one that another host announced.",
        fix="Delete the entry.",
        fix_command=f"ip neigh del {address} dev {device}",
        fix_host=HERE,
        about=frozenset({str(address)}),
        symptom=virtual,
    )


# --- clients -------------------------------------------------------------------------------------------------------


def _unanswered(lab: Lab) -> Iterator[Finding]:
    """Yield the clients that cannot connect. It is asked last, because these connections come into the table."""
    entry, port = lab.network.entry, lab.network.port
    for host in lab.network.role(CLIENT):
        with inside_network(lab.host(host.name).network):
            error = _connect(ip_address(entry), port, CONNECTIONS * len(lab.network.role(SERVER)))
        if error:
            yield Finding(
                id="client_unanswered",
                severity=Severity.ERROR,
                layer=Layer.REPLY,
                title=f"{host.name} cannot connect to {endpoint(ip_address(entry), port)}",
                evidence=f"{host.name}: connect: {error}",
                why="Neither the director nor a real server shows a cause.",
                fix="Look at the client's routes, and at the routers between: docs/how-to/no-answer.md.",
                about=frozenset({NO_SERVICE}),
                symptom=True,
            )


def _connect(address: Address, port: int, count: int) -> str:
    """Return why one of some connections fails; "" if none does."""
    with contextlib.ExitStack() as opened:
        waiting = []
        for _ in range(count):
            connecting = opened.enter_context(socket.socket(family_of(address), socket.SOCK_STREAM))
            connecting.setblocking(False)
            code = connecting.connect_ex((str(address), port))
            if code not in (0, errno.EINPROGRESS):
                return os.strerror(code)
            waiting.append(connecting)
        deadline = monotonic() + CONNECT_S
        while waiting and (left := deadline - monotonic()) > 0:
            _, ready, _ = select.select([], waiting, [], left)
            for connecting in ready:
                waiting.remove(connecting)
                if code := connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    return os.strerror(code)
        return f"no answer within {CONNECT_S:g} s ({len(waiting)} of {count})" if waiting else ""
