"""What a guided tour prints and runs."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from pylvs.lab.interrupts import Held
from pylvs.lab.lab import Lab


class Guide:
    """Prints explanations and commands, and runs these."""

    def __init__(self, lab: Lab, console: Console, signals: Held) -> None:
        self.lab = lab
        self.console = console
        self.signals = signals
        self._step = 0

    def step(self, title: str, text: str = "") -> None:
        """The next part of the tour."""
        self.signals.check()
        self._step += 1
        self.console.print()
        self.console.rule(Text(f"{self._step}. {title}", style="bold"), align="left")
        if text:
            self.console.print(Text(text, style="italic"))

    def say(self, host: str, command: str) -> None:
        """Show a command."""
        self.signals.check()
        self.console.print(Text.assemble((f"{host}# ", "cyan"), (command, "bold")), soft_wrap=True)

    def run(self, host: str, command: str) -> str:
        """Show a command, run it, show what it printed. Raises Unsupported if it fails."""
        self.say(host, command)
        said = self.lab.sh(host, command)
        self.console.print(Text(said.rstrip("\n")), soft_wrap=True)
        return said
