"""`pylvs trace`: show the way of packets through the director, as they come, or of one that is not sent."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Protocol

import click

from pylvs.cli.common import address_and_port, as_json, paint
from pylvs.cli.main import EXIT_INTERRUPTED
from pylvs.daemon.leftovers import entered
from pylvs.daemon.state.directory import StateDirectory
from pylvs.model.errors import PylvsError, counted
from pylvs.model.service import Protocol as Transport
from pylvs.trace import explain, text
from pylvs.trace.decision import comment
from pylvs.trace.filters import compile_filter
from pylvs.trace.packet import TracedPacket
from pylvs.trace.pcapng import PacketFile
from pylvs.trace.session import RATE, SNAP, Counts, open_session
from pylvs.trace.synthetic import ask

SHOWN = 10  # packets, unless --count or --follow is given
_TURN_S = 0.5  # how often counts are read for warnings
_STDOUT = "-"
_PROTOCOLS = {protocol.name.lower(): protocol for protocol in Transport}
_Show = Callable[[TracedPacket], None]


class Session(Protocol):
    """What this command uses of a session."""

    def read(self, timeout_s: float) -> TracedPacket | None:
        """Return the next packet; None if none comes within the timeout."""

    def counts(self) -> Counts:
        """Return what the session counted until now."""


def _say(line: str) -> None:
    click.echo(f"pylvs: {line}", err=True)


def _enter_tables(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Enter the network namespace of a daemon's tables until the command ends. Raises PylvsError."""
    if path is None:
        return
    if not context.with_resource(entered(StateDirectory(path), "tables")):
        raise PylvsError(f"--state-dir {path}: the network namespace of the tables is gone; is pylvs run up?")


@click.command()
@click.argument("filter_words", metavar="[FILTER]...", nargs=-1)
@click.option("--count", type=click.IntRange(1), help=f"Stop after so many packets; default {SHOWN}.")
@click.option("--follow", is_flag=True, help="Do not stop before ctrl-C, or --count or --seconds.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Stop after this time.")
@click.option("--explain", "explained", is_flag=True, help="Show both headers side by side, and say what happened.")
@as_json
@click.option("--pcap", metavar="FILE", help="Write both sides of each packet as pcapng; - is stdout.")
@click.option("--sample", type=click.IntRange(1), default=1, show_default=True, help="Trace one of so many packets.")
@click.option("--rate", type=click.IntRange(1), default=RATE, show_default=True, help="At most so many a second.")
@click.option("--snap", type=click.IntRange(64, 256), default=SNAP, show_default=True, help="Bytes of each frame.")
@click.option("--synthetic", nargs=2, metavar="CLIENT:PORT VIP:PORT", help="Send nothing; show what would happen.")
@click.option("--protocol", type=click.Choice(list(_PROTOCOLS)), help="Of --synthetic; default tcp.")
@click.option("--device", metavar="DEV", help="By which --synthetic comes; default: that towards the client.")
@click.option(
    "--state-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_enter_tables,
    help="The directory of a daemon: trace where its tables are.",
)
def trace(
    filter_words: Sequence[str],
    count: int | None,
    follow: bool,
    seconds: float | None,
    explained: bool,
    as_json: bool,
    pcap: str | None,
    sample: int,
    rate: int,
    snap: int,
    synthetic: tuple[str, str] | None,
    protocol: str | None,
    device: str | None,
) -> int:
    """Show how packets come to this director, which service and server they get and why, and how they leave.

    FILTER is the language of tcpdump (man pcap-filter), "host 192.0.2.5 and tcp port 80" for instance; without it
    every packet matches. Packets that match no service are shown, too. Forwarding continues as without a trace.
    """
    if as_json and explained:
        raise click.UsageError("--json and --explain exclude each other")
    if pcap == _STDOUT and (as_json or explained):
        raise click.UsageError("--pcap - writes packets to stdout, so --json and --explain have no place there")
    shows = _printer(explained, as_json) if pcap != _STDOUT else _silent
    if synthetic:
        if filter_words or follow or count or seconds:
            raise click.UsageError("--synthetic shows one packet: it takes no FILTER, --count, --follow or --seconds")
        _show_synthetic(synthetic, _PROTOCOLS[protocol or "tcp"], device or "", shows, pcap)
        return 0
    if protocol or device:
        raise click.UsageError("--protocol and --device belong to --synthetic; FILTER selects packets")
    given = compile_filter(" ".join(filter_words))
    wanted = count or (None if follow or seconds else SHOWN)
    with ExitStack() as opened:
        session = opened.enter_context(open_session(given, sample=sample, rate=rate, snap=snap))
        show = _with_file(opened, shows, pcap, snap)
        _say(_announcement(given.expression, wanted, seconds))
        counting = _Counted(show)
        try:
            interrupted = _follow(session, counting, wanted, seconds, rate)
        finally:
            counts = session.counts()
            _say(text.ending(counts.matched, counting.shown, counts.limited, counts.lost))
    return EXIT_INTERRUPTED if interrupted and not follow else 0


class _Counted:
    """Shows packets, and counts them."""

    def __init__(self, show: _Show) -> None:
        self._show, self.shown = show, 0

    def __call__(self, packet: TracedPacket) -> None:
        self._show(packet)
        self.shown += 1


def _announcement(expression: str, wanted: int | None, seconds: float | None) -> str:
    what = f"packets that match '{expression}'" if expression else "all packets"
    ends = [counted(wanted, "packet") if wanted else "", f"{seconds:g} s" if seconds else ""]
    after = " or ".join(filter(None, ends))
    return f"tracing {what}; it ends after {after}, or by ctrl-C" if after else f"tracing {what}; ctrl-C ends it"


def _follow(session: Session, show: _Counted, wanted: int | None, seconds: float | None, rate: int) -> bool:
    """Show packets until one of the limits; return whether ctrl-C was the end."""
    try:
        for packet in _packets(session, seconds, partial(_warn, session, _Warnings(rate))):
            show(packet)
            if show.shown == wanted:
                break
    except KeyboardInterrupt:
        return True
    return False


def _packets(session: Session, seconds: float | None, each_turn: Callable[[], None]) -> Iterator[TracedPacket]:
    now = monotonic()
    end, turn = now + seconds if seconds else None, now + _TURN_S
    while end is None or now < end:
        packet = session.read(_TURN_S if end is None else min(_TURN_S, end - now))
        if packet is not None:
            yield packet
        now = monotonic()
        if now >= turn:
            each_turn()
            turn = now + _TURN_S


class _Warnings:
    """Each warning of a trace, once."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._given = set[str]()

    def of(self, counts: Counts) -> Iterator[str]:
        if counts.limited:
            yield from self._once(
                f"more packets than --rate {self._rate} match in a second; others are counted, not shown:"
                " write a narrower FILTER, or use --sample or --rate"
            )
        if counts.lost:
            yield from self._once(
                "packets match faster than they are printed, and some are lost: write a narrower FILTER, or use"
                " --sample or --rate"
            )
        if counts.pauses:
            yield from self._once("this process was stopped for seconds, in which nothing was traced")

    def _once(self, line: str) -> Iterator[str]:
        if line not in self._given:
            self._given.add(line)
            yield f"warning: {line}"


def _warn(session: Session, warnings: _Warnings) -> None:
    for line in warnings.of(session.counts()):
        _say(line)


# --- outputs ---


def _printer(explained: bool, as_json: bool) -> _Show:
    if as_json:
        return _print_json
    return partial(_print_lines, explain.lines if explained else text.lines)


def _print_lines(lines: Callable[[TracedPacket, text.Paint], list[str]], packet: TracedPacket) -> None:
    click.echo("\n".join(lines(packet, paint)))


def _print_json(packet: TracedPacket) -> None:
    click.echo(json.dumps(text.as_values(packet)))


def _silent(packet: TracedPacket) -> None:
    pass


def _with_file(opened: ExitStack, show: _Show, path: str | None, snap: int) -> _Show:
    """Return what shows a packet and writes it to the file, which is replaced."""
    if path is None:
        return show
    file = opened.enter_context(_packet_file(path, snap))

    def both(packet: TracedPacket) -> None:
        with _named(path):
            file.add(packet, comment(packet))
        show(packet)

    return both


@contextmanager
def _packet_file(path: str, snap: int) -> Iterator[PacketFile]:
    if path != _STDOUT:
        with open(path, "wb", buffering=0) as stream:
            with _named(path):
                file = PacketFile(stream, snap)
            yield file
    elif sys.stdout.isatty():
        raise click.UsageError("--pcap - writes binary data: redirect stdout, or name a file")
    else:
        yield PacketFile(sys.stdout.buffer, snap)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Let errors of writing name the file."""
    try:
        yield
    except OSError as error:
        if path == _STDOUT:
            raise
        raise OSError(error.errno, error.strerror, path) from None


# --- a packet that is not sent ---


def _show_synthetic(ends: tuple[str, str], protocol: Transport, device: str, show: _Show, pcap: str | None) -> None:
    (client, client_port), (virtual, virtual_port) = (address_and_port("--synthetic", end) for end in ends)
    with ExitStack() as opened:
        packet = ask(client, client_port, virtual, virtual_port, protocol, device)
        show = _with_file(opened, show, pcap, SNAP)
        _say("nothing is sent; the first packet of this flow would be treated so:")
        show(packet)
