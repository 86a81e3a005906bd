"""`pylvs attach`, `detach`, `show`, `watch`, `down` and `sysctl`: what ipvsadm has no options for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any, cast

import click

from pylvs.cli.common import as_json
from pylvs.dataplane.devices import attachments
from pylvs.dataplane.devices.advice import leaves_to_tc, loses_frames
from pylvs.dataplane.devices.modes import ON_REQUEST, Mode
from pylvs.dataplane.director import open_director
from pylvs.dataplane.load import take_down
from pylvs.dataplane.overview import overview
from pylvs.dataplane.state import State
from pylvs.health.handshakes import verdicts
from pylvs.model.addresses import command_to_add
from pylvs.model.errors import Busy, InvalidOperation, NotPermitted, PylvsError, shown
from pylvs.model.rows import Handshakes
from pylvs.model.settings import PERIOD, PREFIX, SETTINGS, known_setting, parse_changes, shown_value
from pylvs.netlink import links
from pylvs.system import lock, unix_http
from pylvs.system.namespaces import network_cookie

# Reasons of packets that need no attention; `pylvs drops` has them.
_ORDINARY = (
    *("no service", "no flow", "not ip", "other host", "tagged", "standby", "reply routed", "reply unsent", "icmp"),
    *("no reply flow", "fragment", "ftp data", "unsupported", "icmp sent", "fragments joined"),
)

# late: each command imports what it runs, so that the others start sooner


@click.command()
@click.argument("device")
@click.option(
    "--mode",
    type=click.Choice(["auto", "native", "generic", "tc"]),
    default="auto",
    show_default=True,
    help="native or generic XDP with TC behind it, TC alone, or what fits the device",
)
@click.option("--force", is_flag=True, help="native XDP also on a veth whose other end loses its frames so far")
def attach(device: str, mode: str, force: bool) -> None:
    """Run the packet path on DEVICE, also if no service needs it, until `pylvs detach` or `pylvs down`."""
    director = open_director()
    found = links.device(device)  # an unknown name must not make tables first
    if mode == "native" and not force and (loss := loses_frames(found)):
        raise InvalidOperation(f"{loss}, or --force")
    with director.batch():
        done = attachments.request(director.tables, device, cast(Mode, mode))
    click.echo(f"{done.device}: {done.mode} ({done.reason})")
    if done.mode in ("native", "generic") and (slow := leaves_to_tc(found)):
        click.echo(f"pylvs: warning: {slow}", err=True)


@click.command()
@click.argument("device")
def detach(device: str) -> None:
    """Take the packet path off DEVICE, and keep it off, also if a service needs it."""
    director = open_director()
    if not director.state.exists:
        raise PylvsError(f"{shown(device)}: nothing is attached in this network namespace")
    with director.batch():
        done = attachments.release(director.tables, device)
    if done and next(iter(director.connections()), None):
        click.echo(
            f"pylvs: {device}: warning: connections are in the table; the next packet of one that comes in by {device}"
            " reaches this host's own stack, which resets the connection",
            err=True,
        )
    click.echo(f"{device}: {'detached' if done else 'nothing was attached; it will stay so'}")


def _described(packets: Mapping[str, Any]) -> str:
    """Return who forwarded packets as text, empty for no packets."""
    if not packets["xdp"] + packets["tc"]:
        return ""
    return f"forwarded {packets['xdp']} at XDP ({packets['xdp_share']:.1%}), {packets['tc']} at TC"


def _overview() -> dict[str, Any]:
    """Return what runs on which device; as a member of the daemon's group, what the daemon replies."""
    try:
        return overview()
    except NotPermitted:
        found: dict[str, Any] = unix_http.read("/v1/show")
        return found


@click.command()
@as_json
def show(as_json: bool) -> None:
    """Show which device runs what, and why, and count dropped packets and other events."""
    found = _overview()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found["tables"]:
        click.echo("no tables in this network namespace: ipvsadm -A makes them")
        return
    use = f"{found['connections']} of {found['conn_max']} ({found['fill']:.1%})"
    use += f", half-open {found['half_open']} ({found['half_open_share']:.1%} of them)"
    click.echo(f"tables: {found['object']}, connections {use}")
    if "move" in found:
        click.echo(found["move"])
    if text := _described(found["forwarded"]):
        click.echo(f"packets: {text}")
    if not found["devices"]:
        click.echo("devices: none attached")
    for device in found["devices"]:
        programs = f"TC {device['tc']}" + (f", XDP {device['xdp']}" if device["xdp"] else "")
        programs += f", TC egress {device['tc_egress']}" if device["tc_egress"] else ""
        counted = _described(device["forwarded"])
        check = f"; rp_filter: {device['rp_filter']}" if device["rp_filter"] else ""
        click.echo(
            f"{device['device']}: {device['mode']} [{programs}]: {device['reason']}{check}{counted and f'; {counted}'}"
        )
    if not found["services"] and any(
        each["mode"] == "native" and each["reason"] != ON_REQUEST for each in found["devices"]
    ):
        click.echo("no services: native XDP stays for a minute, then the next edit detaches it; pylvs down does so now")
    _print_problems(found)
    for role, meaning in (("master", "served here"), ("standby", "another director's: packets to it pass unmodified")):
        for address in found[role]:
            click.echo(f"{address}: {role} ({meaning})")
    for name, count in sorted(found["reasons"].items()):
        if name not in _ORDINARY:
            click.echo(f"{count:>12}  {name}")


def _print_problems(found: Mapping[str, Any]) -> None:
    """Print why packets are not received or not forwarded."""
    for device in found["unattached"]:
        remark = "" if device["needed"] else " (no service or real server needs it)"
        click.echo(f"{device['device']}: not attached{remark}: {device['reason']}")
    for setting in found["not_forwarding"]:
        click.echo(f"{setting} is 0, so packets are not forwarded: sysctl -w {setting}=1, or any edit, sets it to 1")
    for setting in found["not_routing"]:
        click.echo(f"{setting} is 0, so replies of NAT are not forwarded: sysctl -w {setting}=1")
    for neighbour in found["unresolved"]:
        gateway = "" if neighbour["next_hop"] == neighbour["address"] else f"its gateway {neighbour['next_hop']} "
        text = f"{gateway}does not answer on {neighbour['device']}: is the address right, and the host up?"
        click.echo(f"{neighbour['address']}: {text}")
    for line in _silent_servers(found.get("handshakes", ())):
        click.echo(line)
    for vip in found["absent"]:
        remedy = command_to_add(ip_address(vip["address"]), vip["device"])
        click.echo(f"{vip['address']}: no device has it, so no packets to it come here: {remedy}")


def _silent_servers(counted: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each destination that completes far fewer handshakes than the others of its service."""
    services: dict[str, dict[str, Handshakes]] = {}
    for row in counted:
        services.setdefault(row["service"], {})[row["server"]] = Handshakes(row["begun"], row["completed"])
    for service, servers in services.items():
        for server, text in verdicts(servers).low.items():
            yield f"{server} of {service}: since it was added, {text}"


@click.command()
def watch() -> None:
    """Attach the packet path to devices that come, are made again, or lost it, until interrupted.

    It also follows changed routes to real servers. For a machine without pylvs run, which does the same. Without
    either, the next edit of the table does it for its devices, and the next edit of a real server for its route.
    """
    from pylvs.dataplane.watch import watch as watch_devices

    watch_devices(open_director(), lambda line: click.echo(f"pylvs: {line}", err=True))


@click.command()
@click.option("--force", is_flag=True, help="also while pylvs run lives, which makes the tables again")
def down(force: bool) -> None:
    """Detach everything and remove the tables of this network namespace. All connections end, and the sync daemons."""
    from pylvs.daemon import gone_namespaces
    from pylvs.sync import control

    state = State.open()
    daemons = _daemons()
    if daemons and not force:
        process, command = daemons[0]
        raise Busy(f"pylvs run, process {process}, would make the tables again: end it with {command}, or add --force")
    gone_namespaces.collect()
    there = state.exists
    for role in control.stop_all():  # before the tables: a master sends its last messages
        click.echo(f"the {role} sync daemon is stopped")
    gone = take_down(state)
    if not there:
        click.echo("there are no tables in this network namespace")
    else:
        click.echo(f"down; detached: {', '.join(gone) or 'nothing was attached'}")
    for process, command in daemons:
        click.echo(f"pylvs: pylvs run, process {process}, makes the tables again; {command} ends it", err=True)


def _daemons() -> list[tuple[int, str]]:
    """Return the daemons whose tables are in this network namespace: the process, and the command that ends it."""
    from pylvs.daemon.state.directory import daemons_of, selection

    return [
        (process, f"pylvs stop {selection(state, process)}".rstrip())
        for state in daemons_of(network_cookie())
        if (process := lock.holder(state.pid_path))
    ]


@click.command(context_settings={"ignore_unknown_options": False})
@click.option("-a", "every", is_flag=True, help="print all settings")
@click.option("-w", "write", is_flag=True, help="set: NAME=VALUE")
@click.option("--drop", is_flag=True, help="with a smaller conn_max: end the connections that do not fit")
@click.argument("words", nargs=-1)
def sysctl(every: bool, write: bool, drop: bool, words: tuple[str, ...]) -> None:
    """Read (NAME...), list (-a) or set (-w NAME=VALUE...) the net.ipv4.vs settings."""
    if not every and not words:
        raise click.UsageError("name a setting, or -a for all")
    if every and words:
        raise click.UsageError(f"-a lists all settings; leave it out, or {' '.join(words)}")
    if write or any("=" in word for word in words):
        changes = [parse_changes(word) for word in words]
        if drop and not any(setting.name == "conn_max" for each in changes for setting, _ in each):
            raise InvalidOperation("--drop applies to net.ipv4.vs.conn_max alone")
        director = open_director()
        before = director.settings()
        for word in words:
            parse_changes(word, before)
        for of_one in changes:
            for setting, value in of_one:
                director.change_setting(setting.name, value, drop)
            now = dict(before) | {setting.name: value for setting, value in of_one}
            click.echo(f"{PREFIX}{of_one[0][0].name} = {shown_value(of_one[0][0].name, now)}")
        return
    every_setting = [setting for setting in SETTINGS.values() if setting.name != PERIOD]
    wanted = every_setting if every else [known_setting(word) for word in words]
    current = open_director().settings()
    for setting in wanted:
        click.echo(f"{PREFIX}{setting.name} = {shown_value(setting.name, current)}")
