"""NAT: whether a real server replies through this host, which has to translate its replies."""

from __future__ import annotations

from pylvs.doctor.finding import Finding, Layer, Severity
from pylvs.doctor.survey import Seen, subjects


def reply_path(seen: Seen) -> Finding | None:
    """Judge whether a server of NAT replies through this host: to an address that is not of its own network.

    In standby the replies go through the master, which has the servers' gateway.
    """
    if seen.is_standby:
        return None
    way, server = seen.way, seen.endpoint.server
    pairs = [("rip", "back"), ("rip_echo", "back_echo")]
    asked = [back for near, back in pairs if back in seen.replies and seen.answered(near)]
    replies = [reply for back in asked for reply in seen.replies[back]]
    assert way.device is not None
    macs = {each.mac for each in seen.macs}
    if not asked or any(each.ifindex == way.device.index and (not macs or each.mac in macs) for each in replies):
        return None
    how = f"its reply comes by {replies[0].mac.hex(':')} instead" if replies else "no reply comes"
    gateway = way.source
    family = "" if server.version == 4 else "-6 "
    return Finding(
        id="nat_reply_path",
        severity=Severity.ERROR,
        layer=Layer.REPLY,
        title=f"{server} does not reply through this director",
        evidence=f"{server} answers {way.source}, of its own network; asked from {way.outside}, {how}",
        why="The reply has to come back here, where the address of the real server becomes the virtual one again.",
        fix=f"Let the default route of {server} lead to {gateway}.",
        fix_command=f"ip {family}route replace default via {gateway}",
        fix_host=str(server),
        about=subjects([seen]),
    )
