"""Services of firewall marks: precedence over addresses, schedulers, thresholds, persistence, one-packet, other ports."""

from families.marks import options, precedence
from frames import Facts
from plan import plan
from wire import Wire


def run(wire: Wire) -> list[Facts]:
    here, found = plan(9), list[Facts]()
    for family, method in (4, "dr"), (4, "nat"), (6, "tun"):
        found += precedence(wire, here, family=family, method=method)
    for family, method in (4, "nat"), (6, "dr"):
        found += options(wire, here, family=family, method=method)
        found += options(wire, here, family=family, method=method, flags="-p 60")
        found += options(wire, here, family=family, method=method, flags="-o", mark=9)
    found += options(wire, here, method="nat", real_port=8080)
    found += options(wire, here, method="nat", real_port=8080, flags="-p 60", mark=300)
    found += options(wire, here, scheduler="sh", flags="-b sh-port")
    found += options(wire, here, scheduler="mh", flags="-b mh-port,mh-fallback")
    found += options(wire, here, scheduler="wrr", upper=4)
    found += options(wire, here, scheduler="wlc", flags="-p 60 -M 255.255.255.0", upper=5)
    return found
