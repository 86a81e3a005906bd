"""`pylvs top`: the live console."""

from __future__ import annotations

from pathlib import Path

import click

from pylvs.cli.common import state_dir


@click.command()
@state_dir
def top(state_dir: Path | None) -> None:
    """Show services and servers live: rates, connections, checks, drops, events and problems.

    From it: drain, enable and weight of a server. Without pylvs run it shows the table alone. Key ? has all keys.
    """
    from pylvs.top import start  # late: its modules are needed by this command alone

    start.start(state_dir)
