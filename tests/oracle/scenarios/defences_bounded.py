"""drop_packet, drop_entry, run_estimation and sloppy_tcp once each: what of `defences` asks no tunnel device."""

from families.defences import dropping, frozen, sloppy, thinning
from frames import Facts
from plan import plan
from wire import Wire


def run(wire: Wire) -> list[Facts]:
    here = plan(9)
    found = dropping(wire, here, rate=3) + thinning(wire, here) + frozen(wire, here)
    found += sloppy(wire, here, options="-p 60") + sloppy(wire, here, method="nat", each="-x 3")
    return found
