"""Which scripts of a configuration may run, by keepalived's rules, and what is wrong with the others."""

from __future__ import annotations

from dataclasses import replace

from pylvs.config.findings import Finding, Findings, Place, Severity
from pylvs.config.schema.scripts import OPENS, WrittenScript
from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import PylvsError
from pylvs.model.scripts import Script
from pylvs.system.processes.accounts import (
    SCRIPT_USER,
    Account,
    account,
    insecurities,
    located,
    script_account,
    unusable,
)


@dataclass(slots=True)
class ScriptRules:
    """Judges one script after the other; what it says of the machine is asked once for each program and user."""

    findings: Findings
    secure: bool = False  # enable_script_security
    user: str = ""  # script_user
    group: str = ""
    _accounts: dict[tuple[str, str], Account | str] = field(default_factory=dict)
    _judged: dict[tuple[str, Account], tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    _warned: bool = False

    def usable(self, written: WrittenScript | None, user: str = "", group: str = "") -> Script | None:
        """The script as it will run; None if there is none, or if it must not run, which is a finding then."""
        if written is None:
            return None
        script = written.script if not user else replace(written.script, user=user, group=group)
        place = written.word.place
        who = self._account(script)
        if isinstance(who, str):
            self.findings.error(place, f"{script.arguments[0]} is not run: {who}", "name a user that this machine has")
            return None
        if OPENS.match(written.word.text):
            return script  # the shell opens a file or a port, and runs nothing
        path = located(script.arguments[0])
        if (path, who) not in self._judged:
            self._judged[path, who] = unusable(path, who), insecurities(path, who.uid) if "/" in path else ()
        unfit, unsafe = self._judged[path, who]
        if unfit:
            self._unfit(path, unfit, place)
            return None
        return script if self._safe(path, unsafe, place) else None

    def check_user(self, place: Place) -> None:
        """Complain of a script_user that this machine has not."""
        who = self._account(Script((), self.user, self.group))
        if isinstance(who, str):
            self.findings.error(place, who, "name a user that this machine has")

    def _account(self, script: Script) -> Account | str:
        """Whom the script runs as, or why it cannot."""
        key = script.user or self.user, script.group if script.user else self.group
        if key not in self._accounts:
            try:
                self._accounts[key] = account(*key) if key[0] else self._nobodys()
            except PylvsError as error:
                self._accounts[key] = str(error)
        return self._accounts[key]

    def _nobodys(self) -> Account | str:
        """Whom scripts run as that name nobody: with script security never the one who runs pylvs."""
        found = script_account()
        if self.secure and found.name != SCRIPT_USER:
            return f"with enable_script_security it needs a script_user, or a user {SCRIPT_USER} on this machine"
        return found

    def _unfit(self, path: str, why: str, place: Place) -> None:
        """A program that is not there may be there on the machine that the file is for."""
        there = why.startswith("not ")
        severity = Severity.ERROR if there else Severity.NOTE
        advice = "make it a program that this user may execute" if there else "install it before pylvs starts"
        self.findings.add(Finding(place, severity, f"{path} is not run: {why}", advice))

    def _safe(self, path: str, unsafe: tuple[str, ...], place: Place) -> bool:
        """Complain of what others than root may change, and once if nobody asked to look."""
        for each in unsafe:
            severity = Severity.ERROR if self.secure else Severity.WARNING
            effect = "is not run" if self.secure else "runs as root, and others than root can change it"
            advice = "make every part of its path writable by root alone"
            self.findings.add(Finding(place, severity, f"{path} {effect}: {each}", advice, security=True))
        if not self.secure and not self._warned:
            self._warned = True
            text = "scripts run, and enable_script_security is not set"
            advice = "write enable_script_security and script_user into global_defs"
            self.findings.add(Finding(place, Severity.WARNING, text, advice, security=True))
        return not (unsafe and self.secure)
