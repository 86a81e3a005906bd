"""`pylvs peer`: the other director of a pair, a copy of its connections at once, and the key of both."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from pylvs.cli.common import as_json, asked, print_json, state_dir
from pylvs.model.errors import InvalidOperation, PylvsError, counted
from pylvs.peer import MAKE

NONE = "there is no peer_director in the configuration"


@click.group()
def peer() -> None:
    """The other director: its connections and configuration; a copy at once; the key of both."""


@peer.command()
@as_json
@state_dir
def status(as_json: bool, state_dir: Path | None) -> None:
    """Show how far each director is behind the other, and what is not the same on both."""
    found = asked(state_dir, "GET", "/v1/status")["peer"]
    if found is None:
        raise InvalidOperation(NONE)
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(lines(found)))


@peer.command()
@state_dir
def copy(state_dir: Path | None) -> None:
    """Copy all connections of the other director again. What this director knows better stays."""
    reply = asked(state_dir, "POST", "/v1/peer/copy")
    click.echo(f"all connections of {reply['address']} are copied: pylvs peer status")


@peer.command()
@click.argument("file", type=click.Path(path_type=Path))
def key(file: Path) -> None:
    """Make the key of a pair of directors in FILE, for peer_key_file. Copy FILE to the other director.

    It needs the program openssl. A host that has FILE can read and make connections of both directors.
    """
    if file.exists():
        raise InvalidOperation(f"{file}: exists; both directors need the same key: copy that, or remove it")
    mask = os.umask(0o077)
    try:
        subprocess.run(MAKE.format(path=file).split(), check=True, capture_output=True)
    except FileNotFoundError:
        raise PylvsError("openssl is not installed; on Debian: apt install openssl") from None
    except subprocess.CalledProcessError as error:
        text = error.stderr.decode(errors="replace").strip().splitlines() or ["it failed"]
        raise PylvsError(f"openssl: {text[0]}") from None
    finally:
        os.umask(mask)
    click.echo(f"{file}: copy it to the other director, readable for root alone")


def lines(peer: Mapping[str, Any]) -> Iterator[str]:
    """Return the lines for a terminal."""
    name = f"{peer['name']} ({peer['address']})" if peer["name"] else peer["address"]
    version = f", pylvs {peer['version']}" if peer["version"] else ""
    yield f"other director: {name}{version}: {_here(peer)}"
    for each in peer["unknown"]:
        yield f"  {counted(each['connections'], 'connection')} of {each['server']} there, which this director lacks"
    if peer["refused_full"]:
        yield f"  {counted(peer['refused_full'], 'connection')} found no space in this table"
    for reason, count in peer["refused"].items():
        yield f"  {counted(count, 'connection')} refused: {reason}"
    yield f"  there: {_there(peer['other'])}"
    if not peer["compared"]:
        yield "  its configuration is not known"
    elif not peer["differences"]:
        yield "  services, servers and checks are the same"
    for each in peer["differences"]:
        yield f"  differs: {each['object']}: {each['text']}"


def _here(peer: Mapping[str, Any]) -> str:
    if peer["problem"]:
        return f"connections are not copied: {peer['problem']}"
    if not peer["complete"] or peer["copied"]:
        return f"{peer['copied']:,} of {max(peer['live'], peer['copied']):,} connections copied"
    age = f", {peer['age_s']:.1f} s behind" if peer["age_s"] is not None else ""
    newer = f", {peer['newer']:,} of them known better here" if peer["newer"] else ""
    return f"{_share(peer['held'], peer['records'])} of its {peer['records']:,} connections are here{newer}{age}"


def _there(other: Mapping[str, Any] | None) -> str:
    if other is None:
        return "it copies nothing from this director"
    if other["sending"]:
        return f"{other['sending']:,} of {max(other['live'], other['sending']):,} connections sent"
    if other["records"] is None:
        return "nothing is known yet"
    return f"it holds {_share(other['held'], other['records'])} of {other['records']:,} connections of this director"


def _share(held: int, records: int) -> str:
    """Return a share that is 100% only if nothing is missing."""
    return "100%" if held >= records else f"{held * 10000 // records / 100:.2f}%"
