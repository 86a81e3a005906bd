"""Check which scripts may run, by keepalived's rules, and compile the FIFOs with their readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pylvs.config.compile.effective import EffectiveBlock
from pylvs.config.language.tree import Finding, Findings, Location, Severity
from pylvs.config.schema.types import OPENS, Written
from pylvs.model.checks import Script
from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.errors import PylvsError
from pylvs.model.vrrp import Fifo
from pylvs.system.processes.accounts import (
    SCRIPT_USER,
    Account,
    account,
    insecurities,
    located,
    script_account,
    unusable,
)

SHARED_FIFO = "notify_fifo"  # receives every event
FIFO_NAMES = (SHARED_FIFO, "vrrp_notify_fifo", "lvs_notify_fifo")


@dataclass(slots=True)
class ScriptRules:
    """Checks scripts; looks up each user, and each program of a user, once."""

    findings: Findings
    secure: bool  # enable_script_security
    user: str  # script_user
    group: str
    _accounts: dict[tuple[str, str], Account | str] = field(default_factory=dict)
    _checked: dict[tuple[str, Account], tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    _warned: bool = False

    @classmethod
    def of_document(cls, settings: EffectiveBlock) -> ScriptRules:
        """Make the rules of global_defs; report a script_user that this machine does not have."""
        user, group = settings.maybe("script_user", tuple, ("", ""))
        rules = cls(settings.findings, settings.get("enable_script_security", bool), user, group)
        found = rules._account(Script(())) if user else None
        if isinstance(found, str):
            settings.error("script_user", found, "name a user that this machine has")
        return rules

    def of(self, block: EffectiveBlock, name: str, effect: str = "") -> Script | None:
        """Return the script of a keyword as it will run, as the block's `user`; None, and a finding, if it must not.

        `effect` is what a check or a virtual router then lacks. With it, a missing program is an error. Without it, a
        missing program is a note: only a notification is lost, and the target machine may have the program.
        """
        user, group = block.maybe("user", tuple, ("", "")) if block.block.find("user") else ("", "")
        return self.usable(block.maybe(name, Written), user, group, effect)

    def usable(
        self, written: Written[Script] | None, user: str = "", group: str = "", effect: str = ""
    ) -> Script | None:
        """Return the script as it will run; None, and a finding, if it must not run."""
        if written is None:
            return None
        script = written.value if not user else replace(written.value, user=user, group=group)
        location = written.word.location
        account = self._account(script)
        if isinstance(account, str):
            text = f"{script.arguments[0]} is not run: {account}{effect}"
            self.findings.error(location, text, "name a user that this machine has")
            return None
        if OPENS.match(written.word.text):
            return script  # the shell opens a file or a port, and runs nothing
        path = located(script.arguments[0])
        if (path, account) not in self._checked:
            found = insecurities(path, account.uid) if "/" in path else ()
            self._checked[path, account] = unusable(path, account), found
        problem, insecure = self._checked[path, account]
        if problem:
            self._report_unusable(path, problem, location, effect)
            return None
        return script if self._is_secure(path, insecure, location) else None

    def _account(self, script: Script) -> Account | str:
        """Return the account that the script runs as, or the reason why there is none."""
        key = script.user or self.user, script.group if script.user else self.group
        if key not in self._accounts:
            try:
                self._accounts[key] = account(*key) if key[0] else self._default_account()
            except PylvsError as error:
                self._accounts[key] = str(error)
        return self._accounts[key]

    def _default_account(self) -> Account | str:
        """Return the account of scripts without a user; with script security, only the dedicated one."""
        found = script_account()
        if self.secure and found.name != SCRIPT_USER:
            return f"with enable_script_security it needs a script_user, or a user {SCRIPT_USER} on this machine"
        return found

    def _report_unusable(self, path: str, why: str, location: Location, effect: str) -> None:
        """Report an unusable program."""
        there = why.startswith("not ")
        severity = Severity.ERROR if there or effect else Severity.NOTE
        advice = "make it a program that this user may execute" if there else "install it before pylvs starts"
        self.findings.add(Finding(location, severity, f"{path} is not run: {why}{effect}", advice))

    def _is_secure(self, path: str, insecure: tuple[str, ...], location: Location) -> bool:
        """Return whether a script is secure enough to run; report insecurities, and once if security is off."""
        for problem in insecure:
            severity = Severity.ERROR if self.secure else Severity.WARNING
            effect = "is not run" if self.secure else "runs as root, and others than root can change it"
            advice = "make every part of its path writable by root alone"
            self.findings.add(Finding(location, severity, f"{path} {effect}: {problem}", advice, security=True))
        if not self.secure and not self._warned:
            self._warned = True
            text = "scripts run, and enable_script_security is not set"
            advice = "write enable_script_security and script_user into global_defs"
            self.findings.add(Finding(location, Severity.WARNING, text, advice, security=True))
        return not (insecure and self.secure)


def fifos_of(settings: EffectiveBlock, scripts: ScriptRules, names: Sequence[str]) -> Iterator[Fifo]:
    """Yield the FIFOs of these names; report readers without a FIFO and paths that are used twice."""
    for name in names:
        fifo = settings.maybe(name, Fifo)
        reader = settings.maybe(f"{name}_script", Written)
        if fifo is None:
            if reader is not None:
                settings.error(f"{name}_script", f"without {name} there is nothing to read", f"add {name}")
            continue
        if taken := _taken(settings, name, fifo):
            settings.error(name, f"{fifo.path} is {taken} already", "give each pipe a name of its own")
            continue
        yield replace(fifo, reader=scripts.usable(reader), services=name == SHARED_FIFO)


def _taken(settings: EffectiveBlock, name: str, fifo: Fifo) -> str:
    """Return the earlier keyword that names the same path; "" if none does."""
    earlier = FIFO_NAMES[: FIFO_NAMES.index(name)]
    return next((each for each in earlier if (other := settings.maybe(each, Fifo)) and other.path == fifo.path), "")
