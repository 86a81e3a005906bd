"""AGENT_CHECK: an agent on the server reports its state and weight, in the protocol of HAProxy's agents.

It sends one line. "75%" is a share of the configured weight. "drain" and "maint" take the server out of use until
"ready". "down", "fail" and "stopped", with a description after #, mean failed until "up". A value that a line omits
keeps its last report (HAProxy's configuration manual, "agent-check"). Unlike in HAProxy, an agent that does not reply
is a failed check, because it may be the only check of a server.
"""

from __future__ import annotations

import json
import re

from pylvs.health.checkers.deadline import Deadline
from pylvs.health.checkers.sockets import Endpoint, TcpStream
from pylvs.health.probes import CheckContext, Outcome, Probe, ProbeFailed, quoted
from pylvs.model.checks import AgentCheck
from pylvs.model.service import MAX_WEIGHT

_MAX_LINE = 1024
_SEPARATORS = re.compile(r"[ \t,]+")
_PERCENT = re.compile(r"([0-9]{1,9})%")
_DOWN_KEYWORDS = ("down", "fail", "stopped")


class AgentState:
    """The state and weight that an agent has reported."""

    def __init__(self) -> None:
        self.admin = "ready"  # "ready", "drain" or "maint"
        self.down = ""  # keyword and description while the agent reports a failure
        self.percent: int | None = None
        self.ignored: list[str] = []  # unknown keywords of the last line

    def update(self, line: str) -> None:
        """Apply a line. Raises ProbeFailed if it has no known keyword."""
        report, _, description = line.partition("\r")[0].partition("#")
        keywords = [keyword for keyword in _SEPARATORS.split(report.strip()) if keyword]
        if not keywords:
            raise ProbeFailed("the agent sent an empty line")
        self.ignored = [keyword for keyword in keywords if not self._apply(keyword.lower(), description.strip())]
        harmless = all(keyword.lower().startswith("maxconn:") for keyword in keywords)
        if len(self.ignored) == len(keywords) and not harmless:
            raise ProbeFailed(f"the agent sent {quoted(line.encode())}, which has no known keyword")

    def _apply(self, keyword: str, description: str) -> bool:
        if keyword in ("ready", "drain", "maint"):
            self.admin = keyword
        elif keyword == "up":
            self.down = ""
        elif keyword in _DOWN_KEYWORDS:
            self.down = f"{keyword}: {quoted(description.encode())}" if description else keyword
        elif found := _PERCENT.fullmatch(keyword):
            self.percent = int(found[1])
        else:
            return False
        return True

    def outcome(self, configured: int) -> Outcome:
        """Return the outcome for a server of this configured weight."""
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
    """Return the rounded weight, but not 0 for more than 0%: of weight 1, "75%" must not drain the server."""
    return max((configured * percent + 50) // 100, 1) if configured and percent else 0


def probe(check: AgentCheck, context: CheckContext) -> Probe:
    """Return a probe that keeps the agent's state between calls."""
    return _Agent(check, context.weight)


class _Agent:
    """The agent of one server: a `StatefulProbe`."""

    def __init__(self, check: AgentCheck, configured: int) -> None:
        self._check = check
        self._configured = configured
        self._endpoint = Endpoint(check.target)
        self._state = AgentState()

    async def __call__(self) -> Outcome:
        with await TcpStream.open(self._endpoint, Deadline(self._check.pace.timeout_s)) as stream:
            if self._check.send:
                await stream.send(self._check.send)
            line = await stream.line(_MAX_LINE, "waiting for the agent's report")
        self._state.update(line.decode("ascii", "replace"))
        return self._state.outcome(self._configured)

    def save(self) -> str:
        return json.dumps([self._state.admin, self._state.down, self._state.percent])

    def restore(self, saved: str) -> None:
        self._state.admin, self._state.down, self._state.percent = json.loads(saved)
