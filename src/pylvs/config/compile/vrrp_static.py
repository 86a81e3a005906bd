"""Compile what does not depend on VRRP's state: static addresses, routes and rules, and settings of all routers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import chain

from pylvs.config.compile.effective import EffectiveBlock
from pylvs.config.compile.scripts import SHARED_FIFO, ScriptRules, fifos_of
from pylvs.config.compile.vrrp_tracking import Symbols, name_of
from pylvs.config.findings import Findings
from pylvs.config.language.tree import Word
from pylvs.config.schema.root import DelayedLink
from pylvs.config.schema.routes import WrittenRoute
from pylvs.config.schema.routing_rules import WrittenRule
from pylvs.config.schema.vrrp_types import Device, WrittenAddress
from pylvs.model.dataclass import dataclass
from pylvs.model.routing import HeldAddress, Route, RoutingRule
from pylvs.model.vrrp import LinkDelay, SendingLimit, VrrpSettings

FIRST_PREFERENCE = 16384


@dataclass(slots=True)
class RulePreferences:
    """Gives rules without a preference one, counting down in the order of the text as keepalived does."""

    findings: Findings
    next: int = FIRST_PREFERENCE

    def rules(self, block: EffectiveBlock, name: str) -> tuple[RoutingRule, ...]:
        """Return the rules in the blocks of a name, each with a preference."""
        return tuple(rule for each in block.below(name) for rule in self.of_lines(each))

    def of_lines(self, block: EffectiveBlock) -> Iterator[RoutingRule]:
        """Yield the rules in a block."""
        for each in block.section.lines(WrittenRule):
            rule = each.rule
            if not each.preferred:
                text = f"the rule has no preference; it gets {self.next}"
                self.findings.warning(each.word.location, text, "write preference N")
                rule = replace(rule, preference=self.next)
                self.next -= 1
            yield rule


DEFAULT_INTERFACE = "eth0"
Members = tuple[str, ...]
TrackGroups = dict[str, EffectiveBlock]


def vrrp_settings_of(
    root: EffectiveBlock, settings: EffectiveBlock, scripts: ScriptRules, symbols: Symbols
) -> VrrpSettings:
    """Return the settings of all virtual routers."""
    return VrrpSettings(
        fifos=tuple(fifos_of(settings, scripts, symbols.findings, (SHARED_FIFO, "vrrp_notify_fifo"))),
        states_on_reload=settings.get("fifo_write_vrrp_states_on_reload", bool),
        startup_delay_s=settings.get("vrrp_startup_delay", float),
        no_fault_mails=settings.get("no_email_faults", bool),
        dynamic_interfaces=settings.maybe("dynamic_interfaces", bool, False),
        default_interface=default_interface(settings),
        nice=settings.get("vrrp_priority", int),
        realtime_priority=settings.maybe("vrrp_rt_priority", int, 0),
        cpus=settings.maybe("vrrp_cpu_affinity", tuple, ()),
        log_unknown_vrids=settings.get("log_unknown_vrids", bool),
        vmac_prefix=settings.get("vmac_prefix", str),
        vmac_address_prefix=settings.get("vmac_addr_prefix", str),
        limits=tuple(_limits(root, settings, symbols)),
        link_delays=tuple(_delays(root, symbols.findings)),
    )


def default_interface(settings: EffectiveBlock) -> str:
    """Return the device of static addresses that name none."""
    device = settings.maybe("default_interface", Device)
    return device.name if device else DEFAULT_INTERFACE


def _limits(root: EffectiveBlock, settings: EffectiveBlock, symbols: Symbols) -> Iterator[SendingLimit]:
    """Yield the limit of each garp_group, then that of all other devices."""
    taken: set[str] = set()
    for block in root.below("garp_group"):
        arp, neighbour = block.maybe("garp_interval", float), block.maybe("gna_interval", float)
        if arp is None and neighbour is None:
            symbols.findings.error(
                block.word.location, "the garp_group limits nothing; it is left out", "add garp_interval"
            )
            continue
        words = list(_group_devices(block, symbols))
        for word in words:
            if word.text in taken:
                text = f"{word.text} is in an earlier garp_group; it does not count here"
                symbols.findings.error(word.location, text, "name each device once")
        names = tuple(dict.fromkeys(word.text for word in words if word.text not in taken))
        taken.update(names)
        if names:
            yield SendingLimit(devices=names, arp_s=arp or 0.0, neighbour_s=neighbour or 0.0)
        elif not words:
            symbols.findings.warning(block.word.location, "the garp_group names no device", "add interface DEVICE")
    arp, neighbour = settings.maybe("vrrp_garp_interval", float), settings.maybe("vrrp_gna_interval", float)
    if arp or neighbour:
        yield SendingLimit(devices=(), arp_s=arp or 0.0, neighbour_s=neighbour or 0.0)


def _group_devices(block: EffectiveBlock, symbols: Symbols) -> Iterator[Word]:
    device = block.maybe("interface", Device)
    if device is not None:
        yield device.word
    for word in chain.from_iterable(block.lines("interfaces", tuple)):
        assert isinstance(word, Word)
        symbols.device(word)
        yield word


def _delays(root: EffectiveBlock, findings: Findings) -> Iterator[LinkDelay]:
    seen: set[str] = set()
    for block in root.below("interface_up_down_delays"):
        for line in block.section.lines(DelayedLink):
            if line.device.name in seen:
                findings.warning(
                    line.device.word.location, f"{line.device.name} has a delay already", "remove one of them"
                )
                continue
            seen.add(line.device.name)
            yield LinkDelay(line.device.name, line.down_s, line.up_s)


def track_group_of(block: EffectiveBlock, groups: TrackGroups, findings: Findings) -> None:
    """Add a track_group; `members_of` checks its members after all virtual routers are compiled."""
    name = name_of(block)
    if name.name in groups:
        findings.error(
            name.word.location, f"the name '{name.name}' is taken; this one does not count", "choose another"
        )
    else:
        groups[name.name] = block


def members_of(groups: TrackGroups, instances: Collection[str], findings: Findings) -> Iterator[tuple[str, Members]]:
    """Yield each track_group with its virtual routers."""
    for name, block in groups.items():
        words = list(chain.from_iterable(block.lines("group", tuple)))
        for word in words:
            if word.text not in instances:
                findings.error(word.location, f"there is no virtual router '{word.text}'", "define it, or remove it")
        if not words:
            findings.error(block.word.location, f"track_group {name} has no virtual router", "add group { NAME ... }")
        yield name, tuple(dict.fromkeys(word.text for word in words if word.text in instances))


def addresses_of(
    block: EffectiveBlock, groups: TrackGroups, settings: EffectiveBlock, symbols: Symbols
) -> Iterator[HeldAddress]:
    """Yield the addresses of a static_ipaddress."""
    for held in block.section.lines(WrittenAddress):
        address = held.address
        if not address.device:
            device = default_interface(settings)
            if not symbols.dynamic_interfaces and device not in symbols.mtus:
                text = f"{held.word.text} has no device, and this machine has no '{device}', the default_interface"
                symbols.findings.error(held.word.location, text, "write dev DEVICE")
            address = replace(address, device=device)
        yield replace(address, track_group=_group(held.group, groups, symbols.findings))


def routes_of(block: EffectiveBlock, groups: TrackGroups, findings: Findings) -> Iterator[Route]:
    """Yield the routes of a static_routes."""
    for routed in block.section.lines(WrittenRoute):
        yield replace(routed.route, track_group=_group(routed.group, groups, findings))


def check_rule_groups(block: EffectiveBlock, groups: TrackGroups, findings: Findings) -> None:
    """Report undefined track_groups of rules."""
    for ruled in block.section.lines(WrittenRule):
        _group(ruled.group, groups, findings)


def _group(word: Word | None, groups: TrackGroups, findings: Findings) -> str:
    """Return the name of a track_group that is defined above, else "" and a finding."""
    if word is None:
        return ""
    if word.text not in groups:
        text = f"no track_group '{word.text}' is defined before; no virtual router depends on it"
        findings.error(word.location, text, "move its definition before this block")
        return ""
    return word.text
