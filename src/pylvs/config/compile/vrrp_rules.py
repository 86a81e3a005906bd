"""keepalived's rules for a `vrrp_instance`: they adjust values that cannot hold, with findings."""

from __future__ import annotations

import math

from pylvs.config.compile.effective import EffectiveBlock, OriginKind
from pylvs.config.compile.vrrp_block import (
    SOURCES,
    authentication_of,
    device_of,
    family_of,
    first_source,
    ipvlan_of,
    is_master,
    is_owner,
    is_version_3,
)
from pylvs.model.addresses import Address
from pylvs.model.vrrp import OWNER, Vmac

MAX_V3_S = 40.95  # 12 bits of centiseconds (RFC 9568 5.2.7)
STEP_S = 0.01
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


def _given(block: EffectiveBlock, name: str) -> bool:
    """Return whether the block sets a flag."""
    return block.is_written(name) and bool(block.effective(name).value)


def _native_ipv6(block: EffectiveBlock, family: int) -> None:
    if family == 4 and block.is_written("native_ipv6"):
        block.warning("native_ipv6", "the virtual router's addresses are IPv4; native_ipv6 is ignored", "remove it")
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
    block.warning("vrf", f"vrf is ignored: {why}", "remove vrf, or the interface")
    block.adjust("vrf", None, why)


def _possible(block: EffectiveBlock, addresses: int, peers: int) -> bool:
    """Return whether the block has what a router needs."""
    missing = [name for name in ("interface", "virtual_router_id") if block.effective(name).value is None]
    source = first_source(block)
    if missing[:1] == ["interface"] and peers and source is not None:
        del missing[0]
        if source.is_link_local:
            block.error("", f"without an interface {source} is on no link; it is left out", "add interface")
            return False
        for name in ("use_vmac", "use_vmac_addr", "use_ipvlan"):
            if block.is_written(name) and block.effective(name).value:
                block.warning(name, f"{name} is ignored: there is no interface", "add interface")
                block.adjust(name, False if name == "use_vmac_addr" else None, "no interface")
    for name in missing:
        advice = "add interface, or unicast_peer and unicast_src_ip" if name == "interface" else f"add {name}"
        if block.has_line(name):  # its value is rejected, which is a finding already
            block.error("", f"without a valid {name} the virtual router is left out", f"correct its {name}")
        else:
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
    ipvlan = ipvlan_of(block)
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
        block.warning("advert_int", f"{why}: {fits:g} counts, not {written:g}", f"write {fits:g}")
        block.adjust("advert_int", fits, why)
    if not is_version_3(block) and block.is_written("max_advert_int"):
        text = "max_advert_int is ignored: with version 2 all routers have the same advert_int"
        block.warning("max_advert_int", text, "remove it, or write version 3")
        block.adjust("max_advert_int", None, "version 2")


def _strict(block: EffectiveBlock) -> None:
    if not block.get("strict_mode", bool):
        return
    owner = is_owner(block)
    if block.is_written("state") and is_master(block) != owner:
        text = "in strict_mode a router begins as master if and only if its priority is 255"
        block.warning("state", text, "leave state out")
        block.adjust("state", "MASTER" if owner else "BACKUP", "strict_mode")
    for name, wanted in (("higher_prio_send_advert", False), ("lower_prio_no_advert", True)):
        if block.is_written(name) and block.get(name, bool) is not wanted:
            block.warning(name, f"strict_mode has {name} {'on' if wanted else 'off'}", "remove it")
        block.adjust(name, wanted, "strict_mode")
    for name, number in STRICT.items():
        if block.section.setting(name) is not None and block.get(name, int) != number:
            block.warning(name, f"strict_mode has {name} {number}", "remove it")
        block.adjust(name, number, "strict_mode")
    if block.maybe("accept", bool) and not is_version_3(block):
        block.warning("accept", "strict_mode has no accept in version 2; it is ignored", "remove it")
        block.adjust("accept", None, "strict_mode")
    for name in ("preempt_delay", "vmac_xmit_base"):
        if block.is_written(name) and block.effective(name).value:
            block.warning(name, f"strict_mode has no {name}; it is ignored", "remove it")
            block.adjust(name, 0.0 if name == "preempt_delay" else False, "strict_mode")


def _authentication(block: EffectiveBlock) -> None:
    for authentication in list(block.below("authentication")):
        kind, password = authentication.maybe("auth_type", str), authentication.maybe("auth_pass", bytes)
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
            authentication.warning("", f"{reason}; nothing is authenticated", "complete the block, or remove it")
            block.leave_out(authentication)
    found = authentication_of(block)
    if found is not None and found[0] == "AH" and is_master(block) and not is_owner(block):
        text = "with auth_type AH a router cannot begin as master; it begins as backup"
        block.warning("state", text, "write state BACKUP, or leave it out")
        block.adjust("state", "BACKUP", "auth_type AH")


def _preemption(block: EffectiveBlock) -> None:
    owner, master = is_owner(block), is_master(block)
    why = "a router of priority 255 preempts always" if owner else "it has no effect with state MASTER"
    if _given(block, "nopreempt") and (owner or master):
        advice = "write a lower priority, or remove it" if owner else "write state BACKUP, or remove it"
        block.warning("nopreempt", f"nopreempt is ignored: {why}", advice)
        block.adjust("nopreempt", False, why)
    delayed = block.get("preempt_delay", float) > 0
    if delayed and master:
        text = "preempt_delay is ignored: it has no effect with state MASTER"
        block.warning("preempt_delay", text, "write state BACKUP, or remove it")
        block.adjust("preempt_delay", 0.0, "state MASTER")
    elif delayed and block.get("nopreempt", bool):
        block.warning("preempt_delay", "preempt_delay is ignored: nopreempt waits for ever", "remove one of them")
        block.adjust("preempt_delay", 0.0, "nopreempt")


def _unicast(block: EffectiveBlock, peers: int) -> None:
    names = ("unicast_src_ip", "check_unicast_src", "old_unicast_checksum", "unicast_ttl")
    written = [block.location(name) for name in names if block.section.setting(name) is not None]
    written += [each.word.location for each in block.below("unicast_peer")]
    if peers:
        if block.is_written("mcast_dst_ip"):
            block.warning("mcast_dst_ip", "mcast_dst_ip is ignored: advertisements go to the peers", "remove it")
    elif block.get("unicast_fault_no_peer", bool):
        text = "without a peer the virtual router stays in fault (unicast_fault_no_peer)"
        block.warning("unicast_fault_no_peer", text, "add unicast_peer { ... }")
    elif written:
        text = "without a peer advertisements are multicast"
        block.findings.warning(written[0], text, "add unicast_peer { ... }, or remove it")


def _vmac(block: EffectiveBlock, peers: int) -> None:
    vmac, ipvlan = block.maybe("use_vmac", Vmac), ipvlan_of(block)
    if vmac is not None and ipvlan is not None:
        block.error("use_ipvlan", "use_ipvlan is ignored: use_vmac is given, too", "remove one of them")
        block.adjust("use_ipvlan", None, "use_vmac")
    if vmac is not None and peers and not block.get("vmac_xmit_base", bool):
        text = "with unicast peers a VMAC sends from the device below (vmac_xmit_base)"
        block.warning("use_vmac", text, "add vmac_xmit_base")
        block.adjust("vmac_xmit_base", True, "unicast peers")
    if vmac is None and _given(block, "vmac_xmit_base"):
        block.warning("vmac_xmit_base", "vmac_xmit_base is ignored: there is no VMAC", "add use_vmac")
        block.adjust("vmac_xmit_base", False, "no use_vmac")


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
