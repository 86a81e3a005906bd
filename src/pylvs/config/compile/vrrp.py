"""Compile all VRRP blocks to a `VrrpConfiguration`: sync groups, and conflicts between virtual routers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain

from pylvs.config.compile import vrrp_static, vrrp_tracking
from pylvs.config.compile.effective import EffectiveBlock
from pylvs.config.compile.scripts import ScriptRules
from pylvs.config.compile.vrrp_instances import CompiledInstance, InstanceMaker, notify_of
from pylvs.config.compile.vrrp_static import RulePreferences
from pylvs.config.compile.vrrp_tracking import (
    DEFINITION_KEYWORDS,
    Symbols,
    name_of,
    tracks_of,
    without_data_plane_weight,
    without_weights,
)
from pylvs.config.findings import Findings
from pylvs.config.language.tree import Word
from pylvs.config.schema.vrrp_tracks import WrittenTrack
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.routing import HeldAddress, Route, RoutingRule
from pylvs.model.vrrp import VrrpConfiguration, VrrpGroup, VrrpInstance

GroupOfInstance = dict[str, str]
DEFINITIONS = ("vrrp_script", "track_file", "vrrp_track_process")


def group_of(
    block: EffectiveBlock,
    instances: dict[str, CompiledInstance],
    taken: GroupOfInstance,
    symbols: Symbols,
    scripts: ScriptRules,
) -> VrrpGroup | None:
    """Compile a vrrp_sync_group; None, and a finding, if it has no member."""
    name = name_of(block).name
    members = tuple(_members(block, name, instances, taken, symbols))
    if not members:
        text = f"group {name} has no virtual router; it is left out"
        symbols.findings.error(
            block.word.location, text, f"add group {{ {_bare_names(block, instances) or 'NAME ...'} }}"
        )
        return None
    if len(members) == 1:
        text = f"group {name} has only one virtual router, {members[0]}"
        symbols.findings.warning(block.word.location, text, "add the others, or remove the group")
    tracks = tracks_of(block, symbols)
    weights = block.get("sync_group_tracking_weight", bool)
    for member in members:
        _shared(instances[member], tracked_names(block), symbols)
        if not weights:
            instances[member] = _without_weights(instances[member], name, symbols)
    return VrrpGroup(
        name=name, members=members, tracks=tracks, notify=notify_of(block, scripts), member_weights=weights
    )


def _members(
    block: EffectiveBlock, name: str, instances: dict[str, CompiledInstance], taken: GroupOfInstance, symbols: Symbols
) -> Iterator[str]:
    for word in chain.from_iterable(block.lines("group", tuple)):
        assert isinstance(word, Word)
        if word.text not in instances:
            text = f"group {name}: there is no virtual router '{word.text}'"
            symbols.findings.error(word.location, text, "define a vrrp_instance of this name, or remove it")
        elif word.text in taken:
            text = f"{word.text} is in group {taken[word.text]} already; it does not count here"
            symbols.findings.error(word.location, text, "a virtual router can be in one group")
        else:
            taken[word.text] = name
            yield word.text


def _bare_names(block: EffectiveBlock, instances: dict[str, CompiledInstance]) -> str:
    """Return the names of virtual routers that are in the block itself, where `group { }` is missing."""
    nodes = block.section.node.block or () if block.section.node else ()
    return " ".join(node.keyword for node in nodes if node.keyword in instances)


def tracked_names(block: EffectiveBlock) -> set[tuple[str, str]]:
    """Return the block and name of each tracked object."""
    return {
        (name, line.name)
        for name in ("track_interface", *DEFINITION_KEYWORDS)
        for line in block.lines(name, WrittenTrack)
    }


def _shared(member: CompiledInstance, watched: set[tuple[str, str]], symbols: Symbols) -> None:
    """Report what both a member and its group track."""
    for kind, name in sorted(tracked_names(member.block) & watched):
        text = f"{name} in {kind} is watched by its group too"
        symbols.findings.warning(member.block.word.location, text, "remove it from the virtual router")


def _without_weights(member: CompiledInstance, group: str, symbols: Symbols) -> CompiledInstance:
    """Return a member without weights: the members of a group have one priority, which only the group changes."""
    instance = member.instance
    why = f"{instance.name} is in group {group}"
    tracks = without_weights(instance.tracks, member.block, symbols, why, keep_interfaces=True)
    data_plane = without_data_plane_weight(instance.track_data_plane, member.block, symbols, why)
    return replace(member, instance=replace(instance, tracks=tracks, track_data_plane=data_plane))


def without_conflicts(instances: list[CompiledInstance], findings: Findings) -> list[CompiledInstance]:
    """Return the virtual routers without those that collide with an earlier one; report shared addresses and VMACs."""
    kept: list[CompiledInstance] = []
    holders: dict[Address, str] = {}
    vmacs: dict[str, str] = {}
    for each in instances:
        instance = each.instance
        conflicting = next((other.instance for other in kept if _collide(other.instance, instance)), None)
        if conflicting is not None:
            text = (
                f"{instance.name} and {conflicting.name} both have VRID {instance.vrid} with IPv{instance.family} on"
                f" {instance.interface}; {instance.name} is left out"
            )
            findings.error(each.block.location("virtual_router_id"), text, "give one of them another number")
            continue
        for held in each.addresses:
            address = held.address.interface.ip
            holder = holders.setdefault(address, instance.name)
            if holder != instance.name:
                text = f"{address} belongs to {holder} too: both can hold it at once"
                findings.warning(held.word.location, text, "give each address to one virtual router")
        if instance.vmac is not None and instance.vmac.name:
            other = vmacs.setdefault(instance.vmac.name, instance.name)
            if other != instance.name:
                text = f"the VMAC {instance.vmac.name} is {other}'s; this one gets a name by itself"
                findings.error(each.block.location("use_vmac"), text, "give it another name")
                each = _unnamed(each)
        kept.append(each)
    return kept


def _collide(one: VrrpInstance, other: VrrpInstance) -> bool:
    """Return whether one would accept the other's advertisements."""
    same = (one.vrid, one.family, one.interface) == (other.vrid, other.family, other.interface)
    if not same or bool(one.peers) != bool(other.peers):
        return False
    if one.peers:
        return bool({peer.address for peer in one.peers} & {peer.address for peer in other.peers})
    return one.multicast == other.multicast


def _unnamed(compiled: CompiledInstance) -> CompiledInstance:
    instance = compiled.instance
    assert instance.vmac is not None
    return replace(compiled, instance=replace(instance, vmac=replace(instance.vmac, name="")))


def vrrp_of(
    root: EffectiveBlock, scripts: ScriptRules, findings: Findings, mtus: Mapping[str, int]
) -> VrrpConfiguration:
    """Compile the VRRP blocks of a document. `mtus` are those of this machine's devices.

    Remove rejected blocks from the effective configuration too.
    """
    settings = next(root.below("global_defs"))
    symbols = Symbols(findings, mtus, settings.maybe("dynamic_interfaces", bool, False))
    symbols.definitions = {f"{each.block.name} {name_of(each).name}": each.word for each in root.below(*DEFINITIONS)}
    _missing_devices(root, symbols)
    return _VrrpCompiler(root, settings, scripts, symbols, RulePreferences(findings)).build()


@dataclass(slots=True)
class _VrrpCompiler:
    """Compiles the blocks in the order of the text."""

    root: EffectiveBlock
    settings: EffectiveBlock
    scripts: ScriptRules
    symbols: Symbols
    preferences: RulePreferences
    instances: list[CompiledInstance] = field(default_factory=list)
    groups: dict[str, EffectiveBlock] = field(default_factory=dict)
    track_groups: vrrp_static.TrackGroups = field(default_factory=dict)
    addresses: list[HeldAddress] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    rules: list[RoutingRule] = field(default_factory=list)

    def build(self) -> VrrpConfiguration:
        """Compile every block, then check what concerns several virtual routers."""
        maker = InstanceMaker(self.symbols, self.scripts, self.settings, self.preferences)
        for block in list(self.root.blocks):
            self._block(block, maker)
        kept = {each.instance.name: each for each in without_conflicts(self.instances, self.symbols.findings)}
        taken: GroupOfInstance = {}
        groups: list[VrrpGroup] = []
        for block in self.groups.values():
            group = group_of(block, kept, taken, self.symbols, self.scripts)
            if group is None:
                self.root.leave_out(block)
            else:
                groups.append(group)
        for each in self.instances:
            if each.instance.name not in kept:
                self.root.leave_out(each.block)
        return VrrpConfiguration(
            instances=tuple(each.instance for each in kept.values()),
            groups=tuple(groups),
            scripts=tuple(self.symbols.scripts.values()),
            files=tuple(self.symbols.files.values()),
            processes=tuple(self.symbols.processes.values()),
            addresses=tuple(self.addresses),
            routes=tuple(self.routes),
            rules=tuple(self.rules),
            track_groups=tuple(vrrp_static.members_of(self.track_groups, kept, self.symbols.findings)),
            settings=vrrp_static.vrrp_settings_of(self.root, self.settings, self.scripts, self.symbols),
        )

    def _block(self, block: EffectiveBlock, maker: InstanceMaker) -> None:
        findings = self.symbols.findings
        match block.block.name:
            case "vrrp_script":
                vrrp_tracking.define_script(block, self.scripts, self.symbols)
            case "track_file":
                vrrp_tracking.define_file(block, self.symbols)
            case "vrrp_track_process":
                vrrp_tracking.define_process(block, self.symbols)
            case "track_group":
                vrrp_static.track_group_of(block, self.track_groups, findings)
            case "static_ipaddress":
                self.addresses += vrrp_static.addresses_of(block, self.track_groups, self.settings, self.symbols)
            case "static_routes":
                self.routes += vrrp_static.routes_of(block, self.track_groups, findings)
            case "static_rules":
                vrrp_static.check_rule_groups(block, self.track_groups, findings)
                self.rules += self.preferences.of_lines(block)
            case "vrrp_instance":
                self._instance(block, maker)
            case "vrrp_sync_group":
                self._group(block)

    def _instance(self, block: EffectiveBlock, maker: InstanceMaker) -> None:
        if self._taken(block, {each.instance.name for each in self.instances}):
            return
        compiled = maker.make(block)
        if compiled is None:
            self.root.leave_out(block)
        else:
            self.instances.append(compiled)

    def _group(self, block: EffectiveBlock) -> None:
        if not self._taken(block, set(self.groups)):
            self.groups[name_of(block).name] = block

    def _taken(self, block: EffectiveBlock, names: set[str]) -> bool:
        """Return whether an earlier block has the name, and reject this one then."""
        name = name_of(block)
        if name.name not in names:
            return False
        text = f"the name '{name.name}' is taken; this {block.block.name} is left out"
        self.symbols.findings.error(name.word.location, text, "give it another name")
        self.root.leave_out(block)
        return True


def _missing_devices(root: EffectiveBlock, symbols: Symbols) -> None:
    """Report each device that a line names and this machine does not have."""
    for block in root.walk():
        for setting in block.section.settings:
            if setting.keyword is None or setting.keyword.name != "default_interface":
                for word in getattr(setting.value, "devices", ()):
                    assert isinstance(word, Word)
                    symbols.device(word)
