"""`vrrp_sync_group`: which virtual routers change state together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pylvs.config.effective import EffectiveBlock
from pylvs.config.schema.tracking import WrittenTrack
from pylvs.config.script_rules import ScriptRules
from pylvs.config.tree import Word
from pylvs.config.vrrp.instances import CompiledInstance, notify_of
from pylvs.config.vrrp.known import Symbols
from pylvs.config.vrrp.tracks import DEFINITION_KEYWORDS, tracks_of, unweighted, unweighted_data_plane
from pylvs.config.vrrp.watched import name_of
from pylvs.model.vrrp import VrrpGroup

GroupOfInstance = dict[str, str]  # of each instance the group that has it


def group_of(
    block: EffectiveBlock,
    made: dict[str, CompiledInstance],
    taken: GroupOfInstance,
    known: Symbols,
    scripts: ScriptRules,
) -> VrrpGroup | None:
    """The group; None if nobody is in it, which is a finding then."""
    name = name_of(block).name
    members = tuple(_members(block, name, made, taken, known))
    if not members:
        text = f"group {name} has no virtual router; it is left out"
        known.findings.error(block.word.place, text, f"add group {{ {_bare_names(block, made) or 'NAME ...'} }}")
        return None
    if len(members) == 1:
        text = f"group {name} has only one virtual router, {members[0]}"
        known.findings.warning(block.word.place, text, "add the others, or remove the group")
    tracks = tracks_of(block, known)
    weights = block.get("sync_group_tracking_weight", bool)
    for member in members:
        _shared(made[member], tracked_names(block), known)
        if not weights:
            made[member] = _without_weights(made[member], name, known)
    return VrrpGroup(
        name=name, members=members, tracks=tracks, notify=notify_of(block, scripts), member_weights=weights
    )


def _members(
    block: EffectiveBlock, name: str, made: dict[str, CompiledInstance], taken: GroupOfInstance, known: Symbols
) -> Iterator[str]:
    for inner in block.below("group"):
        for line in inner.section.lines(tuple):
            for word in line:
                assert isinstance(word, Word)
                if word.text not in made:
                    text = f"group {name}: there is no virtual router '{word.text}'"
                    known.findings.error(word.place, text, "define a vrrp_instance of this name, or remove it")
                elif word.text in taken:
                    text = f"{word.text} is in group {taken[word.text]} already; it does not count here"
                    known.findings.error(word.place, text, "a virtual router can be in one group")
                else:
                    taken[word.text] = name
                    yield word.text


def _bare_names(block: EffectiveBlock, made: dict[str, CompiledInstance]) -> str:
    """Names of virtual routers that stand in the block itself, where group { } is missing around them."""
    nodes = block.section.node.block or () if block.section.node else ()
    return " ".join(node.keyword for node in nodes if node.keyword in made)


def tracked_names(block: EffectiveBlock) -> set[tuple[str, str]]:
    """Kind and name of everything that a block watches."""
    return {
        (inner.block.name, line.name)
        for inner in block.below("track_interface", *DEFINITION_KEYWORDS)
        for line in inner.section.lines(WrittenTrack)
    }


def _shared(member: CompiledInstance, watched: set[tuple[str, str]], known: Symbols) -> None:
    """A finding for what a member watches as well as its group."""
    for kind, name in sorted(tracked_names(member.block) & watched):
        text = f"{name} in {kind} is watched by its group too"
        known.findings.warning(member.block.word.place, text, "remove it from the virtual router")


def _without_weights(member: CompiledInstance, group: str, known: Symbols) -> CompiledInstance:
    """Members of a group have one priority for all: weights belong to the group."""
    instance = member.instance
    why = f"{instance.name} is in group {group}"
    tracks = unweighted(instance.tracks, member.block, known, why, keep_interfaces=True)
    data_plane = unweighted_data_plane(instance.track_data_plane, member.block, known, why)
    return replace(member, instance=replace(instance, tracks=tracks, track_data_plane=data_plane))
