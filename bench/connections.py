"""What `ipvsadm -Lnc` costs of a large table of connections: time, and the memory that it takes."""

from __future__ import annotations

from bench.commands import CommandFailed, Size
from bench.large_table import DR, Progress, ready
from bench.rows import Measured


def measure(size: Size, progress: Progress) -> dict[str, Measured]:
    """Return the rows, in seconds and megabytes."""
    listing, memory = Measured(), Measured()
    with ready(DR, size.connections) as table:
        table.make(Measured(), progress)
        for number in range(size.whole):
            progress(f"commands: listing {size.connections:,} connections, {number + 1} of {size.whole}")
            lines, seconds, processor, megabytes = table.list()
            if lines != sum(table.counts()):
                raise CommandFailed(f"connections in ipvsadm -Lnc: {lines}, expected: {sum(table.counts())}")
            listing.samples.append(seconds)
            listing.processor.append(processor)
            memory.samples.append(megabytes)
    return {"list_connections": listing, "list_connections_memory": memory}
