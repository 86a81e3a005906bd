"""The kernel's counters of this network namespace: /proc/net/netstat and /proc/net/snmp, as nstat(8) names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pylvs.doctor.facts import Facts

_FILES = (Path("/proc/net/snmp"), Path("/proc/net/netstat"))


def counts(facts: Facts) -> Mapping[str, int]:
    """Return the counters at the first call."""
    return facts.once("counters", counters)


def counters() -> Mapping[str, int]:
    """Return the counters by name, as IpInAddrErrors or TcpExtIPReversePathFilter."""
    found = dict[str, int]()
    for path in _FILES:
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for names, values in zip(lines[::2], lines[1::2], strict=False):
            prefix, *words = names.split()
            numbers = values.split()[1:]
            group = prefix.rstrip(":")
            found |= {f"{group}{name}": int(number) for name, number in zip(words, numbers, strict=False)}
    return found
