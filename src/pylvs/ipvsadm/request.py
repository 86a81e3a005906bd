"""What one command line asks for."""

from __future__ import annotations

from pylvs.ipvsadm.messages import Complaint
from pylvs.ipvsadm.options import Command
from pylvs.model import sockets as socket
from pylvs.model.addresses import ANY_V4, Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.destination import Destination, DestinationKey, Method, Tunnel, TunnelFlag, TunnelKind
from pylvs.model.scheduler import DEFAULT_SCHEDULER
from pylvs.model.service import NETMASK_V4_ALL, NETMASK_V6_ALL, Protocol, ServiceFlag, ServiceKey, VirtualService

NO_TUNNEL = Tunnel()
WHOLE_ADDRESS = -1  # the netmask where none is given


@dataclass(slots=True)
class Request:
    """A command with its options; while words are read, what has been read so far."""

    command: Command
    given: set[str] = field(default_factory=set)

    protocol: int = 0
    address: Address = ANY_V4
    port: int = 0
    mark: int = 0
    family: int = socket.AF_INET
    scheduler: str = ""
    flags: ServiceFlag = ServiceFlag(0)
    flag_words: str = ""  # of -b, read when the scheduler is known
    timeout_s: int = 0
    netmask: int = WHOLE_ADDRESS
    engine: str = ""

    server: Address = ANY_V4
    server_port: int = 0
    method: Method = Method.ROUTE
    weight: int = 1
    upper: int = 0
    lower: int = 0
    tunnel_kind: TunnelKind = TunnelKind.IPIP
    tunnel_port: int = 0
    tunnel_flags: TunnelFlag = TunnelFlag(0)

    timeouts_s: tuple[int, ...] = ()  # of --set; 0 keeps what there is
    interface: str = ""  # of a synchronisation daemon

    def service_key(self) -> ServiceKey:
        """The service that the command is about."""
        if self.mark:
            return ServiceKey.of_mark(self.mark, self.family)
        return ServiceKey(Protocol(self.protocol), self.address, self.port)

    def service(self) -> VirtualService:
        """The service as it shall be."""
        whole = NETMASK_V4_ALL if self.family == socket.AF_INET else NETMASK_V6_ALL
        return VirtualService(
            self.service_key(),
            self.scheduler or DEFAULT_SCHEDULER,
            self.flags,
            self.timeout_s,
            WHOLE_ADDRESS if self.netmask == whole else self.netmask,
            self.engine,
        )

    def destination_key(self) -> DestinationKey:
        """The destination that the command is about."""
        return DestinationKey(self.server, self.server_port)

    def destination(self) -> Destination:
        """The destination as it shall be."""
        tunnel = NO_TUNNEL
        if self.method is Method.TUNNEL:
            tunnel = Tunnel(self.tunnel_kind, self.tunnel_port, self.tunnel_flags)
        return Destination(self.destination_key(), self.method, self.weight, self.upper, self.lower, tunnel)


# --- flags -----------------------------------------------------------------------------------------------------------
# The scheduler's flags of a service, as `-b` takes them and listings show them.


GENERIC_FLAGS = {"flag-1": ServiceFlag.SCHED_1, "flag-2": ServiceFlag.SCHED_2, "flag-3": ServiceFlag.SCHED_3}
SCHEDULER_FLAGS = {
    "sh": {"sh-fallback": ServiceFlag.SCHED_1, "sh-port": ServiceFlag.SCHED_2},
    "mh": {"mh-fallback": ServiceFlag.SCHED_1, "mh-port": ServiceFlag.SCHED_2},
}
ANY_FLAG = ServiceFlag.SCHED_1 | ServiceFlag.SCHED_2 | ServiceFlag.SCHED_3


def read_flags(words: str, scheduler: str) -> ServiceFlag:
    """The flags of a comma-separated list; raises Complaint. Empty parts are skipped."""
    flags = ServiceFlag(0)
    for word in filter(None, words.split(",")):
        own = SCHEDULER_FLAGS.get(scheduler, {})
        if word in own:
            flags |= own[word]
        elif word in GENERIC_FLAGS:
            flags |= GENERIC_FLAGS[word]
        elif any(word in others for others in SCHEDULER_FLAGS.values()):
            raise Complaint(f"incompatible scheduler flag `{word}'")
        else:
            raise Complaint(f"invalid scheduler flag `{word}'")
    return flags


def flag_words(service: VirtualService) -> str | None:
    """The flags of a service by their names, "" if none of them has one; None if it has no flags."""
    if not service.flags & ANY_FLAG:
        return None
    known = SCHEDULER_FLAGS.get(service.scheduler, GENERIC_FLAGS)
    return ",".join(word for word, flag in known.items() if flag & service.flags)
