"""Compile a `vrrp_instance` to a virtual router."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address

from pylvs.config.compile.effective import EffectiveBlock, keyword_of
from pylvs.config.compile.scripts import ScriptRules
from pylvs.config.compile.vrrp_block import (
    authentication_of,
    device_of,
    family_of,
    first_source,
    ipvlan_of,
    is_master,
    is_owner,
    is_version_3,
    name_in,
)
from pylvs.config.compile.vrrp_rules import apply
from pylvs.config.compile.vrrp_tracking import (
    Symbols,
    data_plane_of,
    name_of,
    tracks_of,
    without_data_plane_weight,
    without_device_weights,
    without_weights,
)
from pylvs.config.language.tree import Word
from pylvs.config.schema.routing_types import NO_PREFERENCE
from pylvs.config.schema.types import Written
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.routing import HeldAddress, Route, RoutingRule
from pylvs.model.vrrp import (
    Announcements,
    Authentication,
    Notify,
    OldChecksum,
    Peer,
    Track,
    Tracks,
    Vmac,
    VrrpInstance,
)

FIXED = "priority 255 does not change"
NOTIFIED = ("master", "backup", "fault", "stop", "every")  # fields with a script
ETHERNET, IPV4, IPV6, VRRP, PASSWORD, AH = 14, 20, 40, 8, 8, 24  # octets of headers and trailers
MAX_ADDRESSES = 255  # the count has 8 bits (RFC 9568 5.2.5)


@dataclass(frozen=True, slots=True)
class CompiledInstance:
    """A virtual router, its block, and its addresses as written."""

    instance: VrrpInstance
    block: EffectiveBlock
    addresses: tuple[Written[HeldAddress], ...]


def instance_of(block: EffectiveBlock, symbols: Symbols) -> CompiledInstance | None:
    """Make the virtual router of a block; None, and a finding, if the rules do not allow one.

    The rules adjust the effective values of the block, which `pylvs check --show` prints. The rest only reads them.
    """
    notify = notify_of(block, symbols.script_rules)  # insecure scripts are reported, also of one that is left out
    _without_loopback(block, symbols)
    family = family_of(block)
    addresses, peers = tuple(_addresses(block, family)), tuple(_peers(block, family))
    if not apply(block, symbols.settings, family, len(peers), len(addresses)):
        return None
    addresses = tuple(_on_device(each, device_of(block), symbols) for each in addresses)
    advertised, surplus = _fitting(block, addresses, symbols)
    more = (_on_device(each, device_of(block), symbols) for each in block.lines("virtual_ipaddress_excluded", Written))
    excluded = (*surplus, *more)
    _report_duplicates(block, advertised + excluded)
    without = "without it the virtual router must not be master, and is left out"
    routes = [route_of(block, each, symbols, without) for each in block.lines("virtual_routes", Written)]
    if None in routes:
        return None
    tracks, data_plane = _tracking(block, symbols)
    authentication, password = authentication_of(block) or (None, b"")
    instance = block.make(
        VrrpInstance,
        name=name_of(block).text,
        interface=device_of(block),
        vrf=name_in(block, "vrf"),
        family=family,
        max_interval_s=block.maybe("max_advert_int", float, 0.0),
        starts_as_master=is_master(block),
        addresses=tuple(each.value for each in advertised),
        excluded=tuple(each.value for each in excluded),
        routes=tuple(each for each in routes if each is not None),
        rules=tuple(rule for each in block.below("virtual_rules") for rule in rules_of(each, symbols)),
        preempt=not block.get("nopreempt", bool),
        accept=_accepts(block),
        authentication=Authentication(authentication) if authentication else None,
        password=password,
        source=first_source(block) or _ipvlan_source(block),
        track_source=block.get("track_src_ip", bool),
        multicast=_multicast(block, symbols.settings, family),
        peers=peers,
        check_source=block.get("check_unicast_src", bool) or any((p.least_ttl, p.most_ttl) != (0, 255) for p in peers),
        fault_without_peers=block.get("unicast_fault_no_peer", bool),
        old_checksum=block.maybe("old_unicast_checksum", OldChecksum, OldChecksum.DETECT),
        vmac=_vmac_of(block),
        announcements=_announcements(block),
        lower_priority_unanswered=block.get("lower_prio_no_advert", bool),
        higher_priority_answered=block.get("higher_prio_send_advert", bool),
        down_after_adverts=block.get("down_timer_adverts", int),
        track_primary=not block.get("dont_track_primary", bool),
        track_data_plane=data_plane,
        tracks=tracks,
        notify=notify,
        skip_address_check=block.get("skip_check_adv_addr", bool),
        linkbeat=block.get("linkbeat_use_polling", bool),
        receive_buffer=_receive_buffer(block, symbols, len(advertised)),
    )
    _report_first_address(instance, block)
    return CompiledInstance(instance, block, advertised + excluded)


def _without_loopback(block: EffectiveBlock, symbols: Symbols) -> None:
    """Ignore a loopback device, as in keepalived: advertisements cannot leave by it."""
    for name in "interface", "vrf":
        device = symbols.devices.get(name_in(block, name))
        if device is not None and device.loopback:
            text = f"advertisements cannot leave by a loopback device; {name} {device.name} is ignored"
            block.error(name, text, "name a device that leads to the other routers")
            block.adjust(name, None, "a loopback device")


def route_of(block: EffectiveBlock, written: Written[Route], symbols: Symbols, without: str) -> Route | None:
    """Return a route with the table of its VRF; None, and a finding with what happens `without` it, if it cannot be."""
    route, options = written.value, dict(written.value.options)
    if "encap" in options:
        block.error(written.word, f"a route with encap is not made; {without}", "write dev and a tunnel device")
        return None
    if "vrf" not in options:
        return route
    vrf = options["vrf"]
    table = symbols.devices[vrf].vrf_table if vrf in symbols.devices else 0
    if not table:
        block.error(written.word, f"this machine has no VRF {vrf}; {without}", "create it, or write table N")
        return None
    return replace(route, table=table, options=tuple(each for each in route.options if each[0] != "vrf"))


def rules_of(block: EffectiveBlock, symbols: Symbols) -> Iterator[RoutingRule]:
    """Yield the rules in a block. One without a preference gets one, counting down in the text as keepalived does."""
    for line in block.section.lines(Written):
        rule: RoutingRule = line.value
        if rule.preference == NO_PREFERENCE:
            text = f"the rule has no preference; it gets {symbols.next_preference}"
            block.warning(line.word, text, "write preference N")
            rule = replace(rule, preference=symbols.next_preference)
            symbols.next_preference -= 1
        yield rule


def _tracking(block: EffectiveBlock, symbols: Symbols) -> tuple[Tracks, Track | None]:
    """Return the tracked objects and the data plane's track, without weights for the owner of the addresses.

    The weights of devices stay: what becomes of these depends on the group, which is compiled later.
    """
    tracks, data_plane = tracks_of(block, symbols, device_of(block)), data_plane_of(block)
    if not is_owner(block):
        return tracks, data_plane
    return without_weights(tracks, block, FIXED), without_data_plane_weight(data_plane, block, FIXED)


def without_weighted_devices(owner: CompiledInstance) -> CompiledInstance:
    """Return an owner of its addresses that tracks no device with a weight."""
    tracks = without_device_weights(owner.instance.tracks, owner.block, FIXED, keep=False)
    return replace(owner, instance=replace(owner.instance, tracks=tracks))


def _on_device(held: Written[HeldAddress], device: str, symbols: Symbols) -> Written[HeldAddress]:
    """Return an address with a device: without an interface, the default one."""
    if device or held.value.device:
        return held
    return replace(held, value=replace(held.value, device=symbols.default_interface))


def _addresses(block: EffectiveBlock, family: int) -> Iterator[Written[HeldAddress]]:
    """Yield the virtual addresses of the router's family; report the others."""
    for line in block.lines("virtual_ipaddress", Written):
        if line.value.interface.version == family:
            yield line
        else:
            text = f"{line.word.text} is not IPv{family}, as the virtual router is; it is left out"
            advice = "write it into virtual_ipaddress_excluded, or into a virtual router of its own"
            block.error(line.word, text, advice)


def _peers(block: EffectiveBlock, family: int) -> Iterator[Peer]:
    for inner in block.below("unicast_peer"):
        for setting in inner.section.settings:
            assert isinstance(setting.value, Peer)
            if setting.value.address.version == family:
                yield setting.value
            else:
                text = f"peer {setting.value.address} is not IPv{family}, as the virtual router is; it is left out"
                block.error(setting.node.words[0], text, "write an address of its family")


def _fitting(
    block: EffectiveBlock, held: tuple[Written[HeldAddress], ...], symbols: Symbols
) -> tuple[tuple[Written[HeldAddress], ...], tuple[Written[HeldAddress], ...]]:
    """Split the addresses into those that fit into an advertisement, and the rest."""
    version_6 = bool(held) and held[0].value.interface.version == 6
    space = symbols.mtu(device_of(block)) - ETHERNET - _header_octets(block, version_6)
    maximum = min(MAX_ADDRESSES, space // (16 if version_6 else 4))
    if len(held) > maximum:
        text = f"an advertisement holds no more than {maximum}; from this address on they are not in it"
        block.warning(held[maximum].word, text, "write them into virtual_ipaddress_excluded")
    return held[:maximum], held[maximum:]


def _header_octets(block: EffectiveBlock, version_6: bool) -> int:
    """Return the octets of an advertisement without addresses."""
    found = authentication_of(block)
    octets = VRRP + (IPV6 if version_6 else IPV4)
    return octets if is_version_3(block) else octets + PASSWORD + (AH if found and found[0] == "AH" else 0)


def _receive_buffer(block: EffectiveBlock, symbols: Symbols, addresses: int) -> int:
    """Return the octets by kernel_rx_buf_size, else by vrrp_rx_bufs_policy; 0 is the kernel's default."""
    own, policy = block.maybe("kernel_rx_buf_size", int, 0), symbols.settings.effective("vrrp_rx_bufs_policy").value
    if own or policy is None:
        return own
    if isinstance(policy, int):
        return policy
    version_6 = family_of(block) == 6
    advert = _header_octets(block, version_6) + addresses * (16 if version_6 else 4)
    octets = symbols.mtu(device_of(block)) if policy == "MTU" else advert
    return octets * symbols.settings.get("vrrp_rx_bufs_multiplier", int)


def _report_duplicates(block: EffectiveBlock, held: tuple[Written[HeldAddress], ...]) -> None:
    first: dict[tuple[Address, str], Word] = {}
    for line in held:
        key = line.value.interface.ip, line.value.device
        if key in first:
            text = f"{key[0]} is given already in {first[key].location.line_for(line.word.location)}"
            block.warning(line.word, text, "remove one of them")
        first.setdefault(key, line.word)


def _multicast(block: EffectiveBlock, settings: EffectiveBlock, family: int) -> Address:
    standard = settings.address("vrrp_mcast_group4" if family == 4 else "vrrp_mcast_group6")
    assert standard is not None  # the schema has a default
    written = block.address("mcast_dst_ip")
    if written is None:
        return standard
    if written.version != family:
        reason = f"is not IPv{family}, as the virtual router is"
    elif isinstance(written, IPv6Address) and written.packed[1] & 0x0F != 2:
        reason = "is not of link-local scope"
    else:
        return written
    block.error("mcast_dst_ip", f"{written} {reason}; {standard} counts", "write another, or remove it")
    return standard


def _report_first_address(instance: VrrpInstance, block: EffectiveBlock) -> None:
    """Report a first IPv6 address that is not link-local (RFC 9568 5.2.9) in strict_mode; unicast has no such rule."""
    first = instance.addresses[0].interface.ip if instance.addresses else None
    if first is None or first.version == 4 or first.is_link_local or instance.peers:
        return
    if block.get("strict_mode", bool):
        text = f"in strict_mode the first IPv6 address should be link-local, and {first} is not"
        block.warning("", text, "write one of fe80::/10 first")


def _accepts(block: EffectiveBlock) -> bool:
    """Return whether the master accepts packets to its addresses (RFC 9568 6.1, Accept_Mode)."""
    if is_owner(block):
        return True
    allowed = block.maybe("accept", bool, False) or not block.get("strict_mode", bool)
    return allowed and not block.get("no_accept", bool)


def _vmac_of(block: EffectiveBlock) -> Vmac | None:
    vmac, all_devices = block.maybe("use_vmac", Vmac), block.get("use_vmac_addr", bool)
    vmac = vmac or block.maybe("use_ipvlan", Vmac)
    if vmac is None and not all_devices:
        return None
    base = block.get("vmac_xmit_base", bool)
    return replace(vmac or Vmac(), here=vmac is not None, for_addresses=all_devices, send_from_base=base)


def _ipvlan_source(block: EffectiveBlock) -> Address | None:
    ipvlan = ipvlan_of(block)
    return ipvlan.address.ip if ipvlan is not None and ipvlan.address is not None else None


def _announcements(block: EffectiveBlock) -> Announcements:
    all_devices, extra = block.maybe("garp_extra_if", tuple, (False, 0))
    return block.make(Announcements, extra_interval_s=extra, extra_everywhere=all_devices)


def notify_of(block: EffectiveBlock, scripts: ScriptRules) -> Notify:
    """Return the notifications of an instance or a group."""
    instance = block.block.find("notify_master_rx_lower_pri") is not None
    deleted = block.effective("notify_deleted").value
    return block.make(
        Notify,
        **{each: scripts.of(block, keyword_of("Notify", each)) for each in NOTIFIED},
        deleted=scripts.usable(deleted) if isinstance(deleted, Written) else None,
        say_deleted=deleted is not None,
        lower_priority_received=scripts.of(block, "notify_master_rx_lower_pri") if instance else None,
    )
