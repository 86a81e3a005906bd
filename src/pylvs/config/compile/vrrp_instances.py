"""Compile a `vrrp_instance` block to a virtual router."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address

from pylvs.config.compile import vrrp_instance_rules
from pylvs.config.compile.effective import EffectiveBlock
from pylvs.config.compile.scripts import ScriptRules
from pylvs.config.compile.vrrp_instance_rules import (
    SOURCES,
    authentication_of,
    device_of,
    is_master,
    is_owner,
    is_version_3,
    source_of,
)
from pylvs.config.compile.vrrp_static import RulePreferences
from pylvs.config.compile.vrrp_tracking import (
    Symbols,
    data_plane_of,
    name_of,
    tracks_of,
    without_data_plane_weight,
    without_weights,
)
from pylvs.config.language.tree import Word
from pylvs.config.schema.routes import WrittenRoute
from pylvs.config.schema.types import WrittenScript
from pylvs.config.schema.vrrp_tracks import Deleted
from pylvs.config.schema.vrrp_types import WrittenAddress
from pylvs.model.addresses import Address
from pylvs.model.checks import Script
from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import (
    MULTICAST_V4,
    MULTICAST_V6,
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

ETHERNET, IPV4, IPV6, VRRP, PASSWORD, AH = 14, 20, 40, 8, 8, 24  # octets of headers and trailers
MAX_ADDRESSES = 255  # the count has 8 bits (RFC 9568 5.2.5)


@dataclass(frozen=True, slots=True)
class CompiledInstance:
    """A virtual router, its block, and its addresses as written."""

    instance: VrrpInstance
    block: EffectiveBlock
    addresses: tuple[WrittenAddress, ...]


@dataclass(slots=True)
class InstanceMaker:
    """Makes the virtual routers of one configuration."""

    symbols: Symbols
    scripts: ScriptRules
    settings: EffectiveBlock  # global_defs
    preferences: RulePreferences

    def make(self, block: EffectiveBlock) -> CompiledInstance | None:
        """Make the virtual router of a block; None, and a finding, if the rules do not allow one.

        The rules adjust the effective values of the block, which `pylvs check --show` prints. The rest only reads them.
        """
        family = family_of(block)
        addresses, peers = tuple(self._addresses(block, family)), tuple(self._peers(block, family))
        if not vrrp_instance_rules.apply(block, self.symbols, self.settings, family, len(peers), len(addresses)):
            return None
        advertised, surplus = self._fitting(block, addresses)
        excluded = (*surplus, *block.lines("virtual_ipaddress_excluded", WrittenAddress))
        self._report_duplicates(advertised + excluded)
        instance = self._instance(block, family, advertised, excluded, peers)
        return CompiledInstance(instance, block, advertised + excluded) if self._link_local(instance, block) else None

    def _instance(
        self,
        block: EffectiveBlock,
        family: int,
        advertised: tuple[WrittenAddress, ...],
        excluded: tuple[WrittenAddress, ...],
        peers: tuple[Peer, ...],
    ) -> VrrpInstance:
        tracks, data_plane = self._tracking(block)
        authentication, password = _authentication(block)
        return VrrpInstance(
            name=name_of(block).name,
            interface=device_of(block),
            vrid=block.get("virtual_router_id", int),
            family=family,
            version=block.get("version", int),
            starts_as_master=is_master(block),
            priority=block.get("priority", int),
            advert_interval_s=block.get("advert_int", float),
            addresses=tuple(each.address for each in advertised),
            excluded=tuple(each.address for each in excluded),
            routes=tuple(each.route for each in block.lines("virtual_routes", WrittenRoute)),
            rules=self.preferences.rules(block, "virtual_rules"),
            preempt=not block.get("nopreempt", bool),
            preempt_delay_s=block.get("preempt_delay", float),
            accept=_accepts(block),
            strict=block.get("strict_mode", bool),
            authentication=authentication,
            password=password,
            source=source_of(block),
            track_source=block.get("track_src_ip", bool),
            multicast=self._multicast(block, family),
            peers=peers,
            unicast_ttl=block.maybe("unicast_ttl", int, 255),
            check_source=block.get("check_unicast_src", bool) or any(map(_limits_ttl, peers)),
            fault_without_peers=block.get("unicast_fault_no_peer", bool),
            old_checksum=block.maybe("old_unicast_checksum", OldChecksum, OldChecksum.DETECT),
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
            receive_buffer=block.maybe("kernel_rx_buf_size", int, 0),
        )

    def _tracking(self, block: EffectiveBlock) -> tuple[Tracks, Track | None]:
        """Return the tracked objects and the data plane's track, without weights for the owner of the addresses."""
        tracks, data_plane = tracks_of(block, self.symbols, device_of(block)), data_plane_of(block)
        if not is_owner(block):
            return tracks, data_plane
        why = "priority 255 does not change"
        tracks = without_weights(tracks, block, self.symbols, why, keep_interfaces=False)
        return tracks, without_data_plane_weight(data_plane, block, self.symbols, why)

    def _addresses(self, block: EffectiveBlock, family: int) -> Iterator[WrittenAddress]:
        """Yield the virtual addresses of the router's family; report the others."""
        for each in block.lines("virtual_ipaddress", WrittenAddress):
            if each.address.interface.version == family:
                yield each
            else:
                text = f"{each.word.text} is not IPv{family}, as the virtual router is; it is left out"
                advice = "write it into virtual_ipaddress_excluded, or into a virtual router of its own"
                self.symbols.findings.error(each.word.location, text, advice)

    def _peers(self, block: EffectiveBlock, family: int) -> Iterator[Peer]:
        for inner in block.below("unicast_peer"):
            for setting in inner.section.settings:
                assert isinstance(setting.value, Peer)
                if setting.value.address.version == family:
                    yield setting.value
                else:
                    text = f"peer {setting.value.address} is not IPv{family}, as the virtual router is; it is left out"
                    self.symbols.findings.error(setting.node.location, text, "write an address of its family")

    def _fitting(
        self, block: EffectiveBlock, held: tuple[WrittenAddress, ...]
    ) -> tuple[tuple[WrittenAddress, ...], tuple[WrittenAddress, ...]]:
        """Split the addresses into those that fit into an advertisement, and the rest."""
        version_6 = bool(held) and held[0].address.interface.version == 6
        space = self.symbols.mtu(device_of(block)) - ETHERNET - VRRP - (IPV6 if version_6 else IPV4)
        found = authentication_of(block)
        if not is_version_3(block):
            space -= PASSWORD + (AH if found and found[0] == "AH" else 0)
        maximum = min(MAX_ADDRESSES, space // (16 if version_6 else 4))
        if len(held) > maximum:
            text = f"an advertisement has room for {maximum} addresses; from here on they are not in it"
            self.symbols.findings.warning(
                held[maximum].word.location, text, "write them into virtual_ipaddress_excluded"
            )
        return held[:maximum], held[maximum:]

    def _report_duplicates(self, held: tuple[WrittenAddress, ...]) -> None:
        first: dict[tuple[Address, str], Word] = {}
        for each in held:
            key = each.address.interface.ip, each.address.device
            if key in first:
                text = f"{key[0]} is given already in line {first[key].location.line}"
                self.symbols.findings.warning(each.word.location, text, "remove one of them")
            first.setdefault(key, each.word)

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
        self.symbols.findings.error(block.location("mcast_dst_ip"), text, "write another, or remove it")
        return standard

    def _link_local(self, instance: VrrpInstance, block: EffectiveBlock) -> bool:
        """Check RFC 9568 5.2.9, which strict_mode enforces: the first IPv6 address is link-local."""
        first = instance.addresses[0].interface.ip if instance.addresses else None
        if first is None or first.version == 4 or first.is_link_local:
            return True
        if instance.strict:
            text = f"in strict_mode the first IPv6 address is link-local, and {first} is not; the router is left out"
            self.symbols.findings.error(block.word.location, text, "write one of fe80::/10 first")
        return not instance.strict


def family_of(block: EffectiveBlock) -> int:
    """Return the family of the first virtual address, source or peer in the text; 4 without any."""
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


def _limits_ttl(peer: Peer) -> bool:
    return (peer.least_ttl, peer.most_ttl) != (0, 255)


def _accepts(block: EffectiveBlock) -> bool:
    """Return whether the master accepts packets to its addresses (RFC 9568 6.1, Accept_Mode)."""
    if is_owner(block):
        return True
    allowed = block.maybe("accept", bool, False) or not block.get("strict_mode", bool)
    return allowed and not block.get("no_accept", bool)


def _authentication(block: EffectiveBlock) -> tuple[Authentication | None, bytes]:
    found = authentication_of(block)
    return (Authentication(found[0]), found[1]) if found else (None, b"")


def _vmac(block: EffectiveBlock) -> Vmac | None:
    vmac, all_devices = block.maybe("use_vmac", Vmac), block.get("use_vmac_addr", bool)
    if vmac is None and not all_devices:
        return None
    own = vmac or Vmac()
    return replace(
        own, here=vmac is not None, for_addresses=all_devices, send_from_base=block.get("vmac_xmit_base", bool)
    )


def _announcements(block: EffectiveBlock) -> Announcements:
    all_devices, extra = block.maybe("garp_extra_if", tuple, (False, 0))
    return Announcements(
        repeat=block.get("garp_master_repeat", int),
        delay_s=block.get("garp_master_delay", int),
        refresh_s=block.get("garp_master_refresh", int),
        refresh_repeat=block.get("garp_master_refresh_repeat", int),
        lower_priority_repeat=block.get("garp_lower_prio_repeat", int),
        lower_priority_delay_s=block.get("garp_lower_prio_delay", int),
        extra_interval_s=extra,
        extra_everywhere=all_devices,
    )


def notify_of(block: EffectiveBlock, scripts: ScriptRules) -> Notify:
    """Return the notifications of an instance or a group."""

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
