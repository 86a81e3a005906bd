"""The three timeouts that `ipvsadm --set` changes (IPVS-SEMANTICS 4.4)."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass

LONGEST_S = 2678400  # ipvsadm's limit: 31 days


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds a connection may be silent: established TCP, TCP after a FIN, UDP."""

    tcp_s: int = 900
    tcp_fin_s: int = 120
    udp_s: int = 300
