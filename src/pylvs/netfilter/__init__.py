"""Import the firewall marks that rules of iptables and nftables set, and rules of INPUT for virtual addresses.

The rules come from a file or stdin in either format, or from iptables-save and nft.
"""

from __future__ import annotations

import shutil
import subprocess

from pylvs.model.errors import InvalidOperation, Unsupported
from pylvs.netfilter import iptables, nft
from pylvs.netfilter.chains import MARKS, Hook, Position

TIMEOUT_S = 30
_NFT = ("nft", "-j", "list", "ruleset")
_FAMILIES = ("ip", "ip6")  # of iptables' tables: nft lists the rules of iptables-nft, too, but not completely


def hooks_of(text: str, six: bool = False, position: Position = MARKS) -> list[Hook]:
    """Return the base chains in a text of either format. Raises InvalidOperation, also if it has no table.

    An empty text is rather the output of a command that failed than that of a host without rules.
    """
    is_json = text.lstrip().startswith("{")
    found = nft.hooks(text, position) if is_json else iptables.hooks(text, six, position=position)
    if not (nft.has_tables(text) if is_json else iptables.has_tables(text)):
        raise InvalidOperation(f"it has no table of netfilter; {position.command} del --all deletes the rules")
    return found


def hooks_of_host(position: Position = MARKS) -> tuple[list[Hook], list[str]]:
    """Return the base chains of this network namespace, and the commands that listed them. Raises Unsupported."""
    found: list[Hook] = []
    commands = []
    of_iptables = tuple(f"{family} {position.table} " for family in _FAMILIES)
    for tool, six in (("iptables-save", False), ("ip6tables-save", True)):
        if shutil.which(tool):
            commands.append(f"{tool} -t {position.table}")
            found += iptables.hooks(_output((tool, "-t", position.table)), six, f"{tool} ", position)
    has_iptables = bool(commands)
    if shutil.which(_NFT[0]):
        commands.append(" ".join(_NFT))
        listed = nft.hooks(_output(_NFT), position)
        found += [hook for hook in listed if not (has_iptables and hook.name.startswith(of_iptables))]
    if not commands:
        raise Unsupported("neither iptables-save nor nft is installed here; name a file with what they print")
    return found, commands


def _output(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(  # comments may have any bytes, in every locale
            command,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unsupported(f"{' '.join(command)}: no answer within {TIMEOUT_S} s") from None
    except OSError as error:
        raise Unsupported(f"{' '.join(command)}: {error.strerror}") from None
    if done.returncode:
        words = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise InvalidOperation(f"{' '.join(command)}: {words}")
    return done.stdout
