"""Persistence by Call-ID: messages, calls, timers, servers that begin a call, marks, fragments."""

from families.sip import calls, changes, headers, in_fragments, lifetime, marked, other_services, servers_first
from families.sip import two_services
from frames import Facts
from plan import plan
from wire import Wire


def run(wire: Wire) -> list[Facts]:
    here, found = plan(9), list[Facts]()
    found += headers(wire, here)
    found += servers_first(wire, here)
    found += servers_first(wire, here, options="-p 90", port=5080)
    found += calls(wire, here)
    found += calls(wire, here, method="nat", scheduler="wlc", options="-o", mask="-M 255.255.0.0")
    found += changes(wire, here)
    found += changes(wire, here, family=6, method="tun", expire=1)
    found += lifetime(wire, here)
    found += marked(wire, here)
    found += marked(wire, here, family=6, method="nat", options="-o -p 90")
    found += other_services(wire, here)
    found += two_services(wire, here)
    found += in_fragments(wire, here)
    found += headers(wire, here, family=6, every=4)
    found += servers_first(wire, here, family=6)
    found += servers_first(wire, here, method="dr")
    found += calls(wire, here, family=6, method="tun", scheduler="sh", mask="-M 112")
    found += lifetime(wire, here, family=6)
    found += other_services(wire, here, family=6)
    return found + in_fragments(wire, here, family=6)
