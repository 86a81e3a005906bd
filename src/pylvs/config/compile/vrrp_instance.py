"""Compile a `vrrp_instance` to a virtual router. keepalived's rules adjust values that cannot hold, with findings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from ipaddress import IPv6Address

from pylvs.config.compile.effective import EffectiveBlock, OriginKind, keyword_of
from pylvs.config.compile.scripts import ScriptRules
from pylvs.config.compile.vrrp_tracking import (
    Symbols,
    data_plane_of,
    name_of,
    tracks_of,
    without_data_plane_weight,
    without_weights,
)
from pylvs.config.language.tree import Word
from pylvs.config.schema.routing_types import NO_PREFERENCE
from pylvs.config.schema.types import Written
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.routing import HeldAddress, RoutingRule
from pylvs.model.vrrp import (
    OWNER,
    Announcements,
    Authentication,
    Ipvlan,
    Notify,
    OldChecksum,
    Peer,
    Track,
    Tracks,
    Vmac,
    VrrpInstance,
)

MAX_V3_S = 40.95  # 12 bits of centiseconds (RFC 9568 5.2.7)
STEP_S = 0.01
SOURCES = ("mcast_src_ip", "unicast_src_ip")
NOTIFIED = ("master", "backup", "fault", "stop", "every")  # fields with a script
MINIMAL_GARP = {"garp_master_delay": 0, "garp_master_repeat": 1}
MINIMAL_GARP |= {"garp_lower_prio_delay": 0, "garp_lower_prio_repeat": 1}
STRICT = {"garp_lower_prio_repeat": 0, "garp_lower_prio_delay": 0, "down_timer_adverts": 3}


def apply(block: EffectiveBlock, settings: EffectiveBlock, family: int, peers: int, addresses: int) -> bool:
    """Apply every rule in its order; return False if there cannot be such a router."""
    _native_ipv6(block, family)
    for name, value in MINIMAL_GARP.items() if settings.get("vrrp_min_garp", bool) else ():
        if block.effective(name).origin.how is OriginKind.DEFAULT:
            block.adjust(name, value, "vrrp_min_garp")
    _version(block, family)
    _vrf(block, peers)
    if not _possible(block, addresses, peers):
        return False
    _interval(block)
    _ownership(block)
    _strict(block)
    _authentication(block)
    _preemption(block)
    _unicast(block, peers)
    _vmac(block, peers)
    _sources(block, family)
    return True


def is_version_3(block: EffectiveBlock) -> bool:
    return block.get("version", int) == 3


def is_master(block: EffectiveBlock) -> bool:
    """Return whether it begins as master."""
    return block.get("state", str) == "MASTER"


def is_owner(block: EffectiveBlock) -> bool:
    """Return whether it owns the addresses (RFC 9568: priority 255)."""
    return block.get("priority", int) == OWNER


def _given(block: EffectiveBlock, name: str) -> bool:
    """Return whether the block sets a flag."""
    return block.is_written(name) and bool(block.effective(name).value)


def _native_ipv6(block: EffectiveBlock, family: int) -> None:
    if family == 4 and block.is_written("native_ipv6"):
        block.error("native_ipv6", "the virtual router's addresses are IPv4; native_ipv6 is ignored", "remove it")
        block.adjust("native_ipv6", False, "the addresses are IPv4")


def _version(block: EffectiveBlock, family: int) -> None:
    if family == 6 and not is_version_3(block):
        if block.section.setting("version") is not None:
            block.warning("version", "version 2 has no IPv6; version 3 counts", "write version 3, or leave it out")
        block.adjust("version", 3, "IPv6 is always version 3")


def _vrf(block: EffectiveBlock, peers: int) -> None:
    """Keep a VRF only where no interface leads to the peers, as in keepalived."""
    if block.effective("vrf").value is None or (peers and not device_of(block)):
        return
    why = "the interface has its own VRF" if device_of(block) else "it needs unicast_peer"
    block.error("vrf", f"vrf is ignored: {why}", "remove vrf, or the interface")
    block.adjust("vrf", None, why)


def _possible(block: EffectiveBlock, addresses: int, peers: int) -> bool:
    """Return whether the block has what a router needs."""
    missing = [name for name in ("interface", "virtual_router_id") if block.effective(name).value is None]
    source = _first_source(block)
    if missing[:1] == ["interface"] and peers and source is not None:
        del missing[0]
        if source.is_link_local:
            block.error("", f"without an interface {source} is on no link; it is left out", "add interface")
            return False
        for name in ("use_vmac", "use_vmac_addr", "use_ipvlan"):
            if block.is_written(name) and block.effective(name).value:
                block.error(name, f"{name} is ignored: there is no interface", "add interface")
                block.adjust(name, False if name == "use_vmac_addr" else None, "no interface")
    for name in missing:
        advice = "add interface, or unicast_peer and unicast_src_ip" if name == "interface" else f"add {name}"
        block.error("", f"the virtual router lacks its {name}; it is left out", advice)
    if not _ipvlan_possible(block, family_of(block)):
        return False
    if addresses:
        return not missing
    lacks, advice = "the virtual router has no virtual address", "add virtual_ipaddress { ... }"
    if block.get("strict_mode", bool) or is_version_3(block):
        block.error("", f"{lacks}, and version 3 and strict_mode need one; it is left out", advice)
        return False
    block.warning("", f"{lacks}: nothing moves with it", advice)
    return not missing


def _ipvlan_possible(block: EffectiveBlock, family: int) -> bool:
    ipvlan = _ipvlan_of(block)
    if ipvlan is None or (family == 6 and ipvlan.address is None):
        return True
    if ipvlan.address is not None and ipvlan.address.version == family:
        return True
    text = f"an ipvlan of IPv{family} needs an IPv{family} address; the virtual router is left out"
    block.error("use_ipvlan", text, "write use_ipvlan [NAME] ADDRESS")
    return False


def _ownership(block: EffectiveBlock) -> None:
    """The owner of the addresses begins as master; state MASTER without a priority means ownership."""
    node = block.section.node
    written = any(each.keyword == "priority" for each in (node.block if node else None) or ())  # an invalid one too
    if not written and is_master(block):
        block.adjust("priority", OWNER, "state MASTER without priority")
    if is_owner(block) and not block.is_written("state"):
        block.adjust("state", "MASTER", "priority 255")


def _interval(block: EffectiveBlock) -> None:
    written = block.get("advert_int", float)
    if not is_version_3(block):
        fits = float(max(1, math.floor(written + 0.5)))
        why = "version 2 counts in whole seconds"
    elif written > MAX_V3_S:
        fits, why = MAX_V3_S, f"version 3 counts up to {MAX_V3_S} seconds"
    else:
        fits = round(math.floor(written / STEP_S + 0.5 + 1e-9) * STEP_S, 2)
        why = "version 3 counts in hundredths of a second"
    if abs(fits - written) > 1e-9:
        block.error("advert_int", f"{why}: {fits:g} counts, not {written:g}", f"write {fits:g}")
        block.adjust("advert_int", fits, why)


def _strict(block: EffectiveBlock) -> None:
    if not block.get("strict_mode", bool):
        return
    owner = is_owner(block)
    if block.is_written("state") and is_master(block) != owner:
        text = "in strict_mode a router begins as master if and only if its priority is 255"
        block.warning("state", text, "leave state out")
        if owner:
            block.adjust("state", "MASTER", "strict_mode")
    for name, wanted in (("higher_prio_send_advert", False), ("lower_prio_no_advert", True)):
        if block.is_written(name) and block.get(name, bool) is not wanted:
            block.error(name, f"strict_mode has {name} {'on' if wanted else 'off'}", "remove it")
        block.adjust(name, wanted, "strict_mode")
    for name, number in STRICT.items():
        if block.section.setting(name) is not None and block.get(name, int) != number:
            block.error(name, f"strict_mode has {name} {number}", "remove it")
        block.adjust(name, number, "strict_mode")
    if block.maybe("accept", bool) and not is_version_3(block):
        block.error("accept", "strict_mode has no accept in version 2; it is ignored", "remove it")
        block.adjust("accept", None, "strict_mode")
    for name in ("preempt_delay", "vmac_xmit_base"):
        if block.is_written(name) and block.effective(name).value:
            block.error(name, f"strict_mode has no {name}; it is ignored", "remove it")
            block.adjust(name, 0.0 if name == "preempt_delay" else False, "strict_mode")


def authentication_of(block: EffectiveBlock) -> tuple[str, bytes] | None:
    """Return type and password if both are given."""
    for each in block.below("authentication"):
        kind, password = each.maybe("auth_type", str), each.maybe("auth_pass", bytes)
        if kind and password:
            return kind, password
    return None


def _authentication(block: EffectiveBlock) -> None:
    for each in list(block.below("authentication")):
        kind, password = each.maybe("auth_type", str), each.maybe("auth_pass", bytes)
        reason = ""
        if is_version_3(block):
            reason = "version 3 has no authentication"
        elif block.get("strict_mode", bool):
            reason = "strict_mode has no authentication"
        elif not password:
            reason = "no password is given"
        elif not kind:
            reason = "no auth_type is given"
        if reason:
            each.error("", f"{reason}; nothing is authenticated", "complete the block, or remove it")
            block.leave_out(each)
    found = authentication_of(block)
    if found is not None and found[0] == "AH" and is_master(block) and not is_owner(block):
        text = "with auth_type AH a router cannot begin as master; it begins as backup"
        block.error("state", text, "write state BACKUP, or leave it out")
        block.adjust("state", "BACKUP", "auth_type AH")


def _preemption(block: EffectiveBlock) -> None:
    owner, master = is_owner(block), is_master(block)
    why = "a router of priority 255 preempts always" if owner else "it has no effect with state MASTER"
    if _given(block, "nopreempt") and (owner or master):
        advice = "write a lower priority, or remove it" if owner else "write state BACKUP, or remove it"
        block.error("nopreempt", f"nopreempt is ignored: {why}", advice)
        block.adjust("nopreempt", False, why)
    delayed = block.get("preempt_delay", float) > 0
    if delayed and master:
        text = "preempt_delay is ignored: it has no effect with state MASTER"
        block.error("preempt_delay", text, "write state BACKUP, or remove it")
        block.adjust("preempt_delay", 0.0, "state MASTER")
    elif delayed and block.get("nopreempt", bool):
        block.error("preempt_delay", "preempt_delay is ignored: nopreempt waits for ever", "remove one of them")
        block.adjust("preempt_delay", 0.0, "nopreempt")


def _unicast(block: EffectiveBlock, peers: int) -> None:
    names = ("unicast_src_ip", "check_unicast_src", "old_unicast_checksum", "unicast_ttl")
    written = [block.location(name) for name in names if block.section.setting(name) is not None]
    written += [each.word.location for each in block.below("unicast_peer")]
    if peers:
        if block.is_written("mcast_dst_ip"):
            block.error("mcast_dst_ip", "mcast_dst_ip is ignored: advertisements go to the peers", "remove it")
    elif block.get("unicast_fault_no_peer", bool):
        text = "without a peer the virtual router stays in fault (unicast_fault_no_peer)"
        block.warning("unicast_fault_no_peer", text, "add unicast_peer { ... }")
    elif written:
        text = "without a peer advertisements are multicast"
        block.findings.warning(written[0], text, "add unicast_peer { ... }, or remove it")


def _vmac(block: EffectiveBlock, peers: int) -> None:
    vmac, ipvlan = block.maybe("use_vmac", Vmac), _ipvlan_of(block)
    if vmac is not None and ipvlan is not None:
        block.error("use_ipvlan", "use_ipvlan is ignored: use_vmac is given, too", "remove one of them")
        block.adjust("use_ipvlan", None, "use_vmac")
    if vmac is not None and peers and not block.get("vmac_xmit_base", bool):
        text = "with unicast peers a VMAC sends from the device below (vmac_xmit_base)"
        block.warning("use_vmac", text, "add vmac_xmit_base")
        block.adjust("vmac_xmit_base", True, "unicast peers")
    if vmac is None and _given(block, "vmac_xmit_base"):
        block.error("vmac_xmit_base", "vmac_xmit_base is ignored: there is no VMAC", "add use_vmac")
        block.adjust("vmac_xmit_base", False, "no use_vmac")


def _first_source(block: EffectiveBlock) -> Address | None:
    return next((found for name in SOURCES if (found := block.address(name)) is not None), None)


def _sources(block: EffectiveBlock, family: int) -> None:
    """Keep the last source address of the router's family."""
    kept: Address | None = None
    written = [s.keyword.name for s in block.section.settings if s.keyword and s.keyword.name in SOURCES]
    for name in dict.fromkeys(reversed(written)):
        address = block.address(name)
        assert address is not None
        reason = ""
        if address.version != family:
            reason = f"is not IPv{family}, as the virtual router is"
        elif kept not in (None, address):
            reason = f"is not {kept}, which comes later"
        if reason:
            block.error(name, f"{name} is ignored: {address} {reason}", "write one source, of the addresses' family")
        if reason or kept is not None:
            block.adjust(name, None, reason or "the same is written twice")
        else:
            kept = address


def device_of(block: EffectiveBlock) -> str:
    return _name_in(block, "interface")


def _name_in(block: EffectiveBlock, name: str) -> str:
    device: Written[str] | None = block.maybe(name, Written)
    return device.value if device else ""


def _on_device(held: Written[HeldAddress], device: str, symbols: Symbols) -> Written[HeldAddress]:
    """Return an address with a device: without an interface, the default one."""
    if device or held.value.device:
        return held
    return replace(held, value=replace(held.value, device=symbols.default_interface))


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
    family = family_of(block)
    addresses, peers = tuple(_addresses(block, family)), tuple(_peers(block, family))
    if not apply(block, symbols.settings, family, len(peers), len(addresses)):
        return None
    addresses = tuple(_on_device(each, device_of(block), symbols) for each in addresses)
    advertised, surplus = _fitting(block, addresses, symbols)
    more = (_on_device(each, device_of(block), symbols) for each in block.lines("virtual_ipaddress_excluded", Written))
    excluded = (*surplus, *more)
    _report_duplicates(block, advertised + excluded)
    tracks, data_plane = _tracking(block, symbols)
    authentication, password = authentication_of(block) or (None, b"")
    instance = block.make(
        VrrpInstance,
        name=name_of(block).text,
        interface=device_of(block),
        vrf=_name_in(block, "vrf"),
        family=family,
        starts_as_master=is_master(block),
        addresses=tuple(each.value for each in advertised),
        excluded=tuple(each.value for each in excluded),
        routes=tuple(each.value for each in block.lines("virtual_routes", Written)),
        rules=tuple(rule for each in block.below("virtual_rules") for rule in rules_of(each, symbols)),
        preempt=not block.get("nopreempt", bool),
        accept=_accepts(block),
        authentication=Authentication(authentication) if authentication else None,
        password=password,
        source=_first_source(block) or _ipvlan_source(block),
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
        notify=notify_of(block, symbols.script_rules),
        skip_address_check=block.get("skip_check_adv_addr", bool),
        linkbeat=block.get("linkbeat_use_polling", bool),
        receive_buffer=_receive_buffer(block, symbols, len(advertised)),
    )
    return CompiledInstance(instance, block, advertised + excluded) if _link_local(instance, block) else None


def rules_of(block: EffectiveBlock, symbols: Symbols) -> Iterator[RoutingRule]:
    """Yield the rules in a block. One without a preference gets one, counting down in the text as keepalived does."""
    for each in block.section.lines(Written):
        rule: RoutingRule = each.value
        if rule.preference == NO_PREFERENCE:
            text = f"the rule has no preference; it gets {symbols.next_preference}"
            block.warning(each.word, text, "write preference N")
            rule = replace(rule, preference=symbols.next_preference)
            symbols.next_preference -= 1
        yield rule


def _tracking(block: EffectiveBlock, symbols: Symbols) -> tuple[Tracks, Track | None]:
    """Return the tracked objects and the data plane's track, without weights for the owner of the addresses."""
    tracks, data_plane = tracks_of(block, symbols, device_of(block)), data_plane_of(block)
    if not is_owner(block):
        return tracks, data_plane
    why = "priority 255 does not change"
    tracks = without_weights(tracks, block, why, keep_interfaces=False)
    return tracks, without_data_plane_weight(data_plane, block, why)


def _addresses(block: EffectiveBlock, family: int) -> Iterator[Written[HeldAddress]]:
    """Yield the virtual addresses of the router's family; report the others."""
    for each in block.lines("virtual_ipaddress", Written):
        if each.value.interface.version == family:
            yield each
        else:
            text = f"{each.word.text} is not IPv{family}, as the virtual router is; it is left out"
            advice = "write it into virtual_ipaddress_excluded, or into a virtual router of its own"
            block.error(each.word, text, advice)


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
    for each in held:
        key = each.value.interface.ip, each.value.device
        if key in first:
            text = f"{key[0]} is given already in line {first[key].location.line}"
            block.warning(each.word, text, "remove one of them")
        first.setdefault(key, each.word)


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


def _link_local(instance: VrrpInstance, block: EffectiveBlock) -> bool:
    """Check RFC 9568 5.2.9, which strict_mode enforces: the first IPv6 address is link-local."""
    first = instance.addresses[0].interface.ip if instance.addresses else None
    if first is None or first.version == 4 or first.is_link_local:
        return True
    strict = block.get("strict_mode", bool)
    if strict:
        text = f"in strict_mode the first IPv6 address is link-local, and {first} is not; the router is left out"
        block.error("", text, "write one of fe80::/10 first")
    return not strict


def family_of(block: EffectiveBlock) -> int:
    """Return the family of the first virtual address, source or peer in the text; 4 without any."""
    order = {id(node): at for at, node in enumerate(block.section.node.block or ())} if block.section.node else {}
    found: list[tuple[int, int]] = []
    for setting in block.section.settings:
        name = setting.keyword.name if setting.keyword else ""
        if name == "use_ipvlan" and isinstance(setting.value, Vmac):
            ipvlan = setting.value.ipvlan
            if ipvlan is not None and ipvlan.address is not None:
                found.append((order[id(setting.node)], ipvlan.address.version))
        if name in SOURCES and isinstance(setting.value, Address):
            found.append((order[id(setting.node)], setting.value.version))
        elif name == "native_ipv6":
            found.append((order[id(setting.node)], 6))
    for inner in block.below("virtual_ipaddress", "unicast_peer"):
        for line in inner.section.lines(object):
            assert isinstance(line, Peer | Written)
            address = line.address if isinstance(line, Peer) else line.value.interface
            found.append((order[id(inner.section.node)], address.version))
            break
    return min(found)[1] if found else 4


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


def _ipvlan_of(block: EffectiveBlock) -> Ipvlan | None:
    found = block.maybe("use_ipvlan", Vmac)
    return found.ipvlan if found is not None else None


def _ipvlan_source(block: EffectiveBlock) -> Address | None:
    ipvlan = _ipvlan_of(block)
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
