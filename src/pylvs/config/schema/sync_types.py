"""The arguments of lvs_sync_daemon, by keepalived's rules: a wrong option is ignored, and the others count."""

from __future__ import annotations

from collections.abc import Callable

from pylvs.config.language.tree import Word
from pylvs.config.schema.grammar import BadValue, Type, Words
from pylvs.config.schema.types import number_within
from pylvs.config.schema.vrrp_types import multicast
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.sync.daemons import LONGEST_MESSAGE

LONGEST_INTERFACE = 15
_RANGES = {"id": (0, 255), "maxlen": (1, LONGEST_MESSAGE), "port": (1, 65535), "ttl": (1, 255)}
_GROUP, _INSTANCE = "group", "inst"
OPTIONS = (*_RANGES, _GROUP)
_MULTICAST = multicast()


@dataclass(frozen=True, slots=True)
class SyncLine:
    """What the keyword says; `numbers` are by the names of options."""

    interface: Word
    instance: Word | None = None
    numbers: dict[str, int] = field(default_factory=dict)
    group: Address | None = None


def _sync_daemon(words: Words) -> SyncLine:
    interface = words.take("an interface")
    if len(interface.text) > LONGEST_INTERFACE:
        raise BadValue(f"the name of an interface has at most {LONGEST_INTERFACE} letters", "", interface)
    instance = _instance(words)
    numbers: dict[str, int] = {}
    first = words.peek()
    if first is not None and first.text.isdigit():
        words.error(first, f"a syncid without a keyword: {first.text} is taken", f"write 'id {first.text}'")
        words.take("")
        _ignore_wrong(words, first, lambda: numbers.update(id=number_within(first, *_RANGES["id"], "id")))
    group: list[Address] = []
    for word in words.rest():
        if word.text not in OPTIONS:
            words.error(word, f"lvs_sync_daemon has no option '{word.text}'; it is ignored", ", ".join(OPTIONS))
        elif not words:
            words.error(word, f"{word.text} lacks a value; it is ignored", f"write '{word.text} VALUE'")
        else:
            _ignore_wrong(words, word, lambda word=word: _option(words, word.text, numbers, group))  # type: ignore[misc]
    return SyncLine(interface, instance, numbers, group[0] if group else None)


def _instance(words: Words) -> Word | None:
    """Take the name of a virtual router, with or without `inst`."""
    if words.take_if(_INSTANCE):
        return words.take("the name of a vrrp_instance")
    word = words.peek()
    return None if word is None or word.text in OPTIONS else words.take("")


def _option(words: Words, name: str, numbers: dict[str, int], group: list[Address]) -> None:
    if name == _GROUP:
        group[:] = [_MULTICAST.parse(words)]
    else:
        numbers[name] = number_within(words.take("a number"), *_RANGES[name], name)


def _ignore_wrong(words: Words, word: Word, parse: Callable[[], None]) -> None:
    try:
        parse()
    except BadValue as problem:
        words.error(problem.word or word, f"{problem.text}; {word.text} is ignored", problem.advice)


SYNC_DAEMON = Type(
    "INTERFACE [[inst] VRRP_INSTANCE] [id ID] [maxlen BYTES] [port PORT] [ttl TTL] [group ADDRESS]", _sync_daemon
)
