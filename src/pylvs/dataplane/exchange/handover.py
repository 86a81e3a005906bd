"""Read connections as IPVS's sync protocol describes them, to give them to another data plane."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import NamedTuple

from pylvs.bpf import abi
from pylvs.dataplane import load
from pylvs.dataplane.exchange.insertion import is_about_right, ticks_between
from pylvs.dataplane.exchange.used_pages import UsedPageReader
from pylvs.dataplane.tables import ADDRESS_BYTES, Tables, address_of
from pylvs.model.addresses import Address
from pylvs.model.director import SCTP_STATES, TCP_STATES
from pylvs.model.service import SIP, Method, Protocol
from pylvs.model.sync.connection import SyncedConnection, SyncFlag

_ACTIVE = {
    Protocol.TCP: ("ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK"),
    Protocol.SCTP: ("ESTABLISHED",),
}
LASTING_S = 60.0
_PART = 512  # bytes of a page that are compared at once: most pages have few entries
_UNUSED = bytes(_PART)
_CLOCK_PAGES = 256  # that are read with one reading of the clock
_NUMBERS = {
    (int(protocol), name): number
    for protocol, names in ((Protocol.TCP, TCP_STATES), (Protocol.SCTP, SCTP_STATES))
    for number, name in enumerate(names)
}


class _Server(NamedTuple):
    address: Address
    mark: int
    is_deleted: bool


class HandoverReader(UsedPageReader):
    """Reads entry by entry, as listings do, and each time what has changed since.

    New connections wait for the last time, so it skips entries that are as before without decoding them.
    """

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self._given: dict[int, bytes] = {}  # by slot: the entry when it was yielded
        self._omitted: set[int] = set()  # slots of what is not given
        entry = abi.struct("conn_entry4")
        self._tuple_at, self._kind_at = entry.offset("tuple.sport"), entry.offset("tuple.kind")
        self._word_at = entry.offset("connection.word")
        self._lasting = round(LASTING_S * load.ticks_per_second())
        self._hurries = False
        self._retired = abi.constant("TUPLE_RETIRED")
        self._seen_reply = abi.constant("WORD_SEEN_REPLY")
        self._ticks = load.ticks_per_second()

    @property
    def count(self) -> int:
        """How many connections and templates the last call found, with those that had not changed."""
        return len(self._given.keys() - self._omitted)

    def changed(self, hurries: bool = False) -> Iterator[SyncedConnection]:
        """Yield connections and templates that are new, or in another state, since the last call.

        Those, too, that packets have refreshed, and that would end at the other end by a tenth of their time earlier.
        If it `hurries`, only those that would end there within LASTING_S. Left out are those of deleted servers, and
        templates that are not used.
        """
        self._hurries = hurries
        servers = dict[tuple[int, int], _Server]()
        for entry in self._entries():
            slot, word, server, port, method, flags, version, client, sport, virtual, dport, protocol, kind = entry
            if kind == self._retired:
                self._omitted.add(slot)
                continue
            engine = data = ""
            if flags & self._is_call:
                call = self._call(slot)
                if call is None:
                    self._omitted.add(slot)
                    continue  # it has just ended
                (client, virtual, version, data), engine = call, SIP
            if (server, version) not in servers:
                servers[server, version] = self._server_in(server, method, version)
            to = servers[server, version]
            if to.is_deleted:
                self._omitted.add(slot)
                continue
            self._omitted.discard(slot)
            is_template = kind != self._plain
            assured = self._assurance(slot) if is_template else 0
            state = self._state_name(protocol, kind, word, assured)
            yield SyncedConnection(
                protocol,
                client,
                socket.ntohs(sport),
                virtual,
                socket.ntohs(dport),
                to.address,
                socket.ntohs(port),
                self._flags(protocol, method, word, state, is_template),
                int(state == "ASSURED") if is_template else _NUMBERS.get((protocol, state), 0),
                self._template_timeout_s(slot) if is_template else max(self._left_s(word), 1),
                to.mark,
                engine=engine,
                data=data.encode("latin-1"),
            )

    def _blocks(self, stride: int) -> Iterator[tuple[int, bytes]]:
        """Yield the pages with what has changed; all else is free there."""
        before, self._given = self._given, {}
        for number, (first, page) in enumerate(super()._blocks(stride)):
            if number % _CLOCK_PAGES == 0:
                now = self._clock()
            if fresh := self._fresh(first, page, stride, before, now):
                yield first, fresh

    def _fresh(self, first: int, page: bytes, stride: int, before: dict[int, bytes], now: int) -> bytes:
        """Return a page without the entries that are as before; empty if all are."""
        as_before = list[slice]()
        has_fresh = False
        for index, kind in self._used(page, stride):
            at, size = index * stride, 2 * stride if kind & self._of_ipv6 else stride
            raw, slot = page[at : at + size], first + index
            if kind & ~self._of_ipv6 != self._plain:
                raw += bytes((self._assurance(slot),))
            former = before.get(slot)
            if former is not None and self._lasts(raw, former, now):
                as_before.append(slice(at, at + size))
                self._given[slot] = former
            else:
                self._given[slot], has_fresh = raw, True
        if not has_fresh:
            return b""
        left = bytearray(page)
        for each in as_before:
            left[each] = bytes(each.stop - each.start)
        return bytes(left)

    def _used(self, page: bytes, stride: int) -> Iterator[tuple[int, int]]:
        """Yield the entries of a page that are in use: their positions, with the kind of each."""
        kind_shift = 8 * (self._kind_at - self._tuple_at)
        tuple_bits = (1 << kind_shift + 8) - 1
        for start in range(0, len(page), _PART):
            part = page[start : start + _PART]
            if part == _UNUSED:
                continue
            tuples = memoryview(part).cast("Q")[self._tuple_at // 8 :: stride // 8].tolist()
            for index, rest in enumerate(tuples, start // stride):
                kind = rest >> kind_shift & 0xFF
                if rest & tuple_bits and kind not in self._no_tuple:
                    yield index, kind

    def _lasts(self, raw: bytes, former: bytes, now: int) -> bool:
        """Return whether the other end has an entry as it is here, for as long as it is needed there."""
        if raw == former:
            return True
        at = self._word_at  # the tick of expiry, which packets move; then the state
        if raw[:at] != former[:at] or raw[at + 4 :] != former[at + 4 :]:
            return False
        before, after = (int.from_bytes(each[at : at + 4], "little") for each in (former, raw))
        left = ticks_between(now, before)
        if self._hurries and left >= self._lasting:
            return True
        return is_about_right(ticks_between(before, after), left, self._ticks)

    def _flags(self, protocol: int, method: int, word: int, state: str, is_template: bool) -> int:
        flags = SyncFlag(0) if is_template else SyncFlag(method)
        if is_template:
            flags |= SyncFlag.TEMPLATE | SyncFlag.INACTIVE
        elif state not in _ACTIVE.get(Protocol(protocol), ()):
            flags |= SyncFlag.INACTIVE
        if method != Method.MASQ and not word >> self._seen_reply & 1:
            flags |= SyncFlag.NOOUTPUT
        return int(flags)

    def _template_timeout_s(self, slot: int) -> int:
        ticks: int = self._tables.controls.get(slot, "timeout")
        return max(round(ticks / self._ticks), 1)

    def _server_in(self, slot: int, method: int, version: int) -> _Server:
        if method == self._bypass:
            return _Server(address_of(bytes(ADDRESS_BYTES), version), 0, False)
        table = self._destinations
        address = address_of(table.get(slot, "address"), table.get(slot, "family") or version)
        return _Server(address, table.get(slot, "mark"), bool(table.get(slot, "deleted_s")))
