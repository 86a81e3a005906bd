"""keepalived's rules for a `vrrp_instance`: adjust values that cannot hold as written, with findings."""

from __future__ import annotations

import math

from pylvs.config.compile.effective import EffectiveBlock, OriginKind
from pylvs.config.compile.vrrp_tracking import Symbols
from pylvs.config.findings import Findings
from pylvs.config.schema.vrrp_types import Device
from pylvs.model.addresses import Address
from pylvs.model.vrrp import OWNER, Vmac

MAX_V3_S = 40.95  # 12 bits of centiseconds (RFC 9568 5.2.7)
STEP_S = 0.01
SOURCES = ("mcast_src_ip", "unicast_src_ip")
MINIMAL_GARP = {
    "garp_master_delay": 0,
    "garp_master_repeat": 1,
    "garp_lower_prio_delay": 0,
    "garp_lower_prio_repeat": 1,
}
STRICT = {"garp_lower_prio_repeat": 0, "garp_lower_prio_delay": 0, "down_timer_adverts": 3}


def apply(
    block: EffectiveBlock, symbols: Symbols, settings: EffectiveBlock, family: int, peers: int, addresses: int
) -> bool:
    """Apply every rule in its order; return False if there cannot be such a router."""
    findings = symbols.findings
    _native_ipv6(block, findings, family)
    if settings.get("vrrp_min_garp", bool):
        _minimal_garp(block)
    _version(block, findings, family)
    if not _possible(block, findings, addresses):
        return False
    _interval(block, findings)
    _ownership(block)
    _strict(block, findings)
    _authentication(block, findings)
    _preemption(block, findings)
    _unicast(block, findings, peers)
    _vmac(block, findings, peers)
    _sources(block, findings, family)
    return True


def is_version_3(block: EffectiveBlock) -> bool:
    return block.get("version", int) == 3


def is_master(block: EffectiveBlock) -> bool:
    """Return whether it begins as master."""
    return block.get("state", str) == "MASTER"


def is_owner(block: EffectiveBlock) -> bool:
    """Return whether it owns the addresses (RFC 9568: priority 255)."""
    return block.get("priority", int) == OWNER


def source_of(block: EffectiveBlock) -> Address | None:
    """Return the source address that the rules left."""
    return block.address("mcast_src_ip") or block.address("unicast_src_ip")


def _given(block: EffectiveBlock, name: str) -> bool:
    """Return whether the block sets a flag."""
    return block.is_written(name) and bool(block.effective(name).value)


def _native_ipv6(block: EffectiveBlock, findings: Findings, family: int) -> None:
    if family == 4 and block.is_written("native_ipv6"):
        text = "the virtual router's addresses are IPv4; native_ipv6 is ignored"
        findings.error(block.location("native_ipv6"), text, "remove it")
        block.adjust("native_ipv6", False, "the addresses are IPv4")


def _minimal_garp(block: EffectiveBlock) -> None:
    for name, value in MINIMAL_GARP.items():
        if block.effective(name).origin.how is OriginKind.DEFAULT:
            block.adjust(name, value, "vrrp_min_garp")


def _version(block: EffectiveBlock, findings: Findings, family: int) -> None:
    if family == 6 and not is_version_3(block):
        if block.section.setting("version") is not None:
            text = "version 2 has no IPv6; version 3 counts"
            findings.warning(block.location("version"), text, "write version 3, or leave it out")
        block.adjust("version", 3, "IPv6 is always version 3")


def _possible(block: EffectiveBlock, findings: Findings, addresses: int) -> bool:
    """Return whether the block has what a router needs."""
    location = block.word.location
    missing = [name for name in ("interface", "virtual_router_id") if block.effective(name).value is None]
    for name in missing:
        what = "its interface" if name == "interface" else "its virtual_router_id"
        findings.error(location, f"the virtual router lacks {what}; it is left out", f"add {name}")
    strict = block.get("strict_mode", bool)
    if not addresses:
        needed = strict or is_version_3(block)
        if needed:
            text = "the virtual router has no virtual address, and version 3 and strict_mode need one; it is left out"
            findings.error(location, text, "add virtual_ipaddress { ... }")
            return False
        text = "the virtual router has no virtual address: nothing moves with it"
        findings.warning(location, text, "add virtual_ipaddress { ... }")
    return not missing


def _ownership(block: EffectiveBlock) -> None:
    """The owner of the addresses begins as master; state MASTER without a priority means ownership."""
    node = block.section.node
    written = any(each.keyword == "priority" for each in (node.block if node else None) or ())  # an invalid one too
    if not written and is_master(block):
        block.adjust("priority", OWNER, "state MASTER without priority")
    if is_owner(block) and not block.is_written("state"):
        block.adjust("state", "MASTER", "priority 255")


def _interval(block: EffectiveBlock, findings: Findings) -> None:
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
        findings.error(block.location("advert_int"), f"{why}: {fits:g} counts, not {written:g}", f"write {fits:g}")
        block.adjust("advert_int", fits, why)


def _strict(block: EffectiveBlock, findings: Findings) -> None:
    if not block.get("strict_mode", bool):
        return
    owner = is_owner(block)
    if block.is_written("state") and is_master(block) != owner:
        text = "in strict_mode a router begins as master if and only if its priority is 255"
        findings.warning(block.location("state"), text, "leave state out")
        if owner:
            block.adjust("state", "MASTER", "strict_mode")
    for name, wanted in (("higher_prio_send_advert", False), ("lower_prio_no_advert", True)):
        if block.is_written(name) and block.get(name, bool) is not wanted:
            text = f"strict_mode has {name} {'on' if wanted else 'off'}"
            findings.error(block.location(name), text, "remove it")
        block.adjust(name, wanted, "strict_mode")
    for name, number in STRICT.items():
        if block.section.setting(name) is not None and block.get(name, int) != number:
            findings.error(block.location(name), f"strict_mode has {name} {number}", "remove it")
        block.adjust(name, number, "strict_mode")
    if block.maybe("accept", bool) and not is_version_3(block):
        findings.error(block.location("accept"), "strict_mode has no accept in version 2; it is ignored", "remove it")
        block.adjust("accept", None, "strict_mode")
    for name in ("preempt_delay", "vmac_xmit_base"):
        if block.is_written(name) and block.effective(name).value:
            findings.error(block.location(name), f"strict_mode has no {name}; it is ignored", "remove it")
            block.adjust(name, 0.0 if name == "preempt_delay" else False, "strict_mode")


def authentication_of(block: EffectiveBlock) -> tuple[str, bytes] | None:
    """Return type and password if both are given."""
    for each in block.below("authentication"):
        kind, password = each.maybe("auth_type", str), each.maybe("auth_pass", bytes)
        if kind and password:
            return kind, password
    return None


def _authentication(block: EffectiveBlock, findings: Findings) -> None:
    for each in list(block.below("authentication")):
        location = each.word.location
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
            findings.error(location, f"{reason}; nothing is authenticated", "complete the block, or remove it")
            block.leave_out(each)
    found = authentication_of(block)
    owner = is_owner(block)
    if found is not None and found[0] == "AH" and is_master(block) and not owner:
        text = "with auth_type AH a router cannot begin as master; it begins as backup"
        findings.error(block.location("state"), text, "write state BACKUP, or leave it out")
        block.adjust("state", "BACKUP", "auth_type AH")


def _preemption(block: EffectiveBlock, findings: Findings) -> None:
    owner = is_owner(block)
    master = is_master(block)
    why = "a router of priority 255 preempts always" if owner else "it has no effect with state MASTER"
    if _given(block, "nopreempt") and (owner or master):
        findings.error(block.location("nopreempt"), f"nopreempt is ignored: {why}", "write state BACKUP, or remove it")
        block.adjust("nopreempt", False, why)
    delayed = block.get("preempt_delay", float) > 0
    if delayed and master:
        text = "preempt_delay is ignored: it has no effect with state MASTER"
        findings.error(block.location("preempt_delay"), text, "write state BACKUP, or remove it")
        block.adjust("preempt_delay", 0.0, "state MASTER")
    elif delayed and block.get("nopreempt", bool):
        text = "preempt_delay is ignored: nopreempt waits for ever"
        findings.error(block.location("preempt_delay"), text, "remove one of them")
        block.adjust("preempt_delay", 0.0, "nopreempt")


def _unicast(block: EffectiveBlock, findings: Findings, peers: int) -> None:
    blocks = [each.word.location for each in block.below("unicast_peer")]
    names = ("unicast_src_ip", "check_unicast_src", "old_unicast_checksum", "unicast_ttl")
    locations = [block.location(name) for name in names if block.section.setting(name) is not None] + blocks
    if peers:
        if block.is_written("mcast_dst_ip"):
            text = "mcast_dst_ip is ignored: advertisements go to the peers"
            findings.error(block.location("mcast_dst_ip"), text, "remove it")
        return
    if block.get("unicast_fault_no_peer", bool):
        text = "without a peer the virtual router stays in fault (unicast_fault_no_peer)"
        findings.warning(block.location("unicast_fault_no_peer"), text, "add unicast_peer { ... }")
    elif locations:
        findings.warning(
            locations[0], "without a peer advertisements are multicast", "add unicast_peer { ... }, or remove it"
        )


def _vmac(block: EffectiveBlock, findings: Findings, peers: int) -> None:
    vmac = block.maybe("use_vmac", Vmac)
    if vmac is not None and peers and not block.get("vmac_xmit_base", bool):
        text = "with unicast peers a VMAC sends from the device below (vmac_xmit_base)"
        findings.warning(block.location("use_vmac"), text, "add vmac_xmit_base")
        block.adjust("vmac_xmit_base", True, "unicast peers")
    if vmac is None and _given(block, "vmac_xmit_base"):
        findings.error(block.location("vmac_xmit_base"), "vmac_xmit_base is ignored: there is no VMAC", "add use_vmac")
        block.adjust("vmac_xmit_base", False, "no use_vmac")


def _sources(block: EffectiveBlock, findings: Findings, family: int) -> None:
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
            text = f"{name} is ignored: {address} {reason}"
            findings.error(block.location(name), text, "write one source, of the addresses' family")
        if reason or kept is not None:
            block.adjust(name, None, reason or "the same is written twice")
        else:
            kept = address


def device_of(block: EffectiveBlock) -> str:
    device = block.maybe("interface", Device)
    return device.name if device else ""
