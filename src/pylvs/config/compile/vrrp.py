"""Compile all VRRP blocks to a `VrrpConfiguration`: also groups, static addresses and routes, and conflicts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from pylvs.config.compile.effective import EffectiveBlock
from pylvs.config.compile.scripts import SHARED_FIFO, ScriptRules, fifos_of
from pylvs.config.compile.vrrp_block import device_of, is_owner
from pylvs.config.compile.vrrp_instance import (
    CompiledInstance,
    instance_of,
    notify_of,
    route_of,
    rules_of,
    without_weighted_devices,
)
from pylvs.config.compile.vrrp_tracking import (
    Symbols,
    define_file,
    define_process,
    define_script,
    define_session,
    name_of,
    taken,
    tracked_words,
    tracks_of,
    without_data_plane_weight,
    without_device_weights,
    without_weights,
)
from pylvs.config.language.tree import Word
from pylvs.config.schema.types import Written
from pylvs.config.schema.vrrp_types import MAX_LINK_DELAY_S
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.routing import HeldAddress, Route, RoutingRule
from pylvs.model.vrrp import (
    LinkDelay,
    PolledLink,
    SendingLimit,
    Track,
    VrrpConfiguration,
    VrrpGroup,
    VrrpInstance,
    VrrpSettings,
)
from pylvs.netlink.links import Device

DEFINITIONS = ("vrrp_script", "track_file", "vrrp_track_process", "bfd_instance")


def vrrp_of(root: EffectiveBlock, scripts: ScriptRules, devices: Iterable[Device]) -> VrrpConfiguration:
    """Compile the VRRP blocks of a document. `devices` are those of this machine.

    Remove rejected blocks from the effective configuration too.
    """
    settings = next(root.below("global_defs"))
    named = {each.name: each for each in devices}
    symbols = Symbols(settings, scripts, named, settings.maybe("dynamic_interfaces", bool, False))
    symbols.definitions = {f"{each.block.name} {name_of(each)}": name_of(each) for each in root.below(*DEFINITIONS)}
    _missing_devices(root, symbols)
    return _VrrpCompiler(root, symbols).build()


@dataclass(slots=True)
class _VrrpCompiler:
    """Compiles the blocks in the order of the text."""

    root: EffectiveBlock
    symbols: Symbols
    instances: list[CompiledInstance] = field(default_factory=list)
    groups: dict[str, EffectiveBlock] = field(default_factory=dict)
    addresses: list[HeldAddress] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    rules: list[RoutingRule] = field(default_factory=list)

    def build(self) -> VrrpConfiguration:
        """Compile every block, then check what concerns several virtual routers."""
        symbols = self.symbols
        for block in list(self.root.blocks):
            self._block(block)
        kept = {each.instance.name: each for each in without_conflicts(self.instances)}
        track_devices(kept, members_of(symbols.track_groups, kept), symbols.static_devices)
        taken: dict[str, str] = {}
        groups = [(block, group_of(block, kept, taken, symbols)) for block in self.groups.values()]
        kept |= {name: without_weighted_devices(each) for name, each in kept.items() if is_owner(each.block)}
        rejected = [block for block, group in groups if group is None]
        rejected += [each.block for each in self.instances if each.instance.name not in kept]
        for block in rejected:
            self.root.leave_out(block)
        return VrrpConfiguration(
            instances=tuple(each.instance for each in kept.values()),
            groups=tuple(group for _, group in groups if group is not None),
            scripts=tuple(symbols.scripts.values()),
            files=tuple(symbols.files.values()),
            processes=tuple(symbols.processes.values()),
            sessions=symbols.all_sessions(),
            addresses=tuple(self.addresses),
            routes=tuple(self.routes),
            rules=tuple(self.rules),
            settings=vrrp_settings_of(self.root, symbols, [each.instance for each in kept.values()]),
        )

    def _block(self, block: EffectiveBlock) -> None:
        symbols = self.symbols
        match block.block.name:
            case "vrrp_script":
                define_script(block, symbols)
            case "track_file":
                define_file(block, symbols)
            case "vrrp_track_process":
                define_process(block, symbols)
            case "bfd_instance":
                define_session(block, symbols)
            case "track_group":
                track_group_of(block, symbols)
            case "static_ipaddress":
                self.addresses += addresses_of(block, symbols)
            case "static_routes":
                self.routes += routes_of(block, symbols)
            case "static_rules":
                _track_rules(block, symbols)
                self.rules += rules_of(block, symbols)
            case "vrrp_instance" if not self._taken(block, {each.instance.name for each in self.instances}):
                compiled = instance_of(block, symbols)
                if compiled is None:
                    self.root.leave_out(block)
                else:
                    self.instances.append(compiled)
            case "vrrp_sync_group" if not self._taken(block, self.groups):
                self.groups[name_of(block).text] = block

    def _taken(self, block: EffectiveBlock, names: Collection[str]) -> bool:
        """Return whether an earlier block has the name, and reject this one then."""
        name = name_of(block)
        if name.text not in names:
            return False
        block.error(name, f"{taken(block)}; this {block.block.name} is left out", "give it another name")
        self.root.leave_out(block)
        return True


def _missing_devices(root: EffectiveBlock, symbols: Symbols) -> None:
    """Report each device that a line names and this machine does not have."""
    for setting in chain.from_iterable(block.section.settings for block in root.walk()):
        if setting.keyword is None or setting.keyword.name != "default_interface":
            for word in getattr(setting.value, "devices", ()):
                symbols.check_device(word)


def group_of(
    block: EffectiveBlock, instances: dict[str, CompiledInstance], taken: dict[str, str], symbols: Symbols
) -> VrrpGroup | None:
    """Compile a vrrp_sync_group; None, and a finding, if it has no member."""
    name = name_of(block).text
    members = tuple(_members(block, name, instances, taken))
    if not members:
        text = f"group {name} has no virtual router; it is left out"
        block.error("", text, f"add group {{ {_bare_names(block, instances) or 'NAME ...'} }}")
        return None
    if len(members) == 1:
        text = f"group {name} has only one virtual router, {members[0]}"
        block.warning("", text, "add the others, or remove the group")
    _start_together(block, members, instances)
    tracks = tracks_of(block, symbols)
    weights = block.get("sync_group_tracking_weight", bool)
    for member in members:
        _report_shared(instances[member], block)
        _notify_priority_changes(block, member, instances)
        if not weights:
            instances[member] = _without_weights(instances[member], name, {each.name for each in tracks.interfaces})
    return VrrpGroup(
        name=name, members=members, tracks=tracks, notify=notify_of(block, symbols.script_rules), member_weights=weights
    )


def _members(
    block: EffectiveBlock, name: str, instances: dict[str, CompiledInstance], taken: dict[str, str]
) -> Iterator[str]:
    for word in chain.from_iterable(block.lines("group", tuple)):
        if word.text not in instances:
            text = f"group {name}: there is no virtual router '{word.text}'"
            block.error(word, text, "define a vrrp_instance of this name, or remove it")
        elif word.text in taken:
            text = f"{word.text} is in group {taken[word.text]} already; it does not count here"
            block.error(word, text, "a virtual router can be in one group")
        else:
            taken[word.text] = name
            yield word.text


def _start_together(block: EffectiveBlock, members: tuple[str, ...], instances: dict[str, CompiledInstance]) -> None:
    """Let no member of a group begin as master unless all of them own their addresses, as in keepalived."""
    compiled = [instances[member] for member in members]
    at_once = [each for each in compiled if each.instance.owner and each.instance.starts_as_master]
    if len(at_once) in (0, len(compiled)):
        return
    text = f"{at_once[0].instance.name} owns its addresses, and other members do not: it begins as backup"
    block.warning("", text, "give all members priority 255, or none")
    for made in at_once:
        name = made.instance.name
        instances[name] = replace(made, instance=replace(made.instance, starts_as_master=False))


def _bare_names(block: EffectiveBlock, instances: dict[str, CompiledInstance]) -> str:
    """Return the names of virtual routers that are in the block itself, where `group { }` is missing."""
    nodes = block.section.node.block or () if block.section.node else ()
    return " ".join(node.keyword for node in nodes if node.keyword in instances)


def _report_shared(member: CompiledInstance, group: EffectiveBlock) -> None:
    """Report what both a member and its group track."""
    for kind, name in sorted(tracked_words(member.block).keys() & tracked_words(group).keys()):
        member.block.warning("", f"{name} in {kind} is watched by its group too", "remove it from the virtual router")


def _notify_priority_changes(group: EffectiveBlock, member: str, instances: dict[str, CompiledInstance]) -> None:
    """Let a member write changes of priority where its group does, unless it has the keyword itself."""
    name, compiled = "notify_priority_changes", instances[member]
    wanted = group.section.value(name, bool)
    if wanted is None or compiled.block.section.setting(name) is not None:
        return
    compiled.block.adjust(name, wanted, f"as group {name_of(group)}")
    notify = replace(compiled.instance.notify, priority_changes=wanted)
    instances[member] = replace(compiled, instance=replace(compiled.instance, notify=notify))


def _without_weights(member: CompiledInstance, group: str, devices: Collection[str]) -> CompiledInstance:
    """Return a member without weights: the members of a group have one priority, which only the group changes.

    `devices` are those that the group tracks: its weights replace those of the member.
    """
    instance = member.instance
    why = f"{instance.name} is in group {group}"
    interfaces = tuple(each for each in instance.tracks.interfaces if not (each.weight and each.name in devices))
    tracks = without_weights(replace(instance.tracks, interfaces=interfaces), member.block, why)
    tracks = without_device_weights(tracks, member.block, why, keep=True)
    data_plane = without_data_plane_weight(instance.track_data_plane, member.block, why)
    return replace(member, instance=replace(instance, tracks=tracks, track_data_plane=data_plane))


def without_conflicts(instances: list[CompiledInstance]) -> list[CompiledInstance]:
    """Return the virtual routers without those that collide with an earlier one; report shared addresses and VMACs."""
    kept: list[CompiledInstance] = []
    holders: dict[Address, str] = {}
    vmacs: dict[str, str] = {}
    for compiled in instances:
        instance = compiled.instance
        conflicting = next((other.instance for other in kept if _collide(other.instance, instance)), None)
        if conflicting is not None:
            text = f"{instance.name} and {conflicting.name} both have VRID {instance.vrid} with IPv{instance.family}"
            text += f" on {instance.interface}; {instance.name} is left out"
            compiled.block.error("virtual_router_id", text, "give one of them another number")
            continue
        for held in compiled.addresses:
            address = held.value.interface.ip
            holder = holders.setdefault(address, instance.name)
            if holder != instance.name:
                text = f"{address} belongs to {holder} too: both can hold it at once"
                compiled.block.warning(held.word, text, "give each address to one virtual router")
        if instance.vmac is not None and instance.vmac.name:
            other = vmacs.setdefault(instance.vmac.name, instance.name)
            if other != instance.name:
                text = f"the VMAC {instance.vmac.name} is {other}'s; this one gets a name by itself"
                compiled.block.error("use_vmac", text, "give it another name")
                compiled = replace(compiled, instance=replace(instance, vmac=replace(instance.vmac, name="")))
        kept.append(compiled)
    return kept


def _has_peer(settings: EffectiveBlock) -> bool:
    """Return whether connections of another director are copied."""
    has_address = bool(settings.maybe("peer_director", tuple))
    return has_address and bool(settings.maybe("peer_key_file", str))


def _collide(one: VrrpInstance, other: VrrpInstance) -> bool:
    """Return whether one would accept the other's advertisements."""
    same = (one.vrid, one.family, one.interface) == (other.vrid, other.family, other.interface)
    if not same or bool(one.peers) != bool(other.peers):
        return False
    if one.peers:
        return bool({peer.address for peer in one.peers} & {peer.address for peer in other.peers})
    return one.multicast == other.multicast


def vrrp_settings_of(root: EffectiveBlock, symbols: Symbols, instances: Iterable[VrrpInstance]) -> VrrpSettings:
    """Return the settings of all virtual routers."""
    settings = symbols.settings
    return settings.make(
        VrrpSettings,
        fifos=tuple(fifos_of(settings, symbols.script_rules, (SHARED_FIFO, "vrrp_notify_fifo"))),
        states_on_reload=settings.get("fifo_write_vrrp_states_on_reload", bool),
        startup_delay_s=settings.get("vrrp_startup_delay", float),
        copy_wait_s=settings.get("peer_wait", float) if _has_peer(settings) else 0.0,
        data_plane_lease_s=settings.get("data_plane_lease", float),
        no_fault_mails=settings.get("no_email_faults", bool),
        dynamic_interfaces=symbols.dynamic_interfaces,
        default_interface=symbols.default_interface,
        nice=settings.get("vrrp_priority", int),
        realtime_priority=settings.maybe("vrrp_rt_priority", int, 0),
        cpus=settings.maybe("vrrp_cpu_affinity", tuple, ()),
        process_name=settings.maybe("vrrp_process_name", str, ""),
        vmac_address_prefix=settings.get("vmac_addr_prefix", str),
        limits=tuple(_limits(root, symbols)),
        link_delays=tuple(_delays(root, instances)),
        polled_links=tuple(_polled_links(root)),
        disable_local_igmp=settings.get("disable_local_igmp", bool),
    )


def _limits(root: EffectiveBlock, symbols: Symbols) -> Iterator[SendingLimit]:
    """Yield the limit of each garp_group, then that of all other devices."""
    taken: set[str] = set()
    for block in root.below("garp_group"):
        arp, neighbour = block.maybe("garp_interval", float), block.maybe("gna_interval", float)
        if arp is None and neighbour is None:
            block.error("", "the garp_group limits nothing; it is left out", "add garp_interval")
            continue
        words = list(_group_devices(block, symbols))
        for word in words:
            if word.text in taken:
                text = f"{word.text} is in an earlier garp_group; it does not count here"
                block.error(word, text, "name each device once")
        names = tuple(dict.fromkeys(word.text for word in words if word.text not in taken))
        taken.update(names)
        if names:
            yield SendingLimit(devices=names, arp_s=arp or 0.0, neighbour_s=neighbour or 0.0)
        elif not words:
            block.warning("", "the garp_group names no device", "add interface DEVICE")
    arp, neighbour = (symbols.settings.maybe(f"vrrp_{each}_interval", float) for each in ("garp", "gna"))
    if arp or neighbour:
        yield SendingLimit(devices=(), arp_s=arp or 0.0, neighbour_s=neighbour or 0.0)


def _group_devices(block: EffectiveBlock, symbols: Symbols) -> Iterator[Word]:
    device = block.maybe("interface", Written)
    if device is not None:
        yield device.word
    for word in chain.from_iterable(block.lines("interfaces", tuple)):
        symbols.check_device(word)
        yield word


def _delays(root: EffectiveBlock, instances: Iterable[VrrpInstance]) -> Iterator[LinkDelay]:
    """Yield the delays of devices, each shorter than the time after which a backup on the device takes over.

    A router that cannot receive would otherwise become master before it enters FAULT. Devices that are only tracked
    have no limit.
    """
    longest = {each.interface: MAX_LINK_DELAY_S for each in instances}
    for each in instances:
        longest[each.interface] = min(longest[each.interface], longest_delay_s(each))
    seen: set[str] = set()
    for block in root.below("interface_up_down_delays"):
        for line in block.section.lines(Written):
            if line.value.device in seen:
                block.warning(line.word, f"{line.word} has a delay already", "remove one of them")
            else:
                seen.add(line.value.device)
                yield _limited(block, line, longest.get(line.value.device, MAX_LINK_DELAY_S))


def _limited(block: EffectiveBlock, line: Written[LinkDelay], longest_s: float) -> LinkDelay:
    delay = line.value
    if max(delay.down_s, delay.up_s) <= longest_s:
        return delay
    text = f"{line.word}: a delay beyond {longest_s:g} s would let a backup without a link become master; that counts"
    block.warning(line.word, text, f"write at most {longest_s:g}, or raise down_timer_adverts")
    return LinkDelay(delay.device, min(delay.down_s, longest_s), min(delay.up_s, longest_s))


def _polled_links(root: EffectiveBlock) -> Iterator[PolledLink]:
    """Yield the devices of linkbeat_interfaces, and the interfaces of virtual routers with linkbeat_use_polling."""
    seen: set[str] = set()
    for line in root.lines("linkbeat_interfaces", Written):
        if line.value.device not in seen:
            seen.add(line.value.device)
            yield line.value
    for block in root.below("vrrp_instance"):
        device = device_of(block)
        own = block.get("linkbeat_use_polling", bool)
        if own:
            text = "linkbeat_use_polling in a virtual router is deprecated: it polls the interface alone"
            block.warning("linkbeat_use_polling", text, f"write linkbeat_interfaces {{ {device} }}")
        polled = own or root.get("linkbeat_use_polling", bool)
        if polled and device and device not in seen:
            seen.add(device)
            yield PolledLink(device)


def longest_delay_s(instance: VrrpInstance) -> float:
    """Return the longest delay for a virtual router's interface, by keepalived's rule."""
    intervals = instance.down_after_adverts - 1
    return intervals * instance.advert_interval_s - instance.advert_interval_s / 256 if intervals else 0.0


def track_group_of(block: EffectiveBlock, symbols: Symbols) -> None:
    """Add a track_group; `members_of` checks its members after all virtual routers are compiled."""
    name = name_of(block)
    if name.text in symbols.track_groups:
        block.error(name, f"{taken(block)}; this one does not count", "choose another")
    else:
        symbols.track_groups[name.text] = block


def members_of(groups: Mapping[str, EffectiveBlock], instances: Collection[str]) -> dict[str, list[str]]:
    """Return the virtual routers of each track_group."""
    found: dict[str, list[str]] = {}
    for name, block in groups.items():
        words = list(chain.from_iterable(block.lines("group", tuple)))
        for word in words:
            if word.text not in instances:
                block.error(word, f"there is no virtual router '{word.text}'", "define it, or remove it")
        if not words:
            block.error("", f"track_group {name} has no virtual router", "add group { NAME ... }")
        found[name] = list(dict.fromkeys(word.text for word in words if word.text in instances))
    return found


def track_devices(
    instances: dict[str, CompiledInstance], groups: Mapping[str, list[str]], devices: list[tuple[str, str]]
) -> None:
    """Let virtual routers track devices of static addresses, routes and rules; `devices` are pairs of group and device.

    A static object that another program removes is added again, so only a missing device, or one that is down, is a
    fault. As in keepalived, this replaces the weight of a track_interface.
    """
    for group, device in devices:
        for name in groups.get(group, ()):
            compiled = instances[name]
            instance = compiled.instance
            if device == instance.interface and instance.track_primary:
                continue
            kept = tuple(each for each in instance.tracks.interfaces if each.name != device)
            tracks = replace(instance.tracks, interfaces=(*kept, Track(device)))
            instances[name] = replace(compiled, instance=replace(instance, tracks=tracks))


def addresses_of(block: EffectiveBlock, symbols: Symbols) -> Iterator[HeldAddress]:
    """Yield the addresses of a static_ipaddress."""
    device = symbols.default_interface
    for held in block.section.lines(Written):
        address: HeldAddress = held.value
        if not address.device:
            if not symbols.dynamic_interfaces and device not in symbols.devices:
                text = f"{held.word.text} has no device, and this machine has no '{device}', the default_interface"
                block.error(held.word, text, "write dev DEVICE")
            address = replace(address, device=device)
        _track_device(block, held, address.device, symbols)
        yield address


def routes_of(block: EffectiveBlock, symbols: Symbols) -> Iterator[Route]:
    """Yield the routes of a static_routes."""
    for line in block.section.lines(Written):
        hops = line.value.next_hops
        _track_device(block, line, hops[0].device if len(hops) == 1 else "", symbols)
        route = route_of(block, line, symbols, "it is left out")
        if route is not None:
            yield route


def _track_rules(block: EffectiveBlock, symbols: Symbols) -> None:
    for each in block.section.lines(Written):
        _track_device(block, each, each.value.iif, symbols)


def _track_device(block: EffectiveBlock, written: Written[Any], device: str, symbols: Symbols) -> None:
    """Note that a track_group depends on the device of a static address, route or rule."""
    word = written.group
    if word is None:
        return
    if word.text not in symbols.track_groups:
        text = f"no track_group '{word.text}' is defined before; no virtual router depends on it"
        block.error(word, text, "move its definition before this block")
    elif not device:
        block.error(word, "track_group is ignored: the line names no device", "write dev DEVICE")
    elif not written.value.tracked:
        block.warning(word, "track_group is ignored: the line has no_track", "remove one of them")
    else:
        symbols.static_devices.append((word.text, device))
