"""What an instance or a group may refer to: this machine's devices, and what was defined further up in the text."""

from __future__ import annotations

from collections.abc import Mapping

from pylvs.config.findings import Findings
from pylvs.config.tree import Word
from pylvs.model.dataclass import dataclass, field
from pylvs.model.vrrp import TrackFile, TrackProcess, VrrpScript

ETHERNET_MTU = 1500


@dataclass(slots=True)
class Symbols:
    """Definitions in the order of the text: keepalived does not look ahead."""

    findings: Findings
    mtus: Mapping[str, int]  # of this machine's devices
    dynamic_interfaces: bool = False
    scripts: dict[str, VrrpScript] = field(default_factory=dict)
    files: dict[str, TrackFile] = field(default_factory=dict)
    processes: dict[str, TrackProcess] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)  # scripts that a finding says of that they are not run
    later: dict[str, Word] = field(default_factory=dict)  # every definition of the text, by "vrrp_script NAME"

    def device(self, word: Word) -> bool:
        """Whether this machine has the device; a finding if not, unless devices may come later."""
        if word.text in self.mtus or self.dynamic_interfaces:
            return True
        self.findings.warning(
            word.place,
            f"this machine has no device '{word.text}'",
            "create it, correct its name, or write dynamic_interfaces into global_defs",
        )
        return False

    def undefined(self, kind: str, word: Word) -> None:
        """A finding: there is no such definition, or only further down."""
        where = self.later.get(f"{kind} {word.text}")
        if where is None:
            self.findings.error(word.place, f"there is no {kind} '{word.text}', so it is not watched", "define it")
        else:
            line = f"line {where.place.line}" if where.place.file == word.place.file else str(where.place)
            self.findings.error(
                word.place,
                f"{kind} '{word.text}' is defined only in {line}, so it is not watched",
                f"move the {kind} before this block",
            )

    def mtu(self, device: str) -> int:
        """A device's MTU; Ethernet's for one that is not there."""
        return self.mtus.get(device, ETHERNET_MTU)
