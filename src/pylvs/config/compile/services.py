"""Compile `virtual_server` blocks to services."""

from __future__ import annotations

from pylvs.config.compile.checkers import MAKERS, CheckMaker
from pylvs.config.compile.effective import EffectiveBlock
from pylvs.config.compile.scripts import ScriptRules
from pylvs.config.compile.service_rules import Entries, version_of
from pylvs.config.findings import Findings
from pylvs.config.language.tree import Word
from pylvs.config.schema.forwarding import Forwarding, Granularity
from pylvs.config.schema.reader import Section
from pylvs.config.schema.types import WrittenScript
from pylvs.config.schema.virtual_server import Server
from pylvs.model.checks import Script
from pylvs.model.dataclass import dataclass, field
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.service import Protocol, ServiceFlag, ServiceKey
from pylvs.model.wanted import WantedServer, WantedService

FLAGS = {
    "flag-1": ServiceFlag.SCHED_1,
    "flag-2": ServiceFlag.SCHED_2,
    "flag-3": ServiceFlag.SCHED_3,
    "sh-fallback": ServiceFlag.SCHED_1,
    "sh-port": ServiceFlag.SCHED_2,
    "mh-fallback": ServiceFlag.SCHED_1,
    "mh-port": ServiceFlag.SCHED_2,
    "ops": ServiceFlag.ONE_PACKET,
}


@dataclass(slots=True)
class ServiceMaker:
    """Makes the services of one document, each with keys of its own."""

    findings: Findings
    scripts: ScriptRules
    document: Section
    shared: bool = False  # shared_probes of global_defs
    _taken: dict[ServiceKey, Word] = field(default_factory=dict)

    def make(self, block: EffectiveBlock, entries: Entries) -> WantedService | None:
        """Make the service of a block after the rules are applied; None if all its keys are taken."""
        protocol, version = block.get("protocol", Protocol), version_of(block, entries)
        keys = self._free_keys(entries, protocol, version)
        if not keys:
            return None
        timeout = block.maybe("persistence_timeout", int, 0)
        flags = ServiceFlag.PERSISTENT if timeout else ServiceFlag(0)
        for name, flag in FLAGS.items():
            if block.get(name, bool):
                flags |= flag
        granularity = block.maybe("persistence_granularity", Granularity)
        sorry = block.maybe("sorry_server", Server)
        return WantedService(
            name=entries.name(protocol, version),
            keys=keys,
            scheduler=block.get("lvs_sched", str),
            flags=flags,
            timeout_s=timeout,
            netmask=granularity.netmask if granularity else -1,
            engine=block.get("persistence_engine", str),
            servers=tuple(self._server(each, entries) for each in block.below("real_server")),
            sorry_server=_destination(sorry, block.get("sorry_server_lvs_method", Forwarding)) if sorry else None,
            sorry_server_inhibit=block.get("sorry_server_inhibit", bool),
            quorum=block.get("quorum", int),
            hysteresis=block.get("hysteresis", int),
            quorum_up=self._script(block, "quorum_up"),
            quorum_down=self._script(block, "quorum_down"),
            alpha=block.get("alpha", bool),
            omega=block.get("omega", bool),
            ha_suspend=block.get("ha_suspend", bool),
            smtp_alert=block.get("smtp_alert", bool),
            virtualhost=block.maybe("virtualhost", str, ""),
        )

    def _free_keys(self, entries: Entries, protocol: Protocol, version: int) -> tuple[ServiceKey, ...]:
        """Return the keys that no earlier service has."""
        free = []
        for key, word in entries.keys(protocol, version):
            if key in self._taken:
                text = f"{key} was given already, in line {self._taken[key].location.line}; this one is left out"
                self.findings.error(word.location, text, "remove one of them")
            else:
                self._taken[key] = word
                free.append(key)
        return tuple(free)

    def _server(self, block: EffectiveBlock, entries: Entries) -> WantedServer:
        server = block.head
        assert isinstance(server, Server)
        ports = {each.port for each in entries.ranges}
        maker = CheckMaker(
            self.findings,
            self.scripts,
            self.document,
            server,
            service_port=min(ports) if len(ports) == 1 else 0,
            shared=self.shared,
            has_vip=bool(entries.ranges),
        )
        checks = [maker.make(each) for each in block.below(*MAKERS)]
        for section in block.section.below("BFD_CHECK"):
            maker.bfd(section)
        destination = _destination(
            server,
            block.get("lvs_method", Forwarding),
            block.get("weight", int),
            block.get("uthreshold", int),
            block.get("lthreshold", int),
        )
        return WantedServer(
            destination=destination,
            checks=tuple(check for check in checks if check is not None),
            inhibit_on_failure=block.get("inhibit_on_failure", bool),
            alpha=block.get("alpha", bool),
            notify_up=self._script(block, "notify_up"),
            notify_down=self._script(block, "notify_down"),
            smtp_alert=block.get("smtp_alert", bool),
        )

    def _script(self, block: EffectiveBlock, name: str) -> Script | None:
        return self.scripts.usable(block.maybe(name, WrittenScript))


def _destination(
    server: Server, forwarding: Forwarding, weight: int = 1, upper: int = 0, lower: int = 0
) -> Destination:
    key = DestinationKey(server.address, server.table_port)
    return Destination(key, forwarding.method, weight, upper, lower, forwarding.tunnel)
