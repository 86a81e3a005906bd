"""The named pipes of `global_defs`, and who reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pylvs.config.effective import EffectiveBlock
from pylvs.config.findings import Findings
from pylvs.config.schema.scripts import WrittenScript
from pylvs.config.script_rules import ScriptRules
from pylvs.model.vrrp import Fifo

SHARED_FIFO = "notify_fifo"  # is told of everything
FIFO_NAMES = (SHARED_FIFO, "vrrp_notify_fifo", "lvs_notify_fifo")


def fifos_of(
    settings: EffectiveBlock, scripts: ScriptRules, findings: Findings, names: Sequence[str]
) -> Iterator[Fifo]:
    """Those of these names; a reader without a pipe reads nothing, and no pipe has two names."""
    for name in names:
        fifo = settings.maybe(name, Fifo)
        reader = settings.maybe(f"{name}_script", WrittenScript)
        if fifo is None:
            if reader is not None:
                place = settings.place(f"{name}_script")
                findings.error(place, f"without {name} there is nothing to read", f"add {name}")
            continue
        if taken := _taken(settings, name, fifo):
            findings.error(settings.place(name), f"{fifo.path} is {taken} already", "give each pipe a name of its own")
            continue
        yield replace(fifo, reader=scripts.usable(reader), services=name == SHARED_FIFO)


def _taken(settings: EffectiveBlock, name: str, fifo: Fifo) -> str:
    for earlier in FIFO_NAMES[: FIFO_NAMES.index(name)]:
        other = settings.maybe(earlier, Fifo)
        if other is not None and other.path == fifo.path:
            return earlier
    return ""
