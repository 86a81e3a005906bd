"""Read connections as IPVS's sync protocol describes them, to give them to another data plane."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import NamedTuple

from pylvs.bpf import abi
from pylvs.dataplane import load
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
    """Reads entry by entry, as listings do."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self._retired = abi.constant("TUPLE_RETIRED")
        self._seen_reply = abi.constant("WORD_SEEN_REPLY")
        self._ticks = load.ticks_per_second()

    def synced(self) -> Iterator[SyncedConnection]:
        """Yield all connections and templates, but those of deleted servers, and templates that are not used."""
        servers = dict[tuple[int, int], _Server]()
        for entry in self._entries():
            slot, word, server, port, method, flags, version, client, sport, virtual, dport, protocol, kind = entry
            if kind == self._retired:
                continue
            engine = data = ""
            if flags & self._is_call:
                call = self._call(slot)
                if call is None:
                    continue  # it has just ended
                (client, virtual, version, data), engine = call, SIP
            if (server, version) not in servers:
                servers[server, version] = self._server_in(server, method, version)
            to = servers[server, version]
            if to.is_deleted:
                continue
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
