"""`vrrp_instance`: one block to one virtual router."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address

from pylvs.config.compile import vrrp_instance_rules
from pylvs.config.compile.effective import EffectiveBlock, OriginKind
from pylvs.config.compile.scripts import ScriptRules
from pylvs.config.compile.vrrp_instance_rules import authentication_of, device_of, is_master, is_version_3
from pylvs.config.compile.vrrp_static import RulePreferences
from pylvs.config.compile.vrrp_tracking import Symbols, data_plane_of, tracks_of, unweighted, unweighted_data_plane
from pylvs.config.language.tree import Word
from pylvs.config.schema.routes import WrittenRoute
from pylvs.config.schema.types import WrittenScript
from pylvs.config.schema.vrrp_tracks import Deleted
from pylvs.config.schema.vrrp_types import Named, WrittenAddress
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.scripts import Script
from pylvs.model.vrrp import (
    MULTICAST_V4,
    MULTICAST_V6,
    OWNER,
    Announcements,
    Authentication,
    Notify,
    OldChecksum,
    Peer,
    Vmac,
    VrrpInstance,
)

ETHERNET, IPV4, IPV6, VRRP, PASSWORD, AH = 14, 20, 40, 8, 8, 24  # octets that are no addresses
MOST_ADDRESSES = 255  # their number has 8 bits
FEWEST_GARPS = {
    "garp_master_delay": 0,
    "garp_master_repeat": 1,
    "garp_lower_prio_delay": 0,
    "garp_lower_prio_repeat": 1,
}


@dataclass(frozen=True, slots=True)
class CompiledInstance:
    """A virtual router, its block, and the words of its addresses."""

    instance: VrrpInstance
    block: EffectiveBlock
    addresses: tuple[WrittenAddress, ...]


@dataclass(slots=True)
class InstanceMaker:
    """Makes one virtual router after the other."""

    known: Symbols
    scripts: ScriptRules
    settings: EffectiveBlock  # global_defs
    preferences: RulePreferences

    def make(self, block: EffectiveBlock) -> CompiledInstance | None:
        """The virtual router; None if there cannot be one, which is a finding then."""
        assert isinstance(block.head, Named)
        family = family_of(block)
        if family == 4 and block.is_written("native_ipv6"):
            text = "the virtual router's addresses are IPv4; native_ipv6 is ignored"
            self.known.findings.error(block.location("native_ipv6"), text, "remove it")
            block.adjust("native_ipv6", False, "the addresses are IPv4")
        held = tuple(self._family(block, "virtual_ipaddress", family))
        peers = tuple(self._peers(block, family))
        if self.settings.get("vrrp_min_garp", bool):
            for name, value in FEWEST_GARPS.items():
                if block.effective(name).origin.how is OriginKind.DEFAULT:
                    block.adjust(name, value, "vrrp_min_garp")
        if not vrrp_instance_rules.apply(block, self.known, family, len(peers), len(held)):
            return None
        advertised, moved = self._room(block, held)
        excluded = (*moved, *(each for inner in block.below(EXCLUDED) for each in inner.section.lines(WrittenAddress)))
        self._twice(advertised + excluded)
        device, found, ttl = device_of(block), authentication_of(block), block.maybe("unicast_ttl", int)
        owner = block.get("priority", int) == OWNER
        tracks, data_plane = tracks_of(block, self.known, device), data_plane_of(block)
        if owner:
            why = "priority 255 does not change"
            tracks = unweighted(tracks, block, self.known, why, keep_interfaces=False)
            data_plane = unweighted_data_plane(data_plane, block, self.known, why)
        strict = block.get("strict_mode", bool)
        accept = (block.maybe("accept", bool) or not strict) and not block.get("no_accept", bool)
        instance = VrrpInstance(
            name=block.head.name,
            interface=device,
            vrid=block.get("virtual_router_id", int),
            family=family,
            version=block.get("version", int),
            starts_as_master=is_master(block),
            priority=block.get("priority", int),
            advert_interval_s=block.get("advert_int", float),
            addresses=tuple(each.address for each in advertised),
            excluded=tuple(each.address for each in excluded),
            routes=tuple(
                each.route for inner in block.below("virtual_routes") for each in inner.section.lines(WrittenRoute)
            ),
            rules=self.preferences.rules(block, "virtual_rules"),
            preempt=not block.get("nopreempt", bool),
            preempt_delay_s=block.get("preempt_delay", float),
            accept=owner or accept,
            strict=strict,
            authentication=Authentication(found[0]) if found else None,
            password=found[1] if found else b"",
            source=self._source(block, family),
            track_source=block.get("track_src_ip", bool),
            multicast=self._multicast(block, family),
            peers=peers,
            unicast_ttl=255 if ttl is None else ttl,
            check_source=block.get("check_unicast_src", bool) or any(_limited(peer) for peer in peers),
            fault_without_peers=block.get("unicast_fault_no_peer", bool),
            old_checksum=block.maybe("old_unicast_checksum", OldChecksum) or OldChecksum.DETECT,
            vmac=_vmac(block),
            announcements=_announcements(block),
            lower_priority_unanswered=block.get("lower_prio_no_advert", bool),
            higher_priority_answered=block.get("higher_prio_send_advert", bool),
            down_after_adverts=block.get("down_timer_adverts", int),
            track_primary=not block.get("dont_track_primary", bool),
            track_data_plane=data_plane,
            tracks=tracks,
            notify=notify_of(block, self.scripts),
            skip_address_check=block.get("skip_check_adv_addr", bool),
            promote_secondaries=block.get("promote_secondaries", bool),
            receive_buffer=block.maybe("kernel_rx_buf_size", int) or 0,
        )
        return CompiledInstance(instance, block, advertised + excluded) if self._link_local(instance, block) else None

    def _family(self, block: EffectiveBlock, name: str, family: int) -> Iterator[WrittenAddress]:
        """The addresses of the router's family."""
        for inner in block.below(name):
            for each in inner.section.lines(WrittenAddress):
                if each.address.interface.version == family:
                    yield each
                else:
                    text = f"{each.word.text} is not IPv{family}, as the virtual router is; it is left out"
                    advice = "write it into virtual_ipaddress_excluded, or into a virtual router of its own"
                    self.known.findings.error(each.word.location, text, advice)

    def _peers(self, block: EffectiveBlock, family: int) -> Iterator[Peer]:
        for inner in block.below("unicast_peer"):
            for setting in inner.section.settings:
                assert isinstance(setting.value, Peer)
                if setting.value.address.version == family:
                    yield setting.value
                else:
                    text = f"peer {setting.value.address} is not IPv{family}, as the virtual router is; it is left out"
                    self.known.findings.error(setting.node.location, text, "write an address of its family")

    def _room(
        self, block: EffectiveBlock, held: tuple[WrittenAddress, ...]
    ) -> tuple[tuple[WrittenAddress, ...], tuple[WrittenAddress, ...]]:
        """The addresses that an advertisement has room for, and the rest."""
        version_6 = bool(held) and held[0].address.interface.version == 6
        room = self.known.mtu(device_of(block)) - ETHERNET - VRRP - (IPV6 if version_6 else IPV4)
        found = authentication_of(block)
        if not is_version_3(block):
            room -= PASSWORD + (AH if found and found[0] == "AH" else 0)
        most = min(MOST_ADDRESSES, room // (16 if version_6 else 4))
        if len(held) > most:
            text = f"an advertisement has room for {most} addresses; from here on they are not in it"
            self.known.findings.warning(held[most].word.location, text, "write them into virtual_ipaddress_excluded")
        return held[:most], held[most:]

    def _twice(self, held: tuple[WrittenAddress, ...]) -> None:
        first: dict[tuple[Address, str], Word] = {}
        for each in held:
            key = each.address.interface.ip, each.address.device
            if key in first:
                text = f"{key[0]} is given already in line {first[key].location.line}"
                self.known.findings.warning(each.word.location, text, "remove one of them")
            first.setdefault(key, each.word)

    def _source(self, block: EffectiveBlock, family: int) -> Address | None:
        found: Address | None = None
        written = [s.keyword.name for s in block.section.settings if s.keyword and s.keyword.name in SOURCES]
        for name in dict.fromkeys(reversed(written)):  # the last one counts
            address = block.address(name)
            assert address is not None
            reason = ""
            if address.version != family:
                reason = f"is not IPv{family}, as the virtual router is"
            elif found not in (None, address):
                reason = f"is not {found}, which comes later"
            if reason:
                text = f"{name} is ignored: {address} {reason}"
                self.known.findings.error(block.location(name), text, "write one source, of the addresses' family")
            if reason or found is not None:
                block.adjust(name, None, reason or "the same is written twice")
            else:
                found = address
        return found

    def _multicast(self, block: EffectiveBlock, family: int) -> Address:
        default = "vrrp_mcast_group4" if family == 4 else "vrrp_mcast_group6"
        standard = self.settings.address(default) or (MULTICAST_V4 if family == 4 else MULTICAST_V6)
        written = block.address("mcast_dst_ip")
        if written is None:
            return standard
        reason = ""
        if written.version != family:
            reason = f"is not IPv{family}, as the virtual router is"
        elif isinstance(written, IPv6Address) and written.packed[1] & 0x0F != 2:
            reason = "is not of link-local scope"
        if not reason:
            return written
        text = f"{written} {reason}; {standard} counts"
        self.known.findings.error(block.location("mcast_dst_ip"), text, "write another, or remove it")
        return standard

    def _link_local(self, instance: VrrpInstance, block: EffectiveBlock) -> bool:
        """RFC 9568 5.2.9: the first address of IPv6 is link-local."""
        first = instance.addresses[0].interface.ip if instance.addresses else None
        if first is None or first.version == 4 or first.is_link_local:
            return True
        if instance.strict:
            text = f"in strict_mode the first IPv6 address is link-local, and {first} is not; the router is left out"
            self.known.findings.error(block.word.location, text, "write one of fe80::/10 first")
            return False
        return True


EXCLUDED = "virtual_ipaddress_excluded"
SOURCES = ("mcast_src_ip", "unicast_src_ip")


def family_of(block: EffectiveBlock) -> int:
    """That of the first address in the text: a virtual one, a source or a peer; 4 without any."""
    order = {id(node): at for at, node in enumerate(block.section.node.block or ())} if block.section.node else {}
    found: list[tuple[int, int]] = []
    for setting in block.section.settings:
        if setting.keyword is not None and setting.keyword.name in SOURCES and isinstance(setting.value, Address):
            found.append((order[id(setting.node)], setting.value.version))
        elif setting.keyword is not None and setting.keyword.name == "native_ipv6":
            found.append((order[id(setting.node)], 6))
    for inner in block.below("virtual_ipaddress", "unicast_peer"):
        at = order[id(inner.section.node)]
        for setting in inner.section.settings[:1]:
            value = setting.value
            assert isinstance(value, WrittenAddress | Peer)
            found.append(
                (at, value.address.interface.version if isinstance(value, WrittenAddress) else value.address.version)
            )
    return min(found)[1] if found else 4


def _limited(peer: Peer) -> bool:
    return (peer.least_ttl, peer.most_ttl) != (0, 255)


def _vmac(block: EffectiveBlock) -> Vmac | None:
    vmac, everywhere = block.maybe("use_vmac", Vmac), block.get("use_vmac_addr", bool)
    if vmac is None and not everywhere:
        return None
    own = vmac or Vmac()
    return replace(
        own, here=vmac is not None, for_addresses=everywhere, send_from_base=block.get("vmac_xmit_base", bool)
    )


def _announcements(block: EffectiveBlock) -> Announcements:
    everywhere, extra = block.maybe("garp_extra_if", tuple) or (False, 0)
    return Announcements(
        repeat=block.get("garp_master_repeat", int),
        delay_s=block.get("garp_master_delay", int),
        refresh_s=block.get("garp_master_refresh", int),
        refresh_repeat=block.get("garp_master_refresh_repeat", int),
        lower_priority_repeat=block.get("garp_lower_prio_repeat", int),
        lower_priority_delay_s=block.get("garp_lower_prio_delay", int),
        extra_interval_s=extra,
        extra_everywhere=everywhere,
    )


def notify_of(block: EffectiveBlock, scripts: ScriptRules) -> Notify:
    """Whom an instance or a group tells of its transitions."""

    def program(name: str) -> Script | None:
        return scripts.usable(block.maybe(name, WrittenScript))

    deleted = block.maybe("notify_deleted", Deleted)
    instance = block.block.find("notify_master_rx_lower_pri") is not None
    return Notify(
        master=program("notify_master"),
        backup=program("notify_backup"),
        fault=program("notify_fault"),
        stop=program("notify_stop"),
        every=program("notify"),
        deleted=scripts.usable(deleted.script) if deleted else None,
        say_deleted=deleted is not None,
        lower_priority_heard=program("notify_master_rx_lower_pri") if instance else None,
        priority_changes=block.get("notify_priority_changes", bool),
        smtp_alert=block.get("smtp_alert", bool),
    )
