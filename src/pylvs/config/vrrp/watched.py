"""`vrrp_script`, `track_file` and `vrrp_track_process`: what is defined to be watched."""

from __future__ import annotations

from typing import TypeVar

from pylvs.config.effective import EffectiveBlock
from pylvs.config.schema.scripts import WrittenScript
from pylvs.config.schema.tracking import TrackWeight
from pylvs.config.schema.vrrp_types import Named
from pylvs.config.script_rules import ScriptRules
from pylvs.config.vrrp.known import Symbols
from pylvs.model.vrrp import Track, TrackFile, TrackProcess, VrrpScript

T = TypeVar("T")
MOST_PROCESSES = 0xFFFFFFFF


def name_of(block: EffectiveBlock) -> Named:
    """The name behind the keyword."""
    assert isinstance(block.head, Named)
    return block.head


def define_script(block: EffectiveBlock, scripts: ScriptRules, known: Symbols) -> None:
    """One more vrrp_script; it is not there if its program cannot run."""
    name = name_of(block)
    written = block.maybe("script", WrittenScript)
    if written is None:
        known.unusable.add(name.name)
        known.findings.error(block.word.place, f"vrrp_script {name.name} has no script", "add script COMMAND")
        return
    user, group = block.maybe("user", tuple) or ("", "")
    program = scripts.usable(written, user, group)
    if program is None:
        known.unusable.add(name.name)
        text = f"vrrp_script {name.name} watches nothing, for its program cannot run"
        known.findings.error(name.word.place, text, "see its script")
        return
    _define(
        known,
        known.scripts,
        name,
        VrrpScript(
            name=name.name,
            script=program,
            interval_s=block.get("interval", int),
            timeout_s=block.get("timeout", int),
            track=_track(name, block.effective("weight").value),
            rise=block.get("rise", int),
            fall=block.get("fall", int),
            ill_at_start=block.get("init_fail", bool),
        ),
    )


def define_file(block: EffectiveBlock, known: Symbols) -> None:
    """One more track_file."""
    name = name_of(block)
    path = block.maybe("file", str)
    if path is None:
        known.findings.error(block.word.place, f"track_file {name.name} has no file", "add file PATH")
        return
    initial = block.maybe("init_file", tuple)
    number, overwrite = initial or (None, False)
    track = _track(name, block.effective("weight").value)
    found = TrackFile(name=name.name, path=path, track=track, initial=number, overwrite=overwrite)
    _define(known, known.files, name, found)


def define_process(block: EffectiveBlock, known: Symbols) -> None:
    """One more vrrp_track_process."""
    name = name_of(block)
    command = block.maybe("process", tuple)
    if command is None:
        known.findings.error(block.word.place, f"vrrp_track_process {name.name} has no process", "add process NAME")
        return
    least, most = block.get("quorum", int), block.maybe("quorum_max", int)
    if most == 0 and not block.is_written("quorum"):
        least = 0
        block.adjust("quorum", None, "none may run")
    if most is not None and most < least:
        text = f"quorum_max {most} is less than quorum {least} and is ignored"
        known.findings.error(block.place("quorum_max"), text, "raise it, or remove it")
        most = None
    match = block.maybe("param_match", str)
    delays = {"fork_delay": 0.0, "terminate_delay": 0.0}
    for setting in block.section.settings:  # `delay` means both, and the last one counts
        if setting.keyword is not None and isinstance(setting.value, float):
            delays |= dict.fromkeys(
                delays if setting.keyword.name == "delay" else (setting.keyword.name,), setting.value
            )
    if block.is_written("delay"):
        block.adjust("delay", None, "fork_delay and terminate_delay say it")
        for each, seconds in delays.items():
            block.adjust(each, seconds, "the last one in the text")
    found = TrackProcess(
        name=name.name,
        command=command,
        match_arguments=len(command) > 1 or match is not None,
        arguments_begin=match == "initial",
        arguments_partly=match == "partial",
        full_command=block.get("full_command", bool) or len(command) > 1,
        track=_track(name, block.effective("weight").value),
        least=least,
        most=MOST_PROCESSES if most is None else most,
        fork_delay_s=delays["fork_delay"],
        terminate_delay_s=delays["terminate_delay"],
    )
    _define(known, known.processes, name, found)


def _track(name: Named, weight: object) -> Track:
    """How it counts; a default is a plain number."""
    if isinstance(weight, TrackWeight):
        return Track(name.name, weight.value or 0, bool(weight.reverse))
    assert isinstance(weight, int)
    return Track(name.name, weight)


def _define(known: Symbols, among: dict[str, T], name: Named, found: T) -> None:
    """Under its name, once: the first one counts."""
    if name.name in among:
        text = f"the name '{name.name}' is taken; this one does not count"
        known.findings.error(name.word.place, text, "give it another name")
    else:
        among[name.name] = found
