"""`python -m pylvs.doctor SECONDS VIP...`: the findings of this host with all their fields, for the doctor of a lab."""

from __future__ import annotations

import json
import sys
from ipaddress import ip_address

from pylvs.doctor.examination import examine
from pylvs.doctor.facts import Facts

if __name__ == "__main__":
    limit, *vips = sys.argv[1:]
    found = examine(Facts(list(map(ip_address, vips))), limit_s=float(limit))
    json.dump([finding.as_dict() for finding in found], sys.stdout)
