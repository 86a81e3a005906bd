"""All blocks about virtual routers, in the order of the text, to one `VrrpConfiguration`."""

from __future__ import annotations

from collections.abc import Mapping

from pylvs.config.effective import EffectiveBlock
from pylvs.config.findings import Findings
from pylvs.config.schema.vrrp_types import Named
from pylvs.config.script_rules import ScriptRules
from pylvs.config.tree import Word
from pylvs.config.vrrp import fixed, watched
from pylvs.config.vrrp.conflicts import without_conflicts
from pylvs.config.vrrp.groups import GroupOfInstance, group_of
from pylvs.config.vrrp.instances import CompiledInstance, InstanceMaker
from pylvs.config.vrrp.known import Symbols
from pylvs.config.vrrp.rules import RulePreferences
from pylvs.model.dataclass import dataclass, field
from pylvs.model.routing import HeldAddress, Route, RoutingRule
from pylvs.model.vrrp import VrrpConfiguration, VrrpGroup

DEFINITIONS = ("vrrp_script", "track_file", "vrrp_track_process")


def vrrp_of(
    root: EffectiveBlock, scripts: ScriptRules, findings: Findings, mtus: Mapping[str, int]
) -> VrrpConfiguration:
    """The virtual routers of a document. `mtus` are those of this machine's devices.

    Blocks that are left out leave the effective configuration too; whatever is wrong is a finding.
    """
    settings = next(root.below("global_defs"))
    known = Symbols(findings, mtus, settings.maybe("dynamic_interfaces", bool) or False)
    known.later = {f"{each.block.name} {_name(each)}": each.word for each in root.below(*DEFINITIONS)}
    _missing_devices(root, known)
    preferences = RulePreferences(findings)
    return _VrrpCompiler(root, settings, scripts, known, preferences).build()


@dataclass(slots=True)
class _VrrpCompiler:
    """What has been made so far."""

    root: EffectiveBlock
    settings: EffectiveBlock
    scripts: ScriptRules
    known: Symbols
    preferences: RulePreferences
    made: list[CompiledInstance] = field(default_factory=list)
    groups: dict[str, EffectiveBlock] = field(default_factory=dict)
    track_groups: fixed.TrackGroups = field(default_factory=dict)
    addresses: list[HeldAddress] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    rules: list[RoutingRule] = field(default_factory=list)

    def build(self) -> VrrpConfiguration:
        """Everything in the order of the text, then what concerns several virtual routers."""
        maker = InstanceMaker(self.known, self.scripts, self.settings, self.preferences)
        for block in list(self.root.blocks):
            self._block(block, maker)
        kept = {each.instance.name: each for each in without_conflicts(self.made, self.known.findings)}
        taken: GroupOfInstance = {}
        groups: list[VrrpGroup] = []
        for block in self.groups.values():
            group = group_of(block, kept, taken, self.known, self.scripts)
            if group is None:
                self.root.leave_out(block)
            else:
                groups.append(group)
        for each in self.made:
            if each.instance.name not in kept:
                self.root.leave_out(each.block)
        return VrrpConfiguration(
            instances=tuple(each.instance for each in kept.values()),
            groups=tuple(groups),
            scripts=tuple(self.known.scripts.values()),
            files=tuple(self.known.files.values()),
            processes=tuple(self.known.processes.values()),
            addresses=tuple(self.addresses),
            routes=tuple(self.routes),
            rules=tuple(self.rules),
            track_groups=tuple(fixed.members_of(self.track_groups, kept, self.known.findings)),
            settings=fixed.vrrp_settings_of(self.root, self.settings, self.scripts, self.known),
        )

    def _block(self, block: EffectiveBlock, maker: InstanceMaker) -> None:
        findings = self.known.findings
        match block.block.name:
            case "vrrp_script":
                watched.define_script(block, self.scripts, self.known)
            case "track_file":
                watched.define_file(block, self.known)
            case "vrrp_track_process":
                watched.define_process(block, self.known)
            case "track_group":
                fixed.track_group_of(block, self.track_groups, findings)
            case "static_ipaddress":
                self.addresses += fixed.addresses_of(block, self.track_groups, self.settings, self.known)
            case "static_routes":
                self.routes += fixed.routes_of(block, self.track_groups, findings)
            case "static_rules":
                fixed.check_rule_groups(block, self.track_groups, findings)
                self.rules += self.preferences.of_lines(block)
            case "vrrp_instance":
                self._instance(block, maker)
            case "vrrp_sync_group":
                self._group(block)

    def _instance(self, block: EffectiveBlock, maker: InstanceMaker) -> None:
        if self._taken(block, {each.instance.name for each in self.made}):
            return
        made = maker.make(block)
        if made is None:
            self.root.leave_out(block)
        else:
            self.made.append(made)

    def _group(self, block: EffectiveBlock) -> None:
        if not self._taken(block, set(self.groups)):
            self.groups[_name(block)] = block

    def _taken(self, block: EffectiveBlock, names: set[str]) -> bool:
        """Whether an earlier block has the name; then this one is left out."""
        assert isinstance(block.head, Named)
        if block.head.name not in names:
            return False
        text = f"the name '{block.head.name}' is taken; this {block.block.name} is left out"
        self.known.findings.error(block.head.word.place, text, "give it another name")
        self.root.leave_out(block)
        return True


def _name(block: EffectiveBlock) -> str:
    assert isinstance(block.head, Named)
    return block.head.name


def _missing_devices(root: EffectiveBlock, known: Symbols) -> None:
    """A finding for each device that a line names and this machine has not got."""
    for block in root.walk():
        for setting in block.section.settings:
            if setting.keyword is None or setting.keyword.name != "default_interface":
                for word in getattr(setting.value, "devices", ()):
                    assert isinstance(word, Word)
                    known.device(word)
