"""AGENT_CHECK: the server itself says how much it can take, in the protocol of HAProxy's agents.

One line of words. "75%" is a share of the configured weight; "drain" and "maint" take the server out of use until
"ready"; "down", "fail" and "stopped", with a description after #, say that it does not work until "up". What an answer
does not mention stays as it was said last (HAProxy's configuration manual, "agent-check"). Unlike there, an agent that
cannot be asked is a failed check, as of every other checker: it may be the only one that a server has.
"""

from __future__ import annotations

import re

from pylvs.health.checkers.registry import CheckContext
from pylvs.health.checkers.sockets import Deadline, Endpoint
from pylvs.health.checkers.tcp_stream import TcpStream
from pylvs.health.outcome import Outcome, Probe, ProbeFailed, quoted
from pylvs.model.checks import AgentCheck
from pylvs.model.destination import MAX_WEIGHT

_LONGEST_LINE = 1024
_SEPARATORS = re.compile(r"[ \t,]+")
_PERCENT = re.compile(r"([0-9]{1,9})%")
_DOWN_WORDS = ("down", "fail", "stopped")


class AgentState:
    """All that an agent has said so far."""

    def __init__(self) -> None:
        self.admin = "ready"  # or drain, maint
        self.down = ""  # in its own words
        self.percent: int | None = None
        self.ignored: list[str] = []  # words of the last answer

    def hear(self, line: str) -> None:
        """Take an answer in. Raises CheckFailed for one that says nothing."""
        said, _, description = line.partition("\r")[0].partition("#")
        words = [word for word in _SEPARATORS.split(said.strip()) if word]
        if not words:
            raise ProbeFailed("the agent said nothing")
        self.ignored = [word for word in words if not self._take(word.lower(), description.strip())]
        if len(self.ignored) == len(words) and not all(word.lower().startswith("maxconn:") for word in words):
            raise ProbeFailed(f"the agent said {quoted(line.encode())}, which is none of its words")

    def _take(self, word: str, description: str) -> bool:
        if word in ("ready", "drain", "maint"):
            self.admin = word
        elif word == "up":
            self.down = ""
        elif word in _DOWN_WORDS:
            self.down = f"{word}: {quoted(description.encode())}" if description else word
        elif found := _PERCENT.fullmatch(word):
            self.percent = int(found[1])
        else:
            return False
        return True

    def outcome(self, configured: int) -> Outcome:
        """What it comes to for a server of this configured weight."""
        note = f" (ignored: {quoted(' '.join(self.ignored).encode())})" if self.ignored else ""
        if self.down:
            return Outcome(False, f"the agent says {self.down}{note}")
        if self.admin == "maint":
            return Outcome(False, f"the agent says maint{note}")
        if self.admin == "drain":
            return Outcome(True, f"the agent says drain{note}", 0)
        if self.percent is None:
            return Outcome(True, f"the agent says up{note}")
        weight = min(_share(configured, self.percent), MAX_WEIGHT)
        return Outcome(True, f"the agent says {self.percent}%: weight {weight}{note}", weight)


def _share(configured: int, percent: int) -> int:
    """Rounded, but not down to nothing: of weight 1, "75%" must not be a drain."""
    return max((configured * percent + 50) // 100, 1) if configured and percent else 0


def probe(check: AgentCheck, context: CheckContext) -> Probe:
    """Asks, and remembers what was said."""
    endpoint = Endpoint(check.target)
    standing = AgentState()

    async def ask() -> Outcome:
        try:
            with await TcpStream.open(endpoint, Deadline(check.pace.timeout_s)) as conversation:
                if check.send:
                    await conversation.send(check.send)
                line = await conversation.line(_LONGEST_LINE, "waiting for the agent's words")
            standing.hear(line.decode("ascii", "replace"))
        except ProbeFailed as error:
            return error.outcome()
        return standing.outcome(context.weight)

    return ask
