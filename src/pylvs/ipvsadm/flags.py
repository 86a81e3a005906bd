"""The scheduler's flags of a service, as `-b` takes them and listings show them."""

from __future__ import annotations

from pylvs.ipvsadm.complaints import Complaint
from pylvs.model.service import ServiceFlag, VirtualService

PLAIN = {"flag-1": ServiceFlag.SCHED_1, "flag-2": ServiceFlag.SCHED_2, "flag-3": ServiceFlag.SCHED_3}
OF_SCHEDULER = {
    "sh": {"sh-fallback": ServiceFlag.SCHED_1, "sh-port": ServiceFlag.SCHED_2},
    "mh": {"mh-fallback": ServiceFlag.SCHED_1, "mh-port": ServiceFlag.SCHED_2},
}
ANY_FLAG = ServiceFlag.SCHED_1 | ServiceFlag.SCHED_2 | ServiceFlag.SCHED_3


def read_flags(words: str, scheduler: str) -> ServiceFlag:
    """The flags of a comma-separated list; raises Complaint. Empty parts are skipped."""
    flags = ServiceFlag(0)
    for word in filter(None, words.split(",")):
        own = OF_SCHEDULER.get(scheduler, {})
        if word in own:
            flags |= own[word]
        elif word in PLAIN:
            flags |= PLAIN[word]
        elif any(word in others for others in OF_SCHEDULER.values()):
            raise Complaint(f"incompatible scheduler flag `{word}'")
        else:
            raise Complaint(f"invalid scheduler flag `{word}'")
    return flags


def flag_words(service: VirtualService) -> str | None:
    """The flags of a service by their names, "" if none of them has one; None if it has no flags."""
    if not service.flags & ANY_FLAG:
        return None
    known = OF_SCHEDULER.get(service.scheduler, PLAIN)
    return ",".join(word for word, flag in known.items() if flag & service.flags)
