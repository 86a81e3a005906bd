"""Compile `virtual_server` blocks to services, by keepalived's rules: adjust values that cannot hold, with findings."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pylvs.config.compile.checkers import CheckMaker, tls_client_of
from pylvs.config.compile.effective import EffectiveBlock
from pylvs.config.compile.scripts import ScriptRules
from pylvs.config.language.tree import Word
from pylvs.config.schema.checkers import SERVER_TIMING
from pylvs.config.schema.grammar import Section, Setting, did_you_mean
from pylvs.config.schema.service_types import PERSISTENCE_S, VERSIONS, Forwarding, Granularity, MarkEntry, Range, Server
from pylvs.config.schema.virtual_server import VIRTUALHOST
from pylvs.model import client_rules
from pylvs.model.addresses import endpoint
from pylvs.model.checks import KINDS, BfdCheck, Check, Pace, TlsClient
from pylvs.model.client_rules import ClientRule, Network, checked
from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.errors import NoSpace
from pylvs.model.service import (
    DEFAULT_SCHEDULER,
    SCHEDULER_FLAGS,
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    flags_of,
)
from pylvs.model.wanted import WantedServer, WantedService

FAMILIES: Mapping[int, int] = {4: socket.AF_INET, 6: socket.AF_INET6}
DEFAULT_METHOD = Forwarding(Method.MASQ)
# The keywords of a real server that its checks inherit, each from the block that it is written in.
_OF_CHECKS = frozenset(each.name for each in (*SERVER_TIMING, VIRTUALHOST))


@dataclass(frozen=True, slots=True)
class Entries:
    """What a virtual server stands for: one address, one firewall mark, or all entries of a group."""

    all: tuple[Range | MarkEntry, ...]
    group: str = ""

    @property
    def ranges(self) -> tuple[Range, ...]:
        return tuple(each for each in self.all if isinstance(each, Range))

    @property
    def ports(self) -> set[int]:
        return {each.port for each in self.ranges}

    @property
    def marks(self) -> tuple[MarkEntry, ...]:
        return tuple(each for each in self.all if isinstance(each, MarkEntry))

    @property
    def versions(self) -> set[int]:
        """The IP versions of addresses and of marks with a family."""
        return {each.first.version for each in self.ranges} | {each.version for each in self.marks if each.version}

    def keys(self, protocol: Protocol, version: int) -> Iterator[tuple[ServiceKey, Word]]:
        """Yield the keys in the table; `version` is that of marks without a family."""
        for entry in self.all:
            if isinstance(entry, MarkEntry):
                yield ServiceKey.of_mark(entry.mark, FAMILIES[entry.version or version]), entry.word
            else:
                for address in entry.addresses():
                    yield ServiceKey(protocol, address, entry.port), entry.word

    def name(self, protocol: Protocol, version: int) -> str:
        """Return the name of the service: "192.0.2.1:80 tcp", "fwmark 7", "fwmark 7 inet6", "group web tcp"."""
        first = self.all[0]
        if self.group:
            return f"group {self.group}" + (f" {protocol.name.lower()}" if self.ranges else "")
        if isinstance(first, MarkEntry):
            return f"fwmark {first.mark}" + (" inet6" if (first.version or version) == 6 else "")
        return f"{endpoint(first.first, first.port)} {protocol.name.lower()}"


def groups_of(root: EffectiveBlock) -> Mapping[str, Section]:
    """Return the groups by name; of two with one name the first counts."""
    groups: dict[str, Section] = {}
    for block in root.below("virtual_server_group"):
        section = block.section
        assert section.node is not None
        assert isinstance(section.head, str)
        earlier = groups.setdefault(section.head, section)
        if earlier is not section:
            assert earlier.node is not None
            line = earlier.node.location.line_for(section.node.location)
            text = f"there is a group {section.head} already, in {line}; the first one counts"
            block.error(section.node.words[-1], text, "give it another name")
    return groups


def entries_of(service: EffectiveBlock, groups: Mapping[str, Section]) -> Entries | None:
    """Return the entries of a virtual_server; None, and a finding, if there are none."""
    head = service.head
    if isinstance(head, Server):
        return Entries((Range(head.address, head.address, head.port, head.word),))
    if isinstance(head, MarkEntry):
        return Entries((head,))
    assert isinstance(head, Word)
    group = groups.get(head.text)
    if group is None:
        near = did_you_mean(head.text, list(groups)) or f"write a block virtual_server_group {head.text}"
        service.error(head, f"there is no group {head}; the service is left out", near)
        return None
    entries = tuple(each.value for each in group.settings if isinstance(each.value, Range | MarkEntry))
    if not entries:
        service.error(head, f"the group {head} is empty; the service is left out", "give it an address or a mark")
        return None
    return Entries(entries, head.text)


def apply(service: EffectiveBlock, entries: Entries) -> bool:
    """Apply every rule in its order; return False if the service is left out."""
    _protocol(service, entries)
    _suspension(service, entries)
    _handshakes(service)
    _methods(service)
    _scheduler(service)
    if not _families(service, entries):
        return False
    _ports(service, entries)
    _duplicates(service, entries)
    if not list(service.below("real_server")):
        service.error("", "the service has no real server; it is left out", "add a real_server block")
        return False
    _persistence(service, entries)
    _sorry_server(service, entries)
    _quorum(service)
    return True


def version_of(service: EffectiveBlock, entries: Entries) -> int:
    """Return the IP version of marks without a family."""
    family = service.maybe("ip_family", str)
    if family:
        return VERSIONS[family]
    if len(entries.versions) == 1:
        return min(entries.versions)
    servers = [_server(each).address.version for each in service.below("real_server")]
    plain = [_server(each).address.version for each in service.below("real_server") if not _tunnelled(each)]
    return plain[0] if plain else servers[0] if len(set(servers)) == 1 else 4


def method_of(server: EffectiveBlock) -> Forwarding:
    """Return the forwarding method of a real server."""
    return server.get("lvs_method", Forwarding)


def _server(block: EffectiveBlock) -> Server:
    assert isinstance(block.head, Server)
    return block.head


def _tunnelled(server: EffectiveBlock) -> bool:
    return method_of(server).method is Method.TUNNEL


def _protocol(service: EffectiveBlock, entries: Entries) -> None:
    written = service.is_written("protocol")
    if entries.ranges and not written:
        if not service.has_line("protocol"):
            service.warning("", "no protocol is given; it is UDP", "write protocol TCP, or protocol UDP")
        service.adjust("protocol", Protocol.UDP, "not given")
    elif not entries.ranges and written:
        service.warning("protocol", "a firewall mark's service has no protocol; it is ignored", "remove it")
    elif not written:
        service.fill("protocol", Protocol.TCP)
    by_address, is_udp = bool(entries.ranges), service.get("protocol", Protocol) is Protocol.UDP
    if by_address and not is_udp and service.get("ops", bool):
        service.warning("ops", "ops is of UDP alone; it is ignored", "remove it")
        service.adjust("ops", False, "not UDP")


def _suspension(service: EffectiveBlock, entries: Entries) -> None:
    if service.get("ha_suspend", bool) and entries.marks:
        text = "ha_suspend is not possible with firewall marks, which are on no machine; it is ignored"
        service.warning("ha_suspend", text, "remove it")
        service.adjust("ha_suspend", False, "firewall marks")


def _handshakes(service: EffectiveBlock) -> None:
    share = service.get("handshake_share", int)
    if share and service.get("protocol", Protocol) is Protocol.UDP:
        service.warning("handshake_share", "UDP has no handshakes; handshake_share is ignored", "remove it")
        service.adjust("handshake_share", 0, "UDP")
    for name, default in (("handshake_minimum", 20), ("handshake_retry", 60)):
        if not share and service.effective(name).value != default:
            service.warning(name, f"{name} has no effect without handshake_share", "write handshake_share 50")


def _methods(service: EffectiveBlock) -> None:
    lacking = [each for each in service.below("real_server") if each.maybe("lvs_method", Forwarding) is None]
    if lacking and not service.has_line("lvs_method", "lb_kind"):
        service.warning("", "no forwarding method is given; it is NAT", "write lvs_method DR, or NAT")
    for block in (service, *lacking):
        if block.maybe("lvs_method", Forwarding) is None:
            block.adjust("lvs_method", DEFAULT_METHOD, "not given")
    if service.maybe("sorry_server_lvs_method", Forwarding) is None:
        service.fill("sorry_server_lvs_method", service.get("lvs_method", Forwarding))


def _scheduler(service: EffectiveBlock) -> None:
    scheduler = service.effective("lvs_sched")
    if not service.is_written("lvs_sched") and not service.has_line("lvs_sched", "lb_algo"):
        service.warning("", f"no scheduler is given; it is {DEFAULT_SCHEDULER}", f"write lvs_sched {DEFAULT_SCHEDULER}")
    for owner, name in ((owner, name) for owner, names in SCHEDULER_FLAGS.items() for name in names):
        if not service.get(name, bool):
            continue
        if scheduler.value == owner:
            if _is_above(service, name, "lvs_sched", owner):
                service.adjust(name, False, "above lvs_sched")
        else:
            text = f"{name} is of the scheduler {owner} alone; it is ignored"
            service.warning(name, text, f"write lvs_sched {owner}, or remove it")
            service.adjust(name, False, "another scheduler")


def _is_above(service: EffectiveBlock, name: str, other: str, value: object = None) -> bool:
    """Return whether a keyword is written above another one, with this value if given; report that.

    keepalived applies each line when it reads it, so such a line has no effect.
    """
    settings = [each for each in service.section.settings if each.keyword is not None]
    needed = next((at for at, each in enumerate(settings) if _sets(each, other) and value in (None, each.value)), -1)
    if needed < 0 or not service.section.setting(name) or any(_sets(each, name) for each in settings[needed:]):
        return False
    line = settings[needed].node.location.line_for(service.location(name))
    text = f"{name} has no effect above {other} in {line}, as in keepalived; it is ignored"
    service.warning(name, text, f"move it below {other}")
    return True


def _sets(setting: Setting, name: str) -> bool:
    return setting.keyword is not None and setting.keyword.name == name


def _families(service: EffectiveBlock, entries: Entries) -> bool:
    """Reject real servers of the other IP version, which only a tunnel reaches."""
    plain = [each for each in service.below("real_server") if not _tunnelled(each)]
    if len(entries.versions) > 1 and plain:
        text = f"the group {entries.group} has IPv4 and IPv6, and not all servers are tunnelled"
        service.error("", f"{text}; the service is left out", "make a group of each, or write lvs_method TUN")
        return False
    family = service.maybe("ip_family", str)
    if family and entries.versions and entries.versions != {VERSIONS[family]}:
        service.error("ip_family", f"ip_family {family} is not that of the addresses; it is ignored")
        service.adjust("ip_family", None, "another family")
    version = version_of(service, entries)
    for block in plain:
        if _server(block).address.version != version:
            text = f"{_server(block).address} is not IPv{version} as the service is; the real server is left out"
            service.error(_server(block).word, text, "only lvs_method TUN leads to the other IP version")
            service.leave_out(block)
    for mark in entries.marks:
        if not mark.version and len(entries.versions) > 1:
            text = f"fwmark {mark.mark} needs inet or inet6 in a group of both; it is IPv{version}"
            service.error(mark.word, text, f"write fwmark {mark.mark} inet, or inet6")
    if not service.is_written("ip_family"):
        service.fill("ip_family", "inet6" if version == 6 else "inet")
    return True


def _ports(service: EffectiveBlock, entries: Entries) -> None:
    """Name the real servers, and report ports that the table does not have.

    DR and TUN change no port: the table has that of each address, and 0 for a mark (`Destination.listed_by`). Checks
    keep the written one.
    """
    for block in service.below("real_server"):
        server, nat = _server(block), method_of(block).method is Method.MASQ
        if not nat:
            _report_port(service, server, entries, "real server")
        block.head = _named(entries, server, nat)


def _named(entries: Entries, server: Server, nat: bool) -> Server:
    """Return a server with the port of its name: in a group the written one, else the port in the table.

    So the name does not change with the ports of the group.
    """
    port = 0 if entries.marks else min(entries.ports)
    if entries.group or (nat and server.port) or port == server.port:
        return server
    return replace(server, fixed_port=port)


def _report_port(service: EffectiveBlock, server: Server, entries: Entries, what: str) -> None:
    """Report the port of a server that NAT does not reach, if it is not the port in the table."""
    ports = entries.ports
    if not server.port or ports == {server.port}:
        return
    if not ports:
        text = f"a firewall mark's service has no port; that of {server.address} is ignored"
        service.warning(server.word, text, f"write {server.address} alone, and connect_port in its checks")
    elif len(ports) > 1:
        text = f"port {server.port} is not that of every entry of the group; the port of each packet stays"
        service.warning(server.word, text, "DR and TUN change no port; write the address alone")
    else:
        text = f"port {server.port} of the {what} is not the service's; it is {min(ports)} in the table"
        checks = "; checks still go to the written one" if what == "real server" else ""
        service.warning(server.word, text, f"DR and TUN change no port{checks}")


def _names_in_table(block: EffectiveBlock, entries: Entries) -> Iterator[tuple[int, object, int]]:
    """Yield what identifies a real server in the table, for each port of the service."""
    server, nat = _server(block), method_of(block).method is Method.MASQ
    for port in entries.ports | ({0} if entries.marks else set()):
        yield port, server.address, server.table_port if nat else port


def _duplicates(service: EffectiveBlock, entries: Entries) -> None:
    """Keep one block of each real server; one with another written port adds its checks to it, as in keepalived."""
    first: dict[tuple[int, object, int], EffectiveBlock] = {}
    written: set[tuple[int, int]] = set()  # blocks that are kept, each with a port
    for block in list(service.below("real_server")):
        server, names = _server(block), list(_names_in_table(block, entries))
        kept = next((first[name] for name in names if name in first), block)
        again = (id(kept), server.port) in written
        written.add((id(kept), server.port))
        if kept is not block:
            if again:
                line = kept.word.location.line_for(server.word.location)
                text = f"the service has the real server {server.address} already, in {line}; this one is left out"
                # A reload refuses it: it is probably another server with a mistake in its address.
                service.findings.typo(server.word.location, text, "correct its address, or remove it")
            else:
                _merge(block, kept)
            service.leave_out(block)
            continue
        first |= dict.fromkeys(names, block)
        lower, upper = block.get("lthreshold", int), block.get("uthreshold", int)
        if upper and lower > upper:
            text = f"lthreshold {lower} is above uthreshold {upper}: once full, never free again by number"
            block.warning("lthreshold", text, "write a smaller lthreshold")


def _merge(server: EffectiveBlock, kept: EffectiveBlock) -> None:
    """Add the checks of a real server to another block of it, and report what else the block cannot have."""
    line = kept.word.location.line_for(server.word.location)
    text = f"without its port this is the real server of {line}, which gets the checks of this block, too"
    server.warning(_server(server).word, text, "write one real_server, and connect_port in its checks")
    kept.blocks += server.below(*KINDS)
    for setting in server.all():
        counts = kept.effective(setting.keyword.name)
        # Values with words, such as scripts, differ by their lines.
        same = setting.value == counts.value or [str(word) for word in setting.words] == [
            str(word) for word in counts.words
        ]
        if not same and setting.keyword.name not in _OF_CHECKS:
            text = f"{setting.keyword.name} is not that of the same real server in {line}, which counts"
            server.error(setting.keyword.name, text, "write the same value into both blocks")


def _persistence(service: EffectiveBlock, entries: Entries) -> None:
    granularity = service.maybe("persistence_granularity", Granularity)
    if granularity is not None:
        if not entries.versions <= {granularity.version} or version_of(service, entries) != granularity.version:
            text = f"{granularity} is no netmask of the service's IP version; it is ignored"
            service.error("persistence_granularity", text, "255.255.255.0 for IPv4, 64 for IPv6")
            service.adjust("persistence_granularity", None, "another IP version")
        elif not service.maybe("persistence_timeout", int):
            if service.is_written("persistence_timeout"):
                text = f"persistence_granularity makes the service persistent; persistence_timeout is {PERSISTENCE_S}"
                service.warning("persistence_granularity", text, "write persistence_timeout, or remove both")
            service.adjust("persistence_timeout", PERSISTENCE_S, "persistence_granularity")
    if not service.maybe("persistence_timeout", int) and any(each.port == 0 for each in entries.ranges):
        text = f"a service without a port must be persistent; persistence_timeout is {PERSISTENCE_S}"
        service.warning("", text, "write a port, or persistence_timeout")
        service.adjust("persistence_timeout", PERSISTENCE_S, "no port")


def _sorry_server(service: EffectiveBlock, entries: Entries) -> None:
    server = service.maybe("sorry_server", Server)
    if _is_above(service, "sorry_server_inhibit", "sorry_server"):
        service.adjust("sorry_server_inhibit", False, "above sorry_server")
    if _is_above(service, "sorry_server_lvs_method", "sorry_server"):
        service.adjust("sorry_server_lvs_method", service.get("lvs_method", Forwarding), "above sorry_server")
    method = service.get("sorry_server_lvs_method", Forwarding).method
    if server is not None and method is not Method.TUNNEL and server.address.version != version_of(service, entries):
        text = f"{server.address} is not of the service's IP version; there is no sorry server"
        service.error(server.word, text, "only sorry_server_lvs_method TUN leads to the other IP version")
        service.adjust("sorry_server", None, "another IP version")
        return
    if server is not None and method is not Method.MASQ:
        _report_port(service, server, entries, "sorry server")
        named = _named(entries, server, nat=False)
        if named is not server:
            service.adjust("sorry_server", named, "the service's port")
    if server is None:
        for name in ("sorry_server_lvs_method", "sorry_server_inhibit"):
            if service.is_written(name) and service.effective(name).value is not False:
                service.warning(name, f"{name} has no effect without sorry_server", "write one")
        service.fill("sorry_server_lvs_method", None)


def _quorum(service: EffectiveBlock) -> None:
    total = sum(each.get("weight", int) for each in service.below("real_server"))
    quorum = service.get("quorum", int)
    if quorum > total:
        text = f"quorum {quorum} is more than all real servers weigh; it is {total}"
        lower = f"write quorum {total} or less, or larger weights" if total else "write larger weights"
        service.warning("quorum", text, lower)
        service.adjust("quorum", total, f"lowered from {quorum}")
        quorum = total
    hysteresis, maximum = service.get("hysteresis", int), max(0, quorum - 1)
    if hysteresis > maximum:
        text = f"hysteresis {hysteresis} is not below the quorum of {quorum}; it is {maximum}"
        service.warning("hysteresis", text, f"write hysteresis {maximum} or less")
        service.adjust("hysteresis", maximum, f"lowered from {hysteresis}")


def services_of(root: EffectiveBlock, scripts: ScriptRules) -> Iterator[WantedService]:
    """Yield the services in the order of the text; remove rejected blocks from the effective configuration too."""
    groups, tls = groups_of(root), tls_client_of(root)
    kept: list[_Keyed] = []
    taken: dict[ServiceKey, _Keyed] = {}
    for block in list(root.below("virtual_server")):
        entries = entries_of(block, groups)
        if entries is not None and apply(block, entries):
            found = _Keyed(block, entries)
            if not _joined(found, taken) and found.take_free(taken):
                kept.append(found)
                continue
        root.leave_out(block)
    members = Counter[str]()  # so far, of each group
    rules = 0  # so far
    for service in kept:
        group = service.entries.group
        wanted = _service(service, f"[{group}]:{members[group]}" if group else "", scripts, tls)
        members[group] += 1
        if wanted.client_rules:
            before, rules = rules, rules + _rules_in_table(wanted)
            if before <= client_rules.MOST_RULES < rules:
                text = f"client_rules: {rules} client rules of all services up to here"
                _refuse_rules(service.block, f"{text}; the table holds {client_rules.MOST_RULES}")
        yield wanted


@dataclass(slots=True, eq=False)
class _Keyed:
    """A virtual_server and the words of its keys in the table."""

    block: EffectiveBlock
    entries: Entries
    words: dict[ServiceKey, Word] = field(default_factory=dict)  # only those that no earlier service has
    joined: bool = False  # it has the real servers of a later block too

    @property
    def keys(self) -> Iterator[tuple[ServiceKey, Word]]:
        """The written keys."""
        return self.entries.keys(self.block.get("protocol", Protocol), version_of(self.block, self.entries))

    def take_free(self, taken: dict[ServiceKey, _Keyed]) -> bool:
        """Take the keys that no earlier service has, and report the others; return whether there are any."""
        for key, word in self.keys:
            if key in taken:
                line = taken[key].words[key].location.line_for(word.location)
                text = f"{key} was given already, in {line}; this one is left out"
                self.block.error(word, text, "remove one of them")
            else:
                taken[key] = self
                self.words[key] = word
        return bool(self.words)


def _joined(found: _Keyed, taken: Mapping[ServiceKey, _Keyed]) -> bool:
    """Give the real servers to an earlier service with exactly the same keys; return whether there is one.

    keepalived adds the servers of both blocks to one service of IPVS, which has the scheduler of the first one.
    """
    first, _ = next(found.keys)
    earlier = taken.get(first)
    if earlier is None or earlier.words.keys() != {key for key, _ in found.keys}:
        return False
    line = earlier.block.word.location.line_for(found.block.word.location)
    text = f"the service was given already, in {line}; this block only adds its real servers to it"
    found.block.error("", text, "write one block with all real servers")
    earlier.joined = True
    earlier.block.blocks += found.block.below("real_server")
    _duplicates(earlier.block, earlier.entries)
    return True


def _service(found: _Keyed, group_name: str, scripts: ScriptRules, tls: TlsClient) -> WantedService:
    """Make the service of a block after the rules are applied."""
    block, entries, keys = found.block, found.entries, tuple(found.words)
    protocol, version = block.get("protocol", Protocol), version_of(block, entries)
    timeout = block.maybe("persistence_timeout", int, 0)
    flags = ServiceFlag.PERSISTENT if timeout else ServiceFlag(0)
    for name, flag in flags_of(block.get("lvs_sched", str)).items():
        if block.get(name, bool):
            flags |= flag
    granularity = block.maybe("persistence_granularity", Granularity)
    sorry = block.maybe("sorry_server", Server)
    # The checks have it by inheritance, and those of a joined block must not get the first block's.
    virtualhost = "" if found.joined else block.maybe("virtualhost", str, "")
    if block.get("announce", bool) and all(key.mark for key in keys):
        block.warning("announce", "a service of a firewall mark has no address; announce has no effect", "remove it")
    return block.make(
        WantedService,
        name=entries.name(protocol, version),
        keys=keys,
        group_name=group_name,
        scheduler=block.get("lvs_sched", str),
        flags=flags,
        timeout_s=timeout,
        netmask=granularity.netmask if granularity else -1,
        engine=_engine(block, protocol, timeout, keys),
        mss_clamp=_mss_clamp(block, protocol, keys),
        client_rules=_client_rules(block, keys),
        servers=tuple(_wanted_server(each, entries, scripts, tls) for each in block.below("real_server")),
        sorry_server=_destination(sorry, block.get("sorry_server_lvs_method", Forwarding)) if sorry else None,
        virtualhost=virtualhost,
        quorum_up=scripts.of(block, "quorum_up"),
        quorum_down=scripts.of(block, "quorum_down"),
    )


def _mss_clamp(block: EffectiveBlock, protocol: Protocol, keys: Sequence[ServiceKey]) -> int:
    """Return the MSS clamp, 0 for none, and report where it has no use."""
    clamp = block.maybe("mss_clamp", int, 0)
    if clamp and protocol is not Protocol.TCP and not all(key.mark for key in keys):
        block.warning("mss_clamp", "mss_clamp has no effect on other protocols than TCP", "write protocol TCP")
    return clamp


def _client_rules(block: EffectiveBlock, keys: Sequence[ServiceKey]) -> tuple[ClientRule, ...]:
    """Return the client rules in the order of their prefixes. Report those that no service can have."""
    by_prefix: dict[Network, ClientRule] = {}
    families = {key.address.version for key in keys}
    for rule in block.lines("client_rules", ClientRule):
        if rule.prefix.version not in families:
            text = f"client_rules: {rule}: no address of the service is of IPv{rule.prefix.version}"
            block.error("", text, "remove it")
        elif by_prefix.setdefault(rule.prefix, rule) != rule:
            text = f"client_rules: two rules for {rule.prefix}: {by_prefix[rule.prefix]}; {rule}"
            block.error("", text, "remove one of them")
    found: list[ClientRule] = []
    for version in sorted({rule.prefix.version for rule in by_prefix.values()}):
        of_family = [rule for rule in by_prefix.values() if rule.prefix.version == version]
        try:
            found += checked("client_rules", version, of_family)
        except NoSpace as error:
            _refuse_rules(block, str(error))
            return ()
    return tuple(found)


def _rules_in_table(service: WantedService) -> int:
    """Return how many rules a service has in the table: each of its keys has those of its family."""
    of_family = Counter(rule.prefix.version for rule in service.client_rules)
    return sum(of_family[key.address.version] for key in service.keys)


def _refuse_rules(block: EffectiveBlock, text: str) -> None:
    """Report rules without which the service would serve clients that they deny: the file cannot be run."""
    own = next(iter(block.below("client_rules")))
    own.error("", text, "write fewer, with shorter prefixes", fatal=True)


def _engine(block: EffectiveBlock, protocol: Protocol, timeout: int, keys: Sequence[ServiceKey]) -> str:
    """Return the persistence engine, and report where it has no use."""
    engine = block.get("persistence_engine", str)
    if engine and not timeout:
        text = "persistence_engine has no effect on clients without persistence_timeout"
        block.warning("persistence_engine", text, "write persistence_timeout")
    elif engine and protocol is not Protocol.UDP and not all(key.mark for key in keys):
        text = f"persistence_engine {engine} is of UDP alone; every new connection will be dropped"
        block.warning("persistence_engine", text, "write protocol UDP")
    return engine


def _wanted_server(block: EffectiveBlock, entries: Entries, scripts: ScriptRules, tls: TlsClient) -> WantedServer:
    server, ports = _server(block), entries.ports
    port = min(ports) if len(ports) == 1 else 0
    checks: list[Check | None] = []
    left_out = [f"{word}: no such check" for word in _unknown_blocks(block)]
    for checker in list(block.below(*KINDS)):
        written = checker.outer[0].head  # another real_server than `block` after a `_merge`
        assert isinstance(written, Server)
        maker = CheckMaker(scripts, block, written, port, has_vip=bool(ports), tls=tls)
        check = maker.make(checker)
        if check is None:
            left_out.append(f"{checker.block.name}: {block.findings.latest.removesuffix('; the check is left out')}")
        # The same check of both would count twice, also the weight that it reports.
        if written is not server and check is not None and any(_is_same(check, other) for other in checks):
            block.leave_out(checker)
        else:
            checks.append(check)
    if left_out and not any(checks):
        text = f"no check of the real server {server.address} is left, so it always counts as up"
        names = ", ".join(dict.fromkeys(each.partition(":")[0] for each in left_out))
        block.warning(server.word, text, f"correct its {names}")
    thresholds = block.get("uthreshold", int), block.get("lthreshold", int)
    return block.make(
        WantedServer,
        destination=_destination(server, method_of(block), block.get("weight", int), *thresholds),
        checks=tuple(_once(block, checks)),
        checks_left_out=tuple(left_out),
        notify_up=scripts.of(block, "notify_up"),
        notify_down=scripts.of(block, "notify_down"),
    )


def _unknown_blocks(server: EffectiveBlock) -> Iterator[str]:
    """Yield the keywords of blocks that a real server does not know: misspelt checks."""
    node = server.section.node
    for child in (node.block or ()) if node else ():
        if child.block is not None and server.block.find(child.keyword) is None:
            yield child.keyword


def _is_same(check: Check, other: Check | None) -> bool:
    """Return whether two checks differ at most in their pace."""
    return type(check) is type(other) and replace(check, pace=Pace()) == replace(other, pace=Pace())


def _once(block: EffectiveBlock, checks: Iterable[Check | None]) -> Iterator[Check]:
    """Yield the checks; of several BFD_CHECKs of one session only the first."""
    sessions: set[str] = set()
    for check in filter(None, checks):
        if isinstance(check, BfdCheck) and check.session in sessions:
            block.error("", f"BFD_CHECK of {check.session} is there already; it counts once", "remove one of them")
            continue
        if isinstance(check, BfdCheck):
            sessions.add(check.session)
        yield check


def _destination(
    server: Server, forwarding: Forwarding, weight: int = 1, upper: int = 0, lower: int = 0
) -> Destination:
    key = DestinationKey(server.address, server.table_port)
    return Destination(key, forwarding.method, weight, upper, lower, forwarding.tunnel)
