"""Where rules come from: a file or stdin in either format, or this host's own, told by the tools themselves."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

from pylvs.model.errors import InvalidOperation, Unsupported
from pylvs.netfilter import iptables, nft
from pylvs.netfilter.chains import Hook

TIMEOUT_S = 30
# by the command: whether it tells of IPv6 alone
_SAVERS: Mapping[tuple[str, ...], bool] = {
    ("iptables-save", "-t", "mangle"): False,
    ("ip6tables-save", "-t", "mangle"): True,
}
_NFT = ("nft", "-j", "list", "ruleset")
_OF_IPTABLES = ("ip mangle ", "ip6 mangle ")  # nft shows iptables-nft's rules, too, but not all that they say


def hooks_of(text: str, six: bool = False) -> list[Hook]:
    """The base chains in a text of either format. Raises InvalidOperation."""
    return nft.hooks(text) if text.lstrip().startswith("{") else iptables.hooks(text, six)


def hooks_of_host() -> tuple[list[Hook], list[str]]:
    """The base chains of this network namespace, and the commands that told of them. Raises Unsupported."""
    found: list[Hook] = []
    asked = []
    for command, six in _SAVERS.items():
        if shutil.which(command[0]):
            asked.append(" ".join(command))
            found += iptables.hooks(_output(command), six, f"{command[0]} ")
    has_iptables = bool(asked)
    if shutil.which(_NFT[0]):
        asked.append(" ".join(_NFT))
        told = nft.hooks(_output(_NFT))
        found += [hook for hook in told if not (has_iptables and hook.name.startswith(_OF_IPTABLES))]
    if not asked:
        raise Unsupported("neither iptables-save nor nft is installed here; name a file with what they print")
    return found, asked


def _output(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise Unsupported(f"{' '.join(command)}: no answer within {TIMEOUT_S} s") from None
    except OSError as error:
        raise Unsupported(f"{' '.join(command)}: {error.strerror}") from None
    if done.returncode:
        words = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise InvalidOperation(f"{' '.join(command)}: {words}")
    return done.stdout
