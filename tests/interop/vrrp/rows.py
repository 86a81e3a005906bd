"""The rows of the matrix: configurations of virtual routers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.interop.vrrp.segment import address

VRID, SECOND_VRID = 51, 52
PRIORITY = {"a": 100, "b": 90}
DELAY_S = 3.0


class Event(Enum):
    """An event of the master besides stop and kill; it is undone afterwards."""

    SCRIPT = "script"
    CABLE = "cable"


@dataclass(frozen=True, slots=True)
class Row:
    """`also` is in both instances, `first` only in that of the better router, `head` before them."""

    name: str
    version: int = 2
    family: int = 4
    advert_s: float = 1.0
    unicast: bool = False
    also: str = ""
    first: str = ""
    head: str = ""
    vmac: bool = False
    second: bool = False  # a second instance on eth1, in one group with the first
    returns: bool = True  # the better router takes over when it returns
    delay_s: float = 0.0  # but not earlier
    event: Event | None = None

    @property
    def vip(self) -> str:
        """Return the address that a client uses."""
        return "10.66.0.100" if self.family == 4 else "fd00:66::100"

    @property
    def other_vip(self) -> str:
        """Return the address of the second instance."""
        return "10.66.1.100"

    def skew_s(self, priority: int) -> float:
        """Return the skew of RFC 3768 and RFC 9568."""
        return (256 - priority) / 256 * (self.advert_s if self.version == 3 else 1.0)

    def down_s(self, priority: int) -> float:
        """Return the master down interval."""
        return 3 * self.advert_s + self.skew_s(priority)

    def configuration(self, host: str, folder: Path) -> str:
        """Return the configuration of a router; `folder` has the file that its script reads."""
        lines = ["global_defs {", "    router_id " + host, "    script_user root", "}"]
        lines += [self.head.replace("FOLDER", str(folder))] if self.head else []
        lines += self._instance(host, "VI_1", VRID, 0)
        if self.second:
            lines += self._instance(host, "VI_2", SECOND_VRID, 1)
            lines += ["vrrp_sync_group G {", "    group {", "        VI_1", "        VI_2", "    }", "}"]
        return "".join(f"{line}\n" for line in lines)

    def _instance(self, host: str, name: str, vrid: int, link: int) -> list[str]:
        words = [
            f"state {'MASTER' if host == 'a' and self.returns and not self.delay_s else 'BACKUP'}",
            f"interface eth{link}",
            f"virtual_router_id {vrid}",
            f"priority {PRIORITY[host]}",
            f"version {self.version}",
            f"advert_int {self.advert_s:g}",
            *self.also.splitlines(),
            *(self.first.splitlines() if host == "a" else ()),
        ]
        if self.unicast:
            peer = "b" if host == "a" else "a"
            words += [f"unicast_src_ip {address(host, link, self.family)}"]
            words += ["unicast_peer {", f"    {address(peer, link, self.family)}", "}"]
        virtual = [self.vip if link == 0 else self.other_vip]
        if self.family == 6:
            virtual = [f"fe80::66:100/64 dev eth{link}" if not self.vmac else "fe80::66:100/64", *virtual]
        words += ["virtual_ipaddress {", *(f"    {each}" for each in virtual), "}"]
        return [f"vrrp_instance {name} {{", *(f"    {word}" for word in words), "}"]


def _script(weight: int) -> str:
    return (
        'vrrp_script chk {\n    script "/usr/bin/test ! -e FOLDER/down"\n    interval 1\n'
        f"    fall 1\n    rise 1\n    weight {weight}\n}}"
    )


_PASS = "authentication {\n    auth_type PASS\n    auth_pass evobot\n}"
_AH = "authentication {\n    auth_type AH\n    auth_pass evobot\n}"
_TRACKED = "track_script {\n    chk\n}"

ROWS = (
    Row("v2"),
    Row("v2, PASS", also=_PASS),
    Row("v2, AH", also=_AH),
    Row("v2, unicast", unicast=True),
    Row("v2, unicast, PASS", unicast=True, also=_PASS),
    Row("v2, vmac", also="use_vmac", vmac=True),
    Row("v3, IPv4", 3, 4, 0.1),
    Row("v3, IPv6", 3, 6, 0.1),
    Row("v3, IPv4, unicast", 3, 4, 0.1, unicast=True),
    Row("v3, IPv6, unicast", 3, 6, 0.1, unicast=True),
    Row("v3, IPv4, vmac", 3, 4, 0.1, also="use_vmac", vmac=True),
    Row("v3, IPv6, vmac", 3, 6, 0.1, also="use_vmac", vmac=True),
    Row("v3, IPv4, vmac, vmac_xmit_base", 3, 4, 0.1, also="use_vmac\nvmac_xmit_base", vmac=True),
    Row("nopreempt", first="nopreempt", returns=False),
    Row("preempt_delay", first=f"preempt_delay {DELAY_S:g}", delay_s=DELAY_S),
    Row("sync group", second=True, event=Event.CABLE),
    Row("tracked script, weight", head=_script(-20), first=_TRACKED, event=Event.SCRIPT),
    Row("tracked script, fault", head=_script(0), first=_TRACKED, event=Event.SCRIPT),
    Row("tracked interface, weight", first="track_interface {\n    eth1 weight -20\n}", event=Event.CABLE),
    Row("tracked interface, fault", first="track_interface {\n    eth1\n}", event=Event.CABLE),
)
